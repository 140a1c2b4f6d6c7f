"""Whose turn it is where the kubelet goes on listing pods that it has rejected: kubelets 1.30 to 1.33."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.node.kubelet import Rejected
from tests.node.machine import Machine, machine, pod, with_phase
from tests.node.test_plugin import shares

from tangram.node.gpus import Condition, Health


@asynccontextmanager
async def old_node(folder: Path, *, count: int = 2) -> AsyncIterator[Machine]:
    """A node of such a kubelet, whose GPU-0 takes nothing new."""
    async with machine(folder, count=count) as node:
        node.kubelet.lists_rejected = True
        node.probe.sick["GPU-0"] = Condition(Health.DEGRADED, "hot")
        await node.until(lambda: node.agent.devices.conditions["GPU-0"].health is Health.DEGRADED)
        yield node


async def test_a_refused_pod_that_is_still_listed_takes_no_other_with_it(folder: Path) -> None:
    pods = [pod(f"p{n}", {"main": [("GPU-1", 30)]}, created=f"2026-01-01T00:00:0{n}Z") for n in range(3)]
    async with old_node(folder) as node:
        with pytest.raises(Rejected, match="GPU-0 is Degraded"):
            await node.start(pod("rejected", {"main": [("GPU-0", 30)]}, created="2026-01-01T00:00:00Z"))
        given = [await node.start(one) for one in pods]

    assert [shares(one) for one in given] == [{"GPU-1": 30}] * 3
    assert not node.agent.shared.counters.guesses


async def test_a_pod_that_the_watch_shows_late_is_not_taken_for_the_refused_one(folder: Path) -> None:
    """The refused pod's GPU is well again: the next pod would get it, and hold what its record does not name."""
    async with old_node(folder) as node:
        with pytest.raises(Rejected):
            await node.start(pod("rejected", {"main": [("GPU-0", 30)]}))
        node.probe.sick.clear()
        await node.until(lambda: node.agent.devices.conditions["GPU-0"].health is Health.HEALTHY)
        with pytest.raises(Rejected, match="no pod that was placed on this node waits for 30"):
            await node.kubelet.admit(pod("unseen", {"main": [("GPU-1", 30)]}))


async def test_a_pod_that_the_kubelet_rejects_by_itself_has_had_its_turn(folder: Path) -> None:
    """No plugin is asked for it, and it is listed like one that is being admitted."""
    async with old_node(folder) as node:
        await node.start(pod("first", {"main": [("GPU-1", 10)]}))
        pressed = pod("pressed", {"main": [("GPU-0", 20)]}, created="2026-01-01T00:00:00Z")
        node.show(pressed)
        node.kubelet.reject(pressed)
        await node.start(pod("between", {"main": [("GPU-1", 30)]}, created="2026-01-01T00:00:01Z"))
        given = await node.start(pod("next", {"main": [("GPU-1", 20)]}, created="2026-01-01T00:00:02Z"))

    assert shares(given) == {"GPU-1": 20}


async def test_containers_before_the_refused_one_hold_nothing(folder: Path) -> None:
    """The kubelet takes their devices back with the pod."""
    async with old_node(folder) as node:
        with pytest.raises(Rejected):
            await node.start(pod("half", {"one": [("GPU-1", 40)], "two": [("GPU-0", 40)]}))
        whole = await node.start(pod("whole", {"main": [("GPU-1", 100)]}))

    assert shares(whole) == {"GPU-1": 100}


async def test_a_restarted_kubelet_may_ask_for_the_refused_pod_again(folder: Path) -> None:
    """It ended before the pod's phase was written, and admits the pod anew."""
    again = pod("again", {"main": [("GPU-0", 30)]})
    async with old_node(folder) as node:
        with pytest.raises(Rejected):
            await node.start(again)
        node.probe.sick.clear()
        await node.until(lambda: node.agent.devices.conditions["GPU-0"].health is Health.HEALTHY)
        await node.kubelet.restart()
        await node.kubelet.capacity("scheduling.example.com/gpu", 200)
        given = await node.start(again)

    assert shares(given) == {"GPU-0": 30}


async def test_the_watch_ends_what_is_remembered_of_a_refused_pod(folder: Path) -> None:
    async with old_node(folder) as node:
        refused = pod("refused", {"main": [("GPU-0", 30)]})
        with pytest.raises(Rejected):
            await node.start(refused)
        node.show(with_phase(refused, "Failed", started=False))

        assert node.agent.shared.ledger.claimants == ()
