"""The upper bound: exact where nothing has to be relaxed, never below what the scheduler reaches."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples

from tangram.cli.main import tangram
from tangram.errors import InvalidInput, PluginError
from tangram.simulate.bound import allocation_bound, common_shares, maximal_patterns, share_of, solver_is_there
from tangram.simulate.quality import PUBLISHED, TARGET, lists_in, measure_all, only, table, tasks
from tangram.simulate.replay import replay
from tangram.simulate.trace import TraceNode, TracePod
from tangram.simulate.workload import traced_jobs, traced_nodes

needs_solver = pytest.mark.skipif(
    not solver_is_there(), reason="the solver is not installed: pip install highspy, or run make quality once"
)
NODE = TraceNode("n", 64_000, 262_144, 8, "A100")


def percent(nodes, pods):
    return allocation_bound(nodes, pods).gpu_allocation_percent


def part(milli, cpu=0, models=""):
    return TracePod(cpu, 0, 1, milli, models)


def whole(gpus, cpu=0, models=""):
    return TracePod(cpu, 0, gpus, 1000, models)


@needs_solver
@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([whole(8)], 100.0),
        ([whole(4)], 50.0),
        ([whole(8)] * 5, 100.0),
        ([whole(16)], 0.0),
        ([part(600)] * 8, 60.0),
        ([part(600)] * 20, 60.0),
        ([part(600)] * 8 + [part(400)] * 4, 80.0),
        ([whole(8, cpu=32_000)], 100.0),
        ([whole(1, cpu=64_000)] * 8, 12.5),
        ([whole(8, models="T4")], 0.0),
        ([whole(4, models="T4|A100")], 50.0),
        ([TracePod(1, 262_145, 1, 1000, "")], 0.0),
        ([TracePod(64_000, 0, 0, 0, "")], 0.0),
        ([], 0.0),
    ],
)
def test_small_pools_have_the_bound_that_one_sees(pods, expected):
    assert percent([NODE], pods) == pytest.approx(expected, abs=1e-6)


@needs_solver
def test_nodes_of_one_type_are_one_big_node():
    """The documented relaxation: no node has 96 cores, two together do."""
    pods = [whole(1, cpu=48_000)] * 4
    assert percent([NODE], pods) == pytest.approx(100 / 8 * 64 / 48, abs=1e-6)
    assert percent([NODE, NODE], pods) == pytest.approx(100 / 16 * 128 / 48, abs=1e-6)


def test_a_pool_without_gpus_has_no_bound():
    with pytest.raises(InvalidInput, match="no GPUs"):
        allocation_bound([TraceNode("n", 1, 1, 0, "")], [])


def test_patterns_leave_no_room_for_another_share():
    patterns = maximal_patterns([500, 300, 200])
    assert {500: 1, 300: 1, 200: 1} in patterns
    assert {500: 2} in patterns
    assert all(0 <= 1000 - sum(share * count for share, count in one.items()) < 200 for one in patterns)
    assert len({tuple(sorted(one.items())) for one in patterns}) == len(patterns)
    assert maximal_patterns([]) == []
    assert maximal_patterns([810]) == [{810: 1}]


def test_rare_shares_take_the_room_of_the_next_smaller_common_one():
    pods = {part(500): 1000, part(300): 500, part(450): 3, part(10): 1, whole(1): 9}
    assert common_shares(pods) == {500: 500, 300: 300, 450: 300, 10: 0}


@needs_solver
def test_rare_shares_do_not_hold_more_than_there_is():
    pods = [part(500)] * 2000 + [part(510)] * 20
    assert common_shares({part(500): 2000, part(510): 20})[510] == 500
    assert percent([NODE], pods) == pytest.approx(100.0, abs=1e-6)


def test_shares_are_rounded_as_the_scheduler_rounds_them():
    assert [share_of(part(milli)) for milli in (1, 455, 460, 1000)] == [10, 460, 460, 0]
    assert share_of(whole(2)) == 0


PODS = st.lists(
    st.one_of(
        st.builds(part, st.sampled_from([100, 250, 300, 500, 810]), st.sampled_from([0, 4000, 12_000])),
        st.builds(whole, st.sampled_from([1, 2, 4]), st.sampled_from([0, 8000, 30_000]), st.sampled_from(["", "T4"])),
        st.just(TracePod(16_000, 4096, 0, 0, "")),
    ),
    max_size=25,
)


@needs_solver
@settings(max_examples=examples(15), deadline=None)
@given(pods=PODS)
def test_no_replay_exceeds_the_bound(pods):
    nodes = [NODE, TraceNode("m", 32_000, 131_072, 4, "T4"), TraceNode("k", 32_000, 131_072, 2, "T4")]
    run = replay(traced_nodes(nodes), traced_jobs(pods), 1)
    assert run.gpu_allocation_percent <= percent(nodes, pods) + 1e-6


# The table that is made of it


@pytest.fixture
def traces(tmp_path):
    """Two small lists in a folder like the published one."""
    rows = "".join(f"n{index},96000,1048576,8,A100\n" for index in range(3))
    (tmp_path / "openb_node_list_gpu_node.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\n" + rows)
    for name, pods in {"default": "p,4000,1024,1,500\n", "other": "p,8000,1024,1,810\nq,4000,1024,2,1000\n"}.items():
        (tmp_path / f"openb_pod_list_{name}.csv").write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\n" + pods)
    return tmp_path


def quality(*arguments):
    result = CliRunner().invoke(tangram, ["quality", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_published_lists_come_first_and_others_are_found(traces):
    assert lists_in(traces) == ("default", "other")
    assert lists_in(traces / "absent") == ()


def test_every_target_and_figure_belongs_to_a_published_list_and_a_policy_that_exists():
    for load, lists in PUBLISHED.items():
        assert set(TARGET.get(load, {})) <= set(lists)
        for figures in lists.values():
            assert all(0 < value < 100 for value in figures.values())
            for policy in figures:
                assert only(policy).spec.placement.plugins[-1].name == policy


def test_a_line_for_each_list_and_policy_with_its_figures(traces):
    bound = [""] if solver_is_there() else []
    work = tasks(traces, ["default", "other"], ["bid-price", "random", *bound], [1, 2], 1.0)
    rows = table(list(measure_all(work, 1)))
    assert [(row.list, row.policy) for row in rows] == [
        ("default", "bid-price"), ("default", "random"), ("other", "bid-price"), ("other", "random"),
    ]  # fmt: skip
    first = rows[0]
    assert (first.mean, first.worst, first.percent) == (100.0, 100.0, (100.0, 100.0))
    assert (first.published, first.target) == (None, TARGET[1.0]["default"])
    assert (rows[1].published, rows[1].target) == (PUBLISHED[1.0]["default"]["random"], None)
    assert rows[2].published is None
    if solver_is_there():
        assert all(row.bound is not None and row.mean <= row.bound + 1e-6 for row in rows)


def test_unknown_lists_and_policies_are_refused_before_anything_is_replayed(traces):
    with pytest.raises(InvalidInput, match="'gone' is not allowed; allowed: default, other"):
        tasks(traces, ["gone"], ["bid-price"], [1], 1.0)
    with pytest.raises(PluginError, match=r"'guess' is unknown; known: .*best-fit"):
        tasks(traces, ["default"], ["guess"], [1], 1.0)


def test_the_verb_prints_json_markdown_and_a_table(traces):
    arguments = ("--traces", traces, "--seeds", "1-2,4", "--policies", "bid-price,best-fit", "--processes", 1)
    code, output, _ = quality(*arguments, "-o", "json")
    answer = json.loads(output)
    assert (code, answer["seeds"], answer["load"]) == (0, [1, 2, 4], 1.0)
    assert [(row["list"], row["policy"], len(row["percent"])) for row in answer["rows"]] == [
        ("default", "bid-price", 3), ("default", "best-fit", 3), ("other", "bid-price", 3), ("other", "best-fit", 3),
    ]  # fmt: skip
    code, output, _ = quality(*arguments, "-o", "markdown", "--lists", "other")
    assert [line.split(" | ")[:2] for line in output.splitlines()[2:]] == [
        ["| other", "bid-price"],
        ["| other", "best-fit"],
    ]
    code, output, _ = quality(*arguments, "--lists", "other", "--load", "0.5")
    assert "load 0.5" in output
    assert "best-fit" in output


def test_without_traces_it_says_what_is_missing_and_succeeds(tmp_path):
    code, output, said = quality("--traces", tmp_path)
    assert (code, output) == (0, "")
    assert "skipped: no openb lists in" in said


@pytest.mark.parametrize("text", ["", "a", "5-1", "-1", "1-2-3", "1,,2", "1-100000"])
def test_seeds_that_are_none_are_refused(text):
    code, _, said = quality("--seeds", text)
    assert code == 2
    assert "such as 42-51" in said
