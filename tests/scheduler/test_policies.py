"""The policy in force, whatever its status says: that does not decide whether a policy can be used."""

from typing import Any

import pytest

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
