"""A GPU at which pods are refused again and again takes no new work."""

from pathlib import Path

import pytest
from tests.node.kubelet import Rejected
from tests.node.machine import machine, pod

from tangram.node.allocation import RefusalReason
from tangram.node.gpus import Condition, Health
from tangram.node.refused import MANY, WITHIN_SECONDS, RefusedGpus
from tangram.node.report import status_of

WRONG, FULL = RefusalReason.WRONG_DEVICES, RefusalReason.OVERFILLED


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(clock: Clock, *pods: str, reason: RefusalReason = FULL) -> RefusedGpus:
    found = RefusedGpus(clock)
    for name in pods:
        found.note(["GPU-0"], name, reason)
    return found


def health(found: RefusedGpus) -> Health:
    return found.held_back({"GPU-1": Condition(Health.HEALTHY)}).get("GPU-0", Condition(Health.HEALTHY)).health


def test_refusals_of_one_kind_and_of_several_pods_make_a_gpu_degraded() -> None:
    clock = Clock()
    assert health(refused(clock, *"ab")) is Health.HEALTHY
    assert health(refused(clock, *"aaaa")) is Health.HEALTHY
    mixed = refused(clock, *"ab")
    mixed.note(["GPU-0"], "c", WRONG)
    assert health(mixed) is Health.HEALTHY
    held = refused(clock, *"abc").held_back({})
    assert list(held) == ["GPU-0"]
    assert held["GPU-0"].reason == "pods that were placed on it have been refused again and again (Overfilled)"


def test_a_gpu_is_tried_again_after_a_while() -> None:
    clock = Clock()
    found = refused(clock, *"abc")
    clock.now += WITHIN_SECONDS
    assert health(found) is Health.HEALTHY
    found.note(["GPU-0"], "d", FULL)
    assert health(found) is Health.HEALTHY


def test_what_is_worse_stays_what_it_is() -> None:
    lost = Condition(Health.UNHEALTHY, "it is lost")
    assert refused(Clock(), *"abc").held_back({"GPU-0": lost})["GPU-0"] is lost


async def test_placement_is_told_of_a_gpu_at_which_pods_are_refused(folder: Path) -> None:
    async with machine(folder) as node:
        await node.start(pod("there", {"main": [("GPU-0", 100)]}))
        for number in range(MANY):
            with pytest.raises(Rejected, match="GPU-0 has 0 % free"):
                await node.start(pod(f"late{number}", {"main": [("GPU-0", 10)]}))
        await node.until(lambda: node.agent.devices.conditions["GPU-0"].health is Health.DEGRADED)
        status = status_of(node.agent.facts("v1"), None, "2026-01-01T00:00:00Z")

    assert [device["health"] for device in status["devices"]] == ["Degraded", "Healthy"]
    assert "refused again and again (Overfilled)" in status["devices"][0]["healthReason"]
