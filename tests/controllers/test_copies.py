"""What is decided from a copy of an object that may be late, and what only from the object itself."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.controllers.builders import job, job_object, revision, role, service_object
from tests.controllers.histories.neighbours import Neighbours
from tests.controllers.histories.process import Process
from tests.controllers.histories.server import Server
from tests.virtual_time import VirtualClock, VirtualLoop

from tangram import errors
from tangram.api import names
from tangram.api.views import PodView
from tangram.cluster.paths import PODS, TRAINING_JOBS
from tangram.controllers.actions import Action, Create, Delete, RecordEvent, Ref, Requeue, SetStatus
from tangram.controllers.copies import Copies, may_follow_from_a_copy
from tangram.controllers.manifests import gang_of, job_pod

KEY = ("team", "train")
JOB = Ref(TRAINING_JOBS, "train", "team", "uid-1")
GUARDED, UNGUARDED = SetStatus(JOB, {"ready": "1/1"}, "7"), SetStatus(JOB, {"ready": "1/1"})
DELETION, CREATION = Delete(Ref(PODS, "train-worker-0", "team", "uid-2")), Create({})


def version(number: int | str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "train", "resourceVersion": str(number), **more}, "spec": {"version": number}}


def test_an_event_that_is_late_does_not_take_the_place_of_what_we_have_written_ourselves() -> None:
    copies = Copies()
    copies.put(TRAINING_JOBS, KEY, version(9))
    copies.put(TRAINING_JOBS, KEY, version(7))
    copies.put(TRAINING_JOBS, KEY, version(8))
    assert copies.get(TRAINING_JOBS, KEY) is None, "the object is read"
    copies.put(TRAINING_JOBS, KEY, version(10))
    assert copies.get(TRAINING_JOBS, KEY) == version(10)
    copies.gone(TRAINING_JOBS, KEY, version(11))
    assert copies.get(TRAINING_JOBS, KEY) is None
    assert len(copies) == 0


@pytest.mark.parametrize("shown", [version(3100), version(5000, uid="restored"), version(3100, uid="restored")])
def test_a_copy_from_before_a_restore_of_the_server_s_storage_is_not_used(shown: dict[str, Any]) -> None:
    """Where versions begin lower: the object is read, and what is read is the next copy."""
    copies = Copies()
    copies.put(TRAINING_JOBS, KEY, version(5000))
    copies.put(TRAINING_JOBS, KEY, shown)
    assert copies.get(TRAINING_JOBS, KEY) is None
    copies.forget(TRAINING_JOBS, KEY)  # as whoever reads does
    copies.put(TRAINING_JOBS, KEY, shown)
    assert copies.get(TRAINING_JOBS, KEY) == shown
    copies.put(TRAINING_JOBS, KEY, version(5001))
    assert copies.get(TRAINING_JOBS, KEY) == version(5001)


def test_a_deletion_below_the_known_version_lets_the_object_be_read() -> None:
    copies = Copies()
    copies.put(TRAINING_JOBS, KEY, version(5000))
    copies.gone(TRAINING_JOBS, KEY, version(3100))
    assert copies.get(TRAINING_JOBS, KEY) is None


def test_who_wrote_which_field_is_not_kept() -> None:
    copies = Copies()
    copies.put(TRAINING_JOBS, KEY, version(9, managedFields=[{"manager": "kubectl"}]))
    assert copies.get(TRAINING_JOBS, KEY) == version(9)


def test_of_a_server_whose_versions_are_no_numbers_there_are_no_copies() -> None:
    copies = Copies()
    copies.put(TRAINING_JOBS, KEY, version("a7f"))
    assert copies.get(TRAINING_JOBS, KEY) is None


@pytest.mark.parametrize(
    ("actions", "may"),
    [
        ([], True),
        ([Requeue(5.0), RecordEvent(JOB, "Running", "")], True),
        ([GUARDED, DELETION, CREATION], True),  # the server refuses the status of what is not the last version
        ([UNGUARDED, DELETION], False),
        ([DELETION], False),
        ([RecordEvent(JOB, "Running", ""), CREATION], False),
    ],
)
def test_from_a_copy_follows_what_a_version_guards(actions: list[Action], may: bool) -> None:
    assert may_follow_from_a_copy(actions) is may


def staged(scene: Callable[[Server, Process, Callable[[float], Awaitable[None]]], Awaitable[None]]) -> None:
    """Play a scene with a job of two replicas that run."""
    clock, chance = VirtualClock(), random.Random(1)

    async def play() -> None:
        server = Server(clock)
        server.commit("trainingjobs", job_object(role("worker", 2)))
        process, neighbours = Process(server, "controller", chance), Neighbours(server, chance)

        async def wait(seconds: float) -> None:
            end = clock() + seconds
            while clock() < end:
                await asyncio.sleep(1.0)
                neighbours.step()

        process.term.take()
        await wait(30.0)
        assert server.all("trainingjobs")[0]["status"]["phase"] == "Running"
        await scene(server, process, wait)
        await process.stop()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(play())


def test_a_look_at_which_nothing_is_to_be_done_asks_the_server_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        asked: Counter[str] = Counter()
        handle = server.handle
        monkeypatch.setattr(server, "handle", lambda *given: (asked.update({given[1]}), handle(*given))[1])
        for number in range(5):
            server.change("pods", "train-worker-0", {"metadata": {"annotations": {"note": str(number)}}})
            await wait(2.0)
        assert asked == {}

    staged(scene)


def test_no_pod_is_made_for_a_job_of_whose_deletion_the_controller_has_not_heard() -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        process.wire.trouble.blind["trainingjobs"] = 1e9
        server.remove("trainingjobs", "train")
        await wait(300.0)
        assert server.all("pods") == []
        assert [entry.type for entry in server.logs["pods"]].count("ADDED") == 2

    staged(scene)


def test_a_status_that_another_process_has_written_since_is_read_before_anything_is_done() -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        process.wire.trouble.blind["trainingjobs"] = 1e9
        server.change("trainingjobs", "train", {"status": ENDED})
        server.remove("pods", "train-worker-0")
        await wait(60.0)
        assert [entry.type for entry in server.logs["pods"]].count("ADDED") == 2
        assert server.all("trainingjobs")[0]["status"]["phase"] == "Complete"

    staged(scene)


def test_pods_that_another_process_has_made_count_also_before_a_watch_has_shown_them() -> None:
    """A process that has just got the Lease, and whose watch of pods is late, rolls a new template out."""

    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        server.commit("inferenceservices", service_object(replicas=3))
        await wait(30.0)
        successor = Process(server, "successor", random.Random(2))
        await wait(5.0)
        successor.wire.trouble.blind["pods"] = 1e9
        server.change("inferenceservices", "chat", {"spec": {"replicas": 2}})
        await wait(30.0)
        server.change("inferenceservices", "chat", {"spec": {"replicas": 4}})
        await wait(30.0)
        process.term.lose()
        server.change("inferenceservices", "chat", {"spec": {"revisions": [revision("v2")]}})
        successor.term.take()
        await wait(5.0)
        pods = [pod for pod in server.all("pods") if pod["metadata"]["labels"].get(names.SERVICE)]
        await successor.stop()
        assert len(pods) == 5, "four, and one more"

    staged(scene)


def test_a_refusal_whose_words_are_others_each_time_is_met_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that puts the number of the request into its answer: each is a new status, and an event of it."""
    tried: list[str] = []
    create = Server._create

    def refuse(server: Server, who: str, resource: str, item: dict[str, Any]) -> bytes:
        if resource != "pods" or item["metadata"]["name"].startswith("train-"):
            return create(server, who, resource, item)
        tried.append(item["metadata"]["name"])
        raise errors.ClusterError(403, "Forbidden", f"denied: image not signed (request {len(tried)})")

    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        server.commit("trainingjobs", job_object(role("worker", 2), name="other"))
        server.commit("inferenceservices", service_object(revision(), replicas=2))
        await wait(600.0)
        assert len(tried) < 80
        tried.clear()
        server.change("trainingjobs", "other", {"spec": {"roles": [role("worker", 1)]}})
        await wait(1.0)
        assert tried, "who changes the spec is not kept waiting"

    monkeypatch.setattr(Server, "_create", refuse)
    staged(scene)


