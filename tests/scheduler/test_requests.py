"""What is asked of the API server for single actions."""

import asyncio
import json
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tests.decide.test_existing_volumes import claim, disk, world
from tests.worlds import START, bound, pod

from tangram.api.objects import Condition, Metadata, PodStatus
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.rest import Client
from tangram.plan import Cause, Evict, Hold, PodName, Provision
from tangram.scheduler.drain import Drain
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.scheduler.requests import carry_out, record, record_refusal
from tangram.scheduler.rescue import Rescue
from tangram.snapshot.requests.volumes import VolumeTable


class Server:
    """Takes everything, and keeps the paths and what is written there."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []

    async def request(self, method: str, path: str, body: bytes = b"", **_: Any) -> bytes:
        self.paths.append(f"{method} {path}")
        self.bodies.append(body)
        return b"{}"


def provided(volumes: VolumeTable, name: str) -> tuple[Outcome, list[str]]:
    server, choice = Server(), Provision(PodName("default", "p", "uid-p"), name, "a")
    outcome = asyncio.run(carry_out(cast("Client", server), choice, lambda _: None, volumes))
    return outcome, server.paths


def test_a_volume_is_asked_for_where_somebody_makes_it() -> None:
    volumes = world(claims=(claim("m", kind="made"),)).cycle.builder.volumes
    outcome, asked = provided(volumes, "m")
    assert outcome.result is Result.DONE
    assert asked == ["PATCH /api/v1/namespaces/default/persistentvolumeclaims/m"]


def test_nothing_is_asked_for_where_the_chosen_volume_has_become_anothers() -> None:
    """With a node chosen for it a claim of which nobody makes the volume would wait for ever."""
    there = world(disks=(disk("d", "a"),), claims=(claim("c"),))
    volumes = there.cycle.builder.volumes
    outcome, asked = provided(volumes, "c")
    assert (outcome.result, asked) == (Result.CONFLICT, [])


@pytest.mark.parametrize(
    ("before", "since"),
    [
        ((), "2023-11-14T22:13:20Z"),
        ((Condition("PodScheduled", "False", "Unschedulable", "x"),), "2023-11-14T22:13:20Z"),
        ((Condition("PodScheduled", "False", last_transition_time="2023-01-01T00:00:00Z"),), None),
    ],
)
def test_the_condition_says_since_when_a_pod_is_known_to_wait(before: tuple[Condition, ...], since: str | None) -> None:
    """Alerts on pods that wait for long, and kube-state-metrics, read it; another reason does not change it."""
    server, waits = Server(), pod("p")
    waits = replace(waits, status=PodStatus(conditions=before))
    hold = Hold(PodName("default", "p", "uid-p"), "InsufficientGpu", "no node has room")
    asyncio.run(carry_out(cast("Client", server), hold, lambda _: waits, None, START))
    (written,) = json.loads(server.bodies[0])["status"]["conditions"]
    assert written.get("lastTransitionTime") == since


class Said:
    """Keeps (reason, whether it is a warning) of Events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []
        self.notes: list[str] = []

    def record(self, _about: object, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        del action
        self.events.append((reason, warning))
        self.notes.append(note)


def test_preemption_is_no_warning_and_what_nobody_gains_by_is_one() -> None:
    said, victim = Said(), PodName("default", "v", "uid-v")
    record(cast("Any", said), Evict(victim, "n0", PodName("default", "p", "uid-p"), "priority"))
    record(cast("Any", said), Evict(victim, "n0", None, "GPU 0 is unhealthy", cause=Cause.GPU_UNHEALTHY))
    assert said.events == [("Preempted", False), ("GpuUnhealthy", True)]


def evictions_for_nobody() -> dict[str, Evict]:
    """One of each kind, as those make them who decide on it."""
    runs = bound(pod("v", queue="q", gpu=30), "n0", {"main": [("GPU-1", 30)]})
    [drained] = Drain("tangram", lambda _: "q").due(START, {"q"}, [runs])
    rescue = Rescue()
    device = DeviceEntry("GPU-1", 0, "Unhealthy", "GPU is lost")
    rescue.observe("n0", Inventory(Metadata("n0"), InventoryStatus((device,))), 1000, None)
    [ill] = rescue.due(1200, 120, [runs])
    return {"QueueDrained": drained, "GpuUnhealthy": ill}


def test_an_eviction_for_nobody_is_told_by_its_own_cause() -> None:
    """A drain had the code of GPUs that fail, as had whatever nobody had thought of."""
    said, asked = Said(), evictions_for_nobody()
    for one in asked.values():
        record(cast("Any", said), one)
    record(cast("Any", said), Evict(PodName("default", "v", "uid-v"), "n0", None, "something new"))
    assert said.events == [("QueueDrained", False), ("GpuUnhealthy", True), ("Evicted", True)]


def test_what_the_server_does_not_let_be_evicted_is_told_on_the_pod() -> None:
    said, asked = Said(), evictions_for_nobody()
    for one in asked.values():
        record_refusal(cast("Any", said), one, "the disruption budget theirs needs 3 healthy pods")
    assert said.events == [("EvictionRefused", False), ("EvictionRefused", True)]
    assert said.notes[0] == (
        "Not evicted although queue q is drained by the policy: the disruption budget theirs needs 3 healthy pods"
    )
    record_refusal(cast("Any", said), Evict(PodName("a", "v", "u"), "n0", PodName("a", "p", "u2"), "priority"), "no")
    assert len(said.events) == 2  # others are chosen for the claimant
