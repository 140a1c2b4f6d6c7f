"""What queues use is written into the policy in force when it is new, and taken out of policies that are not."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from tests.cluster.fake import FakeApi, answer, eventually, status
from tests.worlds import World, cluster, pod, policy

from tangram.api.objects import Metadata
from tangram.cluster.rest import Client
from tangram.scheduler.policies import PolicyObject, PolicySource, StoredStatus
from tangram.scheduler.queue_status import QueueReporter, queue_uses

PATH = "/apis/scheduling.example.com/v1/hybridpolicies/{}/status"
QUEUES = [{"name": "a", "weight": 2, "guarantee": {"gpuModels": {"A100": "1"}}}, {"name": "b"}]


@pytest.fixture
def world() -> World:
    """Queue a has 1.5 of 4 GPUs, and a pod that waits for more than there is."""
    found = World(cluster("1x4xA100"), policy=policy(queues=QUEUES))
    found.add(pod("whole", whole=1, queue="a"), pod("half", gpu=50, queue="a"), pod("late", whole=4, queue="b", age=-9))
    return found.settle()


def source_of(name: str) -> PolicySource:
    """The policy of this name is in force."""
    source = PolicySource(lambda _policy: None)
    source.take("added", None, PolicyObject(Metadata(name, uid=f"uid-{name}")))
    source.take("synced", None, None)
    return source


IN_FORCE = {"generation": 0, "message": ""}


def stored(name: str, queues: Iterable[dict[str, Any]] = ()) -> PolicyObject:
    """A policy as it is stored; one that lists queues says that it is in force."""
    status = StoredStatus(list(queues), in_force=IN_FORCE if queues else {})
    return PolicyObject(Metadata(name, uid=f"uid-{name}"), {}, status)


def test_every_queue_says_what_it_uses_and_what_it_is_compared_by(world: World) -> None:
    uses = {use["name"]: use for use in queue_uses(world.figures())}
    assert uses["a"] == {
        "name": "a",
        "used": {"cpu": "2", "memory": "2048Mi", "gpu": "1500m", "gpuModels": {"A100": "1500m"}},
        "fairShare": {"cpu": "2", "memory": "2048Mi", "gpu": "1500m", "gpuModels": {"A100": "1500m"}},
        "dominantSharePercent": 19,
        "running": 2,
        "pending": 0,
        "recentGPUSeconds": 9,
        "recentCPUSeconds": 12,
    }
    assert (uses["b"]["pending"], uses["b"]["used"]["gpu"], uses["b"]["fairShare"]["gpu"]) == (1, "0", "2500m")


async def test_only_what_is_new_is_written_and_policies_out_of_force_say_nothing(
    api: FakeApi, client: Client, world: World
) -> None:
    figures = world.figures()
    known = [stored("default"), stored("old", [{"name": "a", "running": 9}]), stored("other")]
    reporter = QueueReporter(client, lambda: known, source_of("default"), lambda: figures)
    for name in ("default", "old"):
        api.on("PATCH", PATH.format(name), answer({}))

    assert await reporter.compare() == 2

    sent = {seen.path: seen.json() for seen in api.seen}
    wanted = {"queues": queue_uses(figures), "failedPlugins": None, "inForce": IN_FORCE}
    assert sent[PATH.format("default")] == {"metadata": {"uid": "uid-default"}, "status": wanted}
    nothing = {"queues": None, "failedPlugins": None, "inForce": None}
    assert sent[PATH.format("old")] == {"metadata": {"uid": "uid-old"}, "status": nothing}
    known[:] = [stored("default", queue_uses(figures)), stored("old"), stored("other")]
    assert await reporter.compare() == 0


async def test_past_use_alone_is_written_once_a_minute(api: FakeApi, client: Client, world: World) -> None:
    shown = [stored("default")]
    reporter = QueueReporter(client, lambda: shown, source_of("default"), world.figures)
    api.on("PATCH", PATH.format("default"), answer({}))
    written = []
    for _ in range(14):
        written.append(await reporter.compare())
        shown[:] = [stored("default", api.seen[-1].json()["status"]["queues"])]
        world.now += 5

    assert written == [1, *[0] * 11, 1, 0]


async def test_past_use_is_written_also_after_a_clock_was_far_ahead(api: FakeApi, client: Client, world: World) -> None:
    shown = [stored("default")]
    reporter = QueueReporter(client, lambda: shown, source_of("default"), world.figures)
    api.on("PATCH", PATH.format("default"), answer({}))
    right, world.now = world.now, world.now + 10 * 365 * 86_400
    assert await reporter.compare() == 1
    shown[:] = [stored("default", api.seen[-1].json()["status"]["queues"])]
    world.now = right + 120
    assert await reporter.compare() == 1


async def test_what_could_not_be_written_is_tried_again(api: FakeApi, client: Client, world: World) -> None:
    figures = world.figures()
    reporter = QueueReporter(client, lambda: [stored("p")], source_of("p"), lambda: figures)
    api.on("PATCH", PATH.format("p"), status(409, "Conflict", "the object has been modified"), answer({}))
    assert (await reporter.compare(), await reporter.compare()) == (0, 1)


async def test_plugins_that_fail_are_in_the_status_at_once_and_gone_when_they_answer_again(
    api: FakeApi, client: Client, world: World
) -> None:
    fault = {"name": "acme-spot", "message": "ValueError: args.most: 'x' is not allowed"}
    uses = queue_uses(world.figures())
    shown = [stored("default", uses), PolicyObject(Metadata("old", uid="uid-old"), {}, StoredStatus([], [fault]))]
    reporter = QueueReporter(client, lambda: shown, source_of("default"), world.figures)
    for name in ("default", "old"):
        api.on("PATCH", PATH.format(name), *[answer({})] * 2)
    running = asyncio.create_task(reporter.run(3600, lambda: True))
    reporter.note_faults(["acme-spot: ValueError: args.most: 'x' is not allowed"])
    await eventually(lambda: len(api.seen) == 2)
    assert {seen.path: seen.json()["status"]["failedPlugins"] for seen in api.seen} == {
        PATH.format("default"): [fault],
        PATH.format("old"): None,
    }

    reporter.note_faults(["acme-spot: ValueError: not this pod either"])
    await asyncio.sleep(0.05)
    assert len(api.seen) == 2, "other words alone wait for the interval"

    shown[:] = [PolicyObject(Metadata("default", uid="uid-default"), {}, StoredStatus(uses, [fault]))]
    reporter.note_faults(())
    await eventually(lambda: len(api.seen) == 3)
    assert api.seen[-1].json()["status"]["failedPlugins"] is None
    running.cancel()
