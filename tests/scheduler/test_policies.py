"""The policy in force, whatever its status says: that does not decide whether a policy can be used."""

from typing import Any

import msgspec
import pytest

from tangram.api.common import Amounts
from tangram.api.objects import Metadata
from tangram.scheduler.policies import PolicyObject, PolicySource, StoredStatus


def used(status: list[dict[str, Any]]) -> dict[str, int]:
    """GPU-seconds by queue of the policy in force, which has this status."""
    source = PolicySource(lambda _policy: None)
    spec = {"queues": [{"name": "a"}, {"name": "b"}]}
    source.take("added", None, PolicyObject(Metadata("default", uid="u"), spec, StoredStatus(status)))
    source.take("synced", None, None)
    assert source.active is not None
    assert source.active.status is not None
    return {use.name: use.recent_gpu_seconds for use in source.active.status.queues}


@pytest.mark.parametrize("value", [-1, "9" * 400, "many", None, 0.5])
def test_an_entry_that_cannot_be_read_is_left_out(value: object) -> None:
    assert used([{"name": "a", "recentGPUSeconds": value}, {"name": "b", "recentGPUSeconds": 7}]) == {"b": 7}


def test_of_several_entries_of_one_name_the_first_counts() -> None:
    twice = [{"name": "a", "recentGPUSeconds": 5}, {"name": "a", "recentGPUSeconds": 6}]

    assert used([*twice, {"name": "b", "recentGPUSeconds": 7}]) == {"a": 5, "b": 7}


def test_entries_beyond_the_most_are_left_out() -> None:
    assert len(used([{"name": f"q{index}"} for index in range(300)])) == 256


GOOD = {"queues": [{"name": "a", "limit": {"gpu": "2"}}]}
BAD = {"queues": [{"name": "a", "limit": {"gpu": "2"}}, {"name": "b"}], "placement": {"strategy": "by-moonlight"}}


class Watched:
    """A source, and the policies that it has put in force."""

    def __init__(self) -> None:
        self.used: list[list[str]] = []
        self.source = PolicySource(
            lambda policy: self.used.append([q.name for q in policy.spec.queues] if policy else [])
        )
        self.source.take("synced", None, None)

    def show(self, generation: int, spec: dict[str, Any], name: str = "default", uid: str = "u") -> bool:
        return self.source.take("added", None, PolicyObject(Metadata(name, uid=uid, generation=generation), spec))


def test_a_policy_that_cannot_be_read_any_more_stays_in_force_as_it_was() -> None:
    watched = Watched()
    assert watched.show(1, GOOD)
    assert not watched.show(2, BAD)
    assert not watched.show(3, BAD)
    active = watched.source.active
    assert active is not None
    assert (active.metadata.generation, watched.used) == (1, [["a"]])
    assert "generation 3 cannot be read: HybridPolicy default: spec.placement.strategy" in watched.source.problem
    assert watched.source.problem.endswith("; generation 1 stays in force")
    assert watched.show(4, {"queues": [{"name": "c"}]})
    assert (watched.used, watched.source.problem) == ([["a"], ["c"]], "")


def test_what_can_be_read_counts_where_none_was_read_before() -> None:
    watched = Watched()
    assert watched.show(2, BAD)
    assert watched.used == [["a", "b", "default"]]
    assert watched.source.problem.endswith("; it is in force without spec.placement")


def test_a_queue_that_is_understood_in_part_starts_nothing() -> None:
    watched = Watched()
    watched.show(1, {"queues": [{"name": "a", "limit": {"gpu": "two"}}, {"name": "b"}]})
    assert watched.source.active is not None
    assert [(queue.name, queue.hold) for queue in watched.source.active.spec.queues] == [
        ("a", "Hold"),
        ("b", "None"),
        ("default", "None"),
    ]


def test_one_of_which_nothing_can_be_read_takes_nothing_from_others() -> None:
    watched = Watched()
    watched.show(1, GOOD, name="other", uid="o")
    watched.show(1, "text", name="default")  # type: ignore[arg-type]
    assert watched.source.active is not None
    assert (watched.source.active.metadata.name, watched.used) == ("other", [["a"]])


def test_a_policy_of_the_same_name_that_was_made_again_is_another_one() -> None:
    watched = Watched()
    watched.show(1, GOOD)
    watched.source.take("deleted", PolicyObject(Metadata("default", uid="u"), GOOD), None)
    assert watched.source.active is None
    watched.show(1, BAD, uid="v")
    assert watched.used == [["a"], [], ["a", "b", "default"]]


def test_what_the_queues_have_used_is_read_of_a_policy_that_stays_in_force_too() -> None:
    watched = Watched()
    watched.show(1, GOOD)
    status = StoredStatus([{"name": "a", "recentGPUSeconds": 7}])
    watched.source.take("modified", None, PolicyObject(Metadata("default", uid="u", generation=2), BAD, status))
    assert watched.source.active is not None
    assert watched.source.active.status is not None
    assert [use.recent_gpu_seconds for use in watched.source.active.status.queues] == [7]


@pytest.mark.parametrize(
    "lost", [{"guarantee": {"gpu": "many"}}, {"reclaimable": "AfterHours"}, {"minRuntime": "P10D"}]
)
def test_nobody_who_runs_is_evicted_by_a_policy_that_is_understood_in_part(lost: dict[str, Any]) -> None:
    watched = Watched()
    watched.show(
        1, {"fallbackStrategy": "preempt", "queues": [{"name": "a", "guarantee": {"gpu": "4"}} | lost, {"name": "b"}]}
    )
    assert watched.source.active is not None
    spec = watched.source.active.spec
    assert {queue.name: (queue.reclaimable, queue.min_runtime) for queue in spec.queues} == dict.fromkeys(
        ("a", "b", "default"), (False, "999999d")
    )
    assert all(queue.guarantee == Amounts() for queue in spec.queues), "whom they would take from may be lost"
    assert spec.fallback_strategy == "best-effort"


def test_a_class_is_not_for_everybody_because_its_selector_cannot_be_read() -> None:
    watched = Watched()
    selector = {"matchExpressions": [{"key": "team", "operator": "Near"}]}
    watched.show(1, {"priorityClasses": [{"name": "gold", "namespaceSelector": selector}, {"name": "tin"}]})
    assert watched.source.active is not None
    assert [one.name for one in watched.source.active.spec.priority_classes] == ["tin"]


@pytest.mark.parametrize("queues", ["many", None, [{"name": f"q{number}"} for number in range(300)]])
def test_without_any_queue_that_can_be_read_nothing_is_started(queues: object) -> None:
    watched = Watched()
    watched.show(1, {"queues": queues})
    assert watched.source.active is not None
    assert [(queue.name, queue.hold) for queue in watched.source.active.spec.queues] == [("default", "Hold")]


def test_a_status_of_another_form_does_not_hide_a_policy() -> None:
    status = b'{"inForce": ["x"], "failedPlugins": ["y"], "queues": 7}'
    watched = Watched()
    found = msgspec.json.decode(b'{"metadata": {"name": "default"}, "status": ' + status + b"}", type=PolicyObject)
    watched.source.take("added", None, found)
    assert watched.source.active is not None


def test_of_each_policy_it_is_known_whether_all_of_it_could_be_read() -> None:
    watched = Watched()
    watched.show(1, GOOD)
    watched.show(1, GOOD, name="other", uid="o")
    watched.show(2, BAD)
    watched.show(1, "text", name="third", uid="t")  # type: ignore[arg-type]
    assert watched.source.readable == {"default": False, "other": True, "third": False}
    watched.show(3, GOOD)
    assert watched.source.readable["default"]