def test_a_pod_that_has_lost_its_label_is_restarted_and_suspended_with_its_gang() -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        before = {pod["metadata"]["uid"] for pod in server.all("pods")}
        server.change("pods", "train-worker-0", {"metadata": {"labels": {names.JOB: None}}})
        await wait(30.0)
        server.change("pods", "train-worker-1", {"status": {"phase": "Failed"}})
        await wait(60.0)
        assert before.isdisjoint({pod["metadata"]["uid"] for pod in server.all("pods")})
        assert server.all("trainingjobs")[0]["status"]["phase"] == "Running"
        server.change("pods", "train-worker-0", {"metadata": {"labels": {names.JOB: None}}})
        server.change("trainingjobs", "train", {"spec": {"runPolicy": {"suspend": True}}})
        await wait(60.0)
        assert server.all("pods") == []

    staged(scene)


def test_a_pod_that_has_lost_its_label_since_the_watch_showed_it_is_there() -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        elastic = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
        server.commit("trainingjobs", job_object(role("master"), role("worker"), name="other", elastic=elastic))
        await wait(60.0)
        before = {pod["metadata"]["uid"] for pod in server.all("pods")}
        process.wire.trouble.blind["pods"] = server.clock() + 10.0
        server.change("pods", "other-master-0", {"metadata": {"labels": {names.JOB: None}}})
        server.change("trainingjobs", "other", {"spec": {"elastic": {"replicas": 3}}})
        await wait(60.0)
        assert before <= {pod["metadata"]["uid"] for pod in server.all("pods")}
        assert len(before) + 1 == len(server.all("pods"))

    staged(scene)


