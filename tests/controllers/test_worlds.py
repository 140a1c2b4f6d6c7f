"""Whatever happens to pods, in whatever order: jobs and services settle, and nothing exists twice.

The world itself checks each write: no pod of a name that is taken, no forbidden step between phases, no status that the
API would refuse.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.controllers.builders import job_object, revision, role, service_object
from tests.controllers.world import World

Happening = Callable[[World, int], None]


def one_of(world: World, number: int) -> str | None:
    names = sorted(world.pods)
    return names[number % len(names)] if names else None


def place(world: World, number: int) -> None:
    if name := one_of(world, number):
        world.place(name, node=f"node-{number % 3}")


def run(world: World, number: int) -> None:
    if name := one_of(world, number):
        world.run(name, ready=number % 3 > 0)


def finish(world: World, number: int) -> None:
    if (name := one_of(world, number)) and "nodeName" in world.pods[name]["spec"]:
        world.finish(name, code=number % 4)


def break_down(world: World, number: int) -> None:
    if name := one_of(world, number):
        world.finish(name, reason="Evicted")


def vanish(world: World, number: int) -> None:
    if name := one_of(world, number):
        del world.pods[name]


def ask_to_go(world: World, number: int) -> None:
    if name := one_of(world, number):
        world.pods[name]["metadata"].setdefault("deletionTimestamp", "2027-01-15T08:00:00Z")


def look(world: World, _number: int) -> None:
    world.round()


def reap(world: World, _number: int) -> None:
    world.reap()


def wait(world: World, number: int) -> None:
    world.pass_seconds(number * 7)


def suspend(world: World, number: int) -> None:
    world.edit(runPolicy={"suspend": number % 2 == 0})


def resize_job(world: World, number: int) -> None:
    world.edit(elastic={"replicas": 1 + number % 4})


def resize_service(world: World, number: int) -> None:
    world.edit(replicas=number % 5)


def new_template(world: World, number: int) -> None:
    world.edit(revisions=[revision(f"v{1 + number % 2}", image=f"registry.test/serve:{number}")])


def crash(world: World, number: int) -> None:
    if (name := one_of(world, number)) and "nodeName" in world.pods[name]["spec"]:
        world.crash(name, restarts=number % 4)


def pause(world: World, number: int) -> None:
    world.edit(paused=number % 2 == 0)


def other_strategy(world: World, number: int) -> None:
    world.edit(strategy={"maxSurge": number % 3, "maxUnavailable": f"{10 + number}%"})


TO_PODS: list[Happening] = [place, place, run, run, finish, break_down, vanish, ask_to_go, look, look, reap, wait]


def stories(*more: Happening) -> st.SearchStrategy[list[tuple[Happening, int]]]:
    return st.lists(st.tuples(st.sampled_from([*TO_PODS, *more]), st.integers(0, 40)), max_size=40)


def settle_in_peace(world: World) -> None:
    """Nothing bad happens any more: everything is placed and runs, and time passes."""
    for _ in range(80):
        world.round()
        world.reap()
        world.place(*[name for name, pod in world.pods.items() if "nodeName" not in pod["spec"]])
        world.run()
        world.pass_seconds(30)
    world.accrue()


def elastic_job(**spec: Any) -> World:
    elastic = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
    rules = [{"codes": [2], "action": "RestartUncounted"}]
    roles = (role("master"), role("worker", 1, gpus={"count": 1}))
    return World(job_object(*roles, elastic=elastic, exitCodeRules=rules, **spec))


@settings(max_examples=examples(60), deadline=None)
@given(stories(suspend, resize_job))
def test_a_job_settles_whatever_has_happened_to_it(story: list[tuple[Happening, int]]) -> None:
    world = elastic_job(runPolicy={"backoffLimit": 2})
    for happening, number in story:
        happening(world, number)
    settle_in_peace(world)
    phase = world.status["phase"]
    if phase == "Running":
        wanted = {"train-master-0"} | {f"train-worker-{n}" for n in range(world.raw["spec"]["elastic"]["replicas"])}
        done = {name for name, pod in world.pods.items() if pod["status"]["phase"] == "Succeeded"}
        assert set(world.alive) <= wanted
        assert done or set(world.alive) == wanted
    else:
        assert phase in ("Complete", "Failed", "Suspended")
        assert world.alive == []
    assert world.status["restarts"] <= 2
    attempts = {pod["metadata"]["annotations"]["scheduling.example.com/attempt"] for pod in world.pods.values()}
    assert len(attempts) <= 1, "replicas of two attempts side by side"


@settings(max_examples=examples(60), deadline=None)
@given(stories(resize_service, new_template, crash, pause, other_strategy))
def test_a_service_settles_with_the_replicas_wanted_of_the_template_wanted(
    story: list[tuple[Happening, int]],
) -> None:
    world = World(service_object(replicas=2))
    for happening, number in story:
        happening(world, number)
    world.edit(paused=False)
    if "failedRollout" in world.status:
        new_template(world, 99)
    settle_in_peace(world)
    if "failedRollout" in world.status:  # found in peace's first round
        new_template(world, 99)
        settle_in_peace(world)
    wanted = world.raw["spec"]["replicas"]
    assert len(world.alive) == wanted
    image = world.raw["spec"]["revisions"][0]["template"]["spec"]["containers"][0]["image"]
    assert {world.pods[name]["spec"]["containers"][0]["image"] for name in world.alive} <= {image}
    assert world.status["phase"] == ("Ready" if wanted else "Idle")
    assert world.status["readyReplicas"] == wanted
