"""To which port the Services send while replicas were made with different ones; nothing that a template says counts."""

from typing import Any

import pytest
from tests.controllers.builders import revision, service_object
from tests.controllers.world import World

from tangram.api import names
from tangram.controllers.rollback import MOST_RESTARTS


def service_world(*revisions: dict[str, Any], **spec: Any) -> World:
    return World(service_object(*revisions, **spec))


def reached(world: World) -> int:
    """Ready replicas that listen on the port to which the Service of all of them sends."""
    (port,) = world.services["chat"]["spec"]["ports"]
    return sum(listens_on(pod) == port["targetPort"] and is_ready(pod) for pod in world.pods.values())


def listens_on(pod: dict[str, Any]) -> int:
    variables = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    return int(variables["TANGRAM_PORT"])


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def ports(world: World) -> set[int]:
    return {service["spec"]["ports"][0]["targetPort"] for service in world.services.values()}


@pytest.mark.parametrize("replicas", [1, 2, 3, 6])
def test_a_service_turns_to_another_port_when_as_many_replicas_answer_there(replicas: int) -> None:
    world = service_world(replicas=replicas)
    world.start()
    world.edit(port=9000)
    fewest = replicas
    for _ in range(60):
        world.round()
        fewest = min(fewest, reached(world))
        world.reap()
        world.place()
        world.run()
        fewest = min(fewest, reached(world))
        world.pass_seconds(10)
    assert fewest >= (replicas + 1) // 2
    assert (reached(world), ports(world), world.status["phase"]) == (replicas, {9000}, "Ready")


@pytest.mark.parametrize("spec", [{"paused": True}, {}], ids=["paused", "without room"])
def test_while_nobody_listens_on_the_new_port_the_old_one_serves(spec: dict[str, Any]) -> None:
    world = service_world(replicas=1)
    world.start()
    world.edit(port=9000, **spec)
    for _ in range(10):
        world.round()
        world.pass_seconds(60)
        assert (reached(world), ports(world)) == (1, {8080})


def test_a_service_goes_back_to_the_port_of_before_when_the_new_replica_stops_answering() -> None:
    world = service_world(replicas=2)
    world.start()
    old = set(world.pods)
    world.edit(port=9000, strategy={"maxSurge": 1, "maxUnavailable": 1})
    for _ in range(4):
        world.round()
        world.reap()
        world.place()
        world.run()
    for name in world.pods:
        if listens_on(world.pods[name]) == 9000:
            world.run(name, ready=False)
    left = [name for name in world.pods if name in old and listens_on(world.pods[name]) == 8080]
    world.round()
    assert reached(world) == len(left)


@pytest.mark.parametrize("spec", [{"image": "registry.test/serve:2"}], ids=["a rollout of another image"])
def test_a_port_that_somebody_wrote_is_corrected_in_the_midst_of_a_rollout(spec: dict[str, str]) -> None:
    world = service_world(replicas=1)
    world.start()
    world.edit(revisions=[revision(**spec)])
    world.round()
    world.services["chat"]["spec"]["ports"][0]["targetPort"] = 22
    world.round()
    assert (reached(world), ports(world)) == (1, {8080})


def test_a_port_on_which_nobody_comes_to_answer_is_rolled_back_without_a_gap() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(port=9000)
    world.round()
    (new,) = [name for name in world.pods if "nodeName" not in world.pods[name]["spec"]]
    world.place(new)
    world.crash(new, restarts=MOST_RESTARTS)
    for _ in range(5):
        world.round()
        world.reap()
        assert (reached(world), ports(world)) == (2, {8080})
    assert world.status["reason"] == "RolloutFailed"


def test_a_port_that_somebody_wrote_on_a_service_is_corrected_and_so_is_that_of_one_that_nobody_answers() -> None:
    world = service_world(replicas=2)
    world.start()
    world.services["chat"]["spec"]["ports"][0]["targetPort"] = 22
    world.accrue()
    assert ports(world) == {8080}
    world.edit(port=9000, replicas=0)
    world.accrue()
    assert ports(world) == {9000}