def test_a_success_that_a_watch_has_not_shown_yet_counts_before_a_failure_that_it_has() -> None:
    async def scene(server: Server, process: Process, wait: Callable[[float], Awaitable[None]]) -> None:
        job = job_object(role("master"), role("worker"), name="other", runPolicy={"backoffLimit": 3})
        server.commit("trainingjobs", job)
        await wait(30.0)
        process.wire.trouble.blind["pods"] = 1e9
        server.change("pods", "other-master-0", {"status": {"phase": "Succeeded"}})
        failed = server.change("pods", "other-worker-0", {"status": {"phase": "Failed"}})
        process.live._on_pod("modified", None, msgspec.convert(failed, PodView))
        await wait(10.0)
        status = server.by_resource["trainingjobs"]["other"]["status"]
        assert (status["phase"], status["restarts"]) == ("Complete", 0)

    staged(scene)


ENDED = {
    "phase": "Complete",
    "completionTime": "2027-01-15T08:00:00Z",
    "conditions": [
        {"type": "Complete", "status": "True", "reason": "Complete", "lastTransitionTime": "2027-01-15T08:00:00Z"}
    ],
}


def test_what_is_kept_of_a_pod_does_not_grow_with_its_variables() -> None:
    """Each member of a gang is told of all its fellows in variables: thousands of pods, each with as many names."""
    made = job(framework="tensorflow")
    gang = gang_of(made, 0)
    told = job_pod(made, gang, gang.members[0])
    kept = msgspec.json.decode(msgspec.json.encode(told), type=PodView)
    assert any(one["name"] == "TF_CONFIG" for one in told["spec"]["containers"][0]["env"])
    assert "worker-1.train-gang" not in repr(kept)
    for container in told["spec"]["containers"]:
        del container["env"]
    assert kept == msgspec.json.decode(msgspec.json.encode(told), type=PodView)
