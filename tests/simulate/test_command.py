"""``tangram simulate`` as it is typed."""

import json

import pytest
from click.testing import CliRunner

from tangram.cli.main import tangram
from tangram.errors import TangramError

POLICY = """
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: scheduling.example.com/v1
kind: HybridPolicy
metadata: {name: p}
spec:
  placement: {plugins: [{name: PLUGIN, weight: 2}]}
"""


def simulate(*arguments):
    """(exit code, output, what is said of an error); ``main`` turns raised errors into one line and exit code 1."""
    result = CliRunner().invoke(tangram, ["simulate", *map(str, arguments)])
    if isinstance(result.exception, TangramError):
        return 1, result.output, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trace(tmp_path):
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"n{i},96000,1048576,8,A100\n" for i in range(2)))
    pods.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1000,1024,1,500\nq,1000,1024,1,1000\n")
    return ["--nodes", nodes, "--pods", pods]


def test_json_is_exactly_what_the_manual_says(trace):
    code, output, _ = simulate(*trace, "-o", "json", "--seeds", "42,43")
    answer = json.loads(output)
    assert code == 0
    assert list(answer) == ["runs", "mean_gpu_allocation_percent"]
    assert [run["seed"] for run in answer["runs"]] == [42, 43]
    for run in answer["runs"]:
        assert list(run) == [
            "seed", "gpu_allocation_percent", "pods", "unschedulable", "seconds", "decisions_per_second",
        ]  # fmt: skip
    mean = sum(run["gpu_allocation_percent"] for run in answer["runs"]) / 2
    assert answer["mean_gpu_allocation_percent"] == pytest.approx(mean, abs=1e-3)


def test_the_table_has_a_row_for_each_seed_and_the_mean(trace):
    code, output, _ = simulate(*trace, "--seeds", "1,2", "--load", "0.5")
    rows = [line.split() for line in output.splitlines() if line.strip()]
    assert code == 0
    assert [row[0] for row in rows[2:]] == ["1", "2", "mean"]
    assert "\x1b" not in output


def test_a_workload_is_generated_where_there_is_no_trace():
    code, output, _ = simulate("--pool", "4x8xA100,1xCPU", "--jobs", "60", "-o", "json")
    assert code == 0
    assert json.loads(output)["runs"][0]["pods"] >= 60
    code, output, _ = simulate("--pool", "4x8xA100", "--load", "0.3", "-o", "json")
    assert code == 0
    assert 25 < json.loads(output)["mean_gpu_allocation_percent"] < 60


def test_a_policy_is_found_among_other_documents(trace, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("PLUGIN", "spread"))
    assert simulate(*trace, "--policy", file)[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace("PLUGIN", "magic"), "plugin 'magic' is unknown; known: "),
        (POLICY.split("---")[0], "kind: 'Namespace' is not allowed; allowed: HybridPolicy"),
        ("", "kind: '' is not allowed; allowed: HybridPolicy"),
        ("a: [", "YAML"),
        (POLICY.replace("PLUGIN", "spread").replace("weight: 2", "weight: -2"), "weight"),
    ],
)
def test_a_wrong_policy_is_refused_before_anything_is_placed(trace, tmp_path, text, said):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    code, output, error = simulate(*trace, "--policy", file)
    assert (code, output) == (1, "")
    assert said in error


def test_a_broken_row_stops_everything(trace):
    pods = trace[3]
    pods.write_text(pods.read_text() + "r,1000,1024,1,-5\n")
    code, output, error = simulate(*trace)
    assert (code, output) == (1, "")
    assert error == f"{pods}:4: column gpu_milli: '-5' is not allowed; allowed: a whole number from 0 to 1000"


def test_a_missing_file_is_one_line_and_exit_code_2(trace, tmp_path):
    code, output, error = simulate("--nodes", tmp_path / "none.csv", "--pods", trace[3])
    assert (code, output) == (2, "")
    assert error == f"error: {tmp_path / 'none.csv'}: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--pool", "1x1xA100", "--nodes", "x"],
        ["--nodes", "x"],
        ["--pool", "1x1xA100", "--jobs", "5", "--load", "1"],
        ["--pool", "1x1xA100", "--pods", "x", "--jobs", "5"],
        ["--pool", "1x1xA100", "--load", "nan"],
        ["--pool", "1x1xA100", "--load", "0"],
        ["--pool", "1x1xA100", "--load", "-1"],
        ["--pool", "1x1xA100", "--jobs", "0"],
        ["--pool", "1x1xA100", "--seeds", ""],
        ["--pool", "1x1xA100", "--seeds", "1,,2"],
        ["--pool", "1x1xA100", "--seeds", "-1"],
        ["--pool", "1x1xA100", "--arrivals-per-cycle", "0"],
    ],
)
def test_options_that_make_no_sense_together_are_refused(arguments):
    code, output, error = simulate(*arguments)
    assert (code, output) == (2, "")
    assert "Usage:" in error


@pytest.mark.parametrize("pool", ["", "8x8xNothing", "0x8xA100", "x", "2xCPU"])
def test_a_pool_without_gpus_or_of_unknown_shape_is_refused(pool):
    code, _, error = simulate("--pool", pool, "--load", "1")
    assert code == 1
    assert "allowed" in error