def proxied(image: str, port: str, *, proxy_first: bool) -> dict[str, Any]:
    """A revision whose model listens elsewhere, and says so, behind a proxy on the port of the service."""
    model = {"name": "model", "image": image, "env": [{"name": "TANGRAM_PORT", "value": port}]}
    proxy = {"name": "proxy", "image": "registry.test/proxy:1", "ports": [{"containerPort": 8080}]}
    containers = [proxy, model] if proxy_first else [model, proxy]
    return {"name": "v1", "template": {"spec": {"containers": containers}}}


@pytest.mark.parametrize("proxy_first", [True, False])
@pytest.mark.parametrize("port", ["8000", "70000", "0", "-1", "none"])
def test_what_a_template_says_of_a_port_sends_no_service_past_its_proxy(port: str, proxy_first: bool) -> None:
    world = service_world(proxied("registry.test/serve:1", port, proxy_first=proxy_first), replicas=3)
    world.start()
    world.edit(revisions=[proxied("registry.test/serve:2", port, proxy_first=proxy_first)])
    for _ in range(12):
        world.round()
        assert ports(world) == {8080}
        assert "not reached" not in world.status["message"]
        world.reap()
        world.place()
        world.run()
        world.pass_seconds(5)
    assert world.status["phase"] == "Ready"


NEWER = {"revisions": [revision(image="registry.test/serve:2")]}


@pytest.mark.parametrize("proven", [True, False], ids=["remembered", "not remembered"])
@pytest.mark.parametrize(
    ("first", "second"),
    [({"port": 9000}, {"port": 9001}), ({"port": 9000, **NEWER}, {"port": 9001, "revisions": [revision()]})],
    ids=["port", "port and template"],
)
def test_a_port_that_is_changed_again_before_it_is_remembered_cuts_nobody_off(
    first: dict[str, Any], second: dict[str, Any], proven: bool
) -> None:
    world = service_world(replicas=2)
    world.start()
    for spec in (first, second):
        if not proven:
            world.status.pop("proven", None)
        world.edit(**spec)
        for _ in range(12):
            world.round()
            assert reached(world) >= 1
            world.reap()
            world.place()
            world.run()
            assert reached(world) >= 1
            world.pass_seconds(1)
        assert (reached(world), ports(world)) == (2, {spec["port"]})


def test_replicas_of_another_version_are_reached_where_they_listen() -> None:
    world = service_world(replicas=2)
    world.start()
    for pod in world.pods.values():
        pod["metadata"]["labels"][names.TEMPLATE_HASH] = "v0-0123456789"
    world.edit(port=9000)
    world.round()
    assert (reached(world), ports(world)) == (2, {8080})


def test_a_service_that_has_to_be_made_again_is_made_with_the_port_that_answers() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(port=9000, paused=True)
    world.round()
    world.edit(paused=False)
    world.round()
    del world.services["chat"]
    del world.services["chat-v1"]
    world.round()
    assert (reached(world), ports(world)) == (2, {8080})


def test_ready_replicas_that_are_not_reached_for_their_port_are_counted_in_the_message() -> None:
    world = service_world(replicas=4)
    world.start()
    assert "not reached" not in world.status["message"]
    world.edit(port=9000)
    for _ in range(20):
        world.round()
        world.reap()
        if sum(listens_on(pod) == 9000 for pod in world.pods.values()) == 2:
            break
        world.place()
        world.run()
    world.place()
    world.run()
    world.edit(paused=True)
    world.accrue()
    left = [name for name, pod in world.pods.items() if listens_on(pod) == 8080]
    said = f"; {len(left)} of {len(world.alive)} ready replicas are not reached: they listen on 8080, not on 9000"
    assert world.status["message"].endswith(said)
    assert world.condition("Ready")["message"].endswith(said)
    assert reached(world) == len(world.alive) - len(left)
