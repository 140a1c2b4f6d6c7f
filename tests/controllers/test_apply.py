"""Writing what reconciles ask for: in order, up to the first failure; what is refused keeps nothing waiting."""

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from tests.controllers.builders import job

from tangram import errors
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.paths import PODS, TRAINING_JOBS
from tangram.cluster.permit import NEVER, Permit
from tangram.cluster.rest import Client, Sending
from tangram.controllers.actions import Create, Delete, Patch, Ref, Requeue, SetStatus
from tangram.controllers.apply import Applier
from tangram.controllers.manifests import gang_of, job_pod, job_service

POD = Ref(PODS, "train-worker-0", "team", "uid-1")
JOB = Ref(TRAINING_JOBS, "train", "team", "uid-job")
STATUS = SetStatus(JOB, {"phase": "Running"}, "7")


class Server:
    """Remembers requests; answers some of them as told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], bytes | errors.TangramError] = {}
        self.params: list[dict[str, str]] = []
        self.warnings: list[str] = []

    def under(self, permit: Callable[[], Permit]) -> "Server":
        self.permit = permit
        return self

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, sending: Sending | None = None, **more: Any
    ) -> bytes:
        if method != "GET" and not self.permit().holds:
            raise errors.Conflict(409, "LeaseLost", "this process does not hold its lease any more")
        self.requests.append((method, path, msgspec.json.decode(body) if body else None))
        self.params.append(more.get("params") or {})
        for warning in self.warnings if sending is not None and sending.on_warning is not None else ():
            sending.on_warning(warning)
        answer = self.answers.get((method, path), b"{}")
        if isinstance(answer, errors.TangramError):
            raise answer
        return answer

    @property
    def asked(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.requests]


PODS_PATH = "/api/v1/namespaces/team/pods"
POD_PATH = f"{PODS_PATH}/train-worker-0"
STATUS_PATH = "/apis/scheduling.example.com/v1/namespaces/team/trainingjobs/train/status"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def applier(server: Server) -> Applier:
    return Applier(cast("Client", server), None)


def creation() -> Create:
    parsed = job()
    gang = gang_of(parsed, 0)
    return Create(job_pod(parsed, gang, gang.members[0]))


async def test_a_status_is_written_against_the_version_it_was_computed_from(server: Server, applier: Applier) -> None:
    assert (await applier.apply([STATUS, Requeue(5.0)])).requeue == 5.0
    ((method, path, body),) = server.requests
    assert (method, path) == ("PATCH", STATUS_PATH)
    assert body == {"metadata": {"uid": "uid-job", "resourceVersion": "7"}, "status": {"phase": "Running"}}


async def test_nothing_is_deleted_when_the_status_before_it_could_not_be_written(
    server: Server, applier: Applier
) -> None:
    server.answers["PATCH", STATUS_PATH] = errors.Conflict(409, "Conflict", "the object has been modified")
    applied = await applier.apply([STATUS, Delete(POD)])
    assert server.asked == [f"PATCH {STATUS_PATH}"]
    assert applied.failed == "the object has been modified"


async def test_an_object_that_has_changed_since_it_was_judged_is_judged_again_and_not_deleted(
    server: Server, applier: Applier
) -> None:
    server.answers["DELETE", POD_PATH] = errors.Conflict(409, "Conflict", "the ResourceVersion does not match")
    applied = await applier.apply([Delete(POD, resource_version="17"), creation()])
    assert server.requests[0][2]["preconditions"] == {"uid": "uid-1", "resourceVersion": "17"}
    assert server.asked == [f"DELETE {POD_PATH}"]
    assert applied.failed == "the ResourceVersion does not match"


async def test_a_deletion_names_the_uid_and_an_object_that_is_gone_is_a_success(
    server: Server, applier: Applier
) -> None:
    server.answers["DELETE", POD_PATH] = errors.NotFound(404, "NotFound", "no such pod")
    applied = await applier.apply([Delete(POD)])
    assert (applied.done, applied.failed) == (1, "")
    assert server.requests[0][2]["preconditions"] == {"uid": "uid-1"}


LABELS = {"app.kubernetes.io/managed-by": "tangram", "scheduling.example.com/job": "train"}


@pytest.mark.parametrize(
    ("owner", "labels", "refused"),
    [
        ("uid-job", LABELS, ""),
        ("uid-job", {}, "Pod train-worker-0 has lost its label app.kubernetes.io/managed-by=tangram: put it back, or"),
        (
            "uid-job",
            {**LABELS, "scheduling.example.com/job": "other"},
            "has lost its label scheduling.example.com/job=",
        ),
        ("uid-other", LABELS, "the name train-worker-0 is taken: a Pod of TrainingJob x has it"),
        ("", {}, "the name train-worker-0 is taken: a Pod of somebody else has it"),
        ("", LABELS, "with --cascade=orphan: delete it (kubectl delete pod -n team train-worker-0)"),
    ],
)
async def test_a_name_that_is_taken_is_a_success_only_when_it_is_ours_and_will_be_found(
    server: Server, applier: Applier, owner: str, labels: dict[str, str], refused: str
) -> None:
    server.answers["POST", PODS_PATH] = errors.Conflict(409, "AlreadyExists", "exists")
    owners = [{"kind": "TrainingJob", "name": "x", "controller": True, "uid": owner}] if owner else []
    metadata = {"name": POD.name, "labels": labels, "ownerReferences": owners}
    server.answers["GET", POD_PATH] = msgspec.json.encode({"metadata": metadata})
    applied = await applier.apply([creation()])
    assert refused in applied.refused
    assert bool(applied.refused) == bool(refused)


@pytest.mark.parametrize(("owner", "labels"), [("uid-job", {}), ("uid-other", LABELS), ("", LABELS), ("", {})])
async def test_nobody_is_asked_to_delete_what_is_being_deleted(
    server: Server, applier: Applier, owner: str, labels: dict[str, str]
) -> None:
    server.answers["POST", PODS_PATH] = errors.Conflict(409, "AlreadyExists", "exists")
    owners = [{"kind": "TrainingJob", "name": "x", "controller": True, "uid": owner}] if owner else []
    metadata = {
        "name": POD.name,
        "labels": labels,
        "ownerReferences": owners,
        "deletionTimestamp": "2027-01-15T08:00:00Z",
    }
    server.answers["GET", POD_PATH] = msgspec.json.encode({"metadata": metadata})
    applied = await applier.apply([creation()])
    said = "Pod train-worker-0 is being deleted, and has the name until it is gone"
    assert (applied.refused, applied.failed) == ("", said)


async def test_the_servers_no_is_told_in_its_own_words(server: Server, applier: Applier) -> None:
    server.answers["POST", PODS_PATH] = errors.ClusterError(403, "Forbidden", "exceeded quota: gpus")
    applied = await applier.apply([creation()])
    assert (applied.refused, applied.failed) == ("exceeded quota: gpus", "")


async def test_a_server_in_trouble_is_a_failure_to_be_tried_again(server: Server, applier: Applier) -> None:
    server.answers["POST", PODS_PATH] = errors.NotReachable("no answer")
    applied = await applier.apply([creation(), STATUS])
    assert (applied.refused, applied.failed) == ("", "no answer")
    assert len(server.requests) == 1


async def test_a_patch_names_the_uid(server: Server, applier: Applier) -> None:
    await applier.apply([Patch(POD, {"spec": {"x": 1}})])
    assert server.requests[0][2] == {"spec": {"x": 1}, "metadata": {"uid": "uid-1"}}


async def test_without_the_lease_nothing_is_written(server: Server) -> None:
    applier = Applier(cast("Client", server), None, NEVER)
    applied = await applier.apply([STATUS, creation(), Delete(POD)])
    assert server.requests == []
    assert "the Lease is not held" in applied.failed


async def test_many_creations_are_on_their_way_together_and_all_are_counted(server: Server, applier: Applier) -> None:
    parsed = job()
    gang = gang_of(parsed, 0)
    creations = [Create(job_service(parsed)), *(Create(job_pod(parsed, gang, member)) for member in gang.members)]
    applied = await applier.apply(creations)
    assert (applied.done, len(server.requests)) == (3, 3)


QUOTA = errors.ClusterError(403, "Forbidden", "exceeded quota: gpus")


async def test_deletions_and_patches_do_not_wait_for_a_creation_that_is_refused(
    server: Server, applier: Applier
) -> None:
    server.answers["POST", PODS_PATH] = QUOTA
    applied = await applier.apply([STATUS, creation(), Delete(POD), Patch(POD, {"spec": {"x": 1}}), creation()])
    assert server.asked == [f"PATCH {STATUS_PATH}", f"POST {PODS_PATH}", f"DELETE {POD_PATH}", f"PATCH {POD_PATH}"]
    assert (applied.done, applied.refused, applied.failed) == (3, "exceeded quota: gpus", "")


async def test_one_deletion_that_is_refused_does_not_keep_the_others_waiting(server: Server, applier: Applier) -> None:
    server.answers["DELETE", POD_PATH] = errors.ClusterError(403, "Forbidden", "a webhook keeps the pod")
    applied = await applier.apply([Delete(POD), Patch(POD, {"spec": {"x": 1}}), creation()])
    assert len(server.requests) == 3
    assert (applied.done, applied.refused) == (2, "a webhook keeps the pod")


async def test_nothing_follows_a_status_that_the_server_refuses(server: Server, applier: Applier) -> None:
    server.answers["PATCH", STATUS_PATH] = errors.ClusterError(422, "Invalid", "status.phase: Unsupported value")
    applied = await applier.apply([STATUS, Delete(POD), creation()])
    assert server.asked == [f"PATCH {STATUS_PATH}"]
    assert (applied.refused, applied.failed) == ("status.phase: Unsupported value",) * 2


async def test_a_field_that_the_server_does_not_know_is_refused_and_not_dropped(
    server: Server, applier: Applier
) -> None:
    await applier.apply([creation()])
    assert server.params[0]["fieldValidation"] == "Strict"


async def test_the_servers_warnings_are_events_of_the_owner(server: Server) -> None:
    told: list[tuple[Any, ...]] = []

    class Events:
        def record(self, regarding: Regarding, reason: str, note: str, *, action: str, warning: bool) -> None:
            told.append((regarding.kind, regarding.name, regarding.uid, reason, note, warning))

    server.warnings = ["spec.x: deprecated", "spec.x: deprecated", "would violate PodSecurity"]
    await Applier(cast("Client", server), cast("Recorder", Events())).apply([creation()])
    about = ("TrainingJob", "train", "uid-job", "ServerWarning")
    assert told == [(*about, f"Pod: {text}", True) for text in ("spec.x: deprecated", "would violate PodSecurity")]
