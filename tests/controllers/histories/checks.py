"""What must never be, told from the objects themselves: what the controllers believe is not asked."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.controllers.histories.drawing import FATAL
from tests.controllers.histories.findings import Count, Finding
from tests.controllers.histories.neighbours import is_serving, label, listens_on, owner_of, replica_of
from tests.controllers.histories.server import ENDED, Name, Object, Server, Write

from tangram.api import names

LATE = 90.0
"""Seconds for which a controller may act on what was true before: its view, a request on its way, a pause."""
_SETTLED = {"Running", "Complete", "Failed", "Ready", "Idle"}
_BOOKS = ("gpuSeconds", "held", "accountedTime")


@dataclass
class Truth:
    """What is true of one job or service, by its uid."""

    resource: str
    name: str
    wanted: list[tuple[float, int, int]] = field(default_factory=list)
    """(since when, replicas wanted, how many may be missing)."""
    most: int = 0
    """Replicas that there may be at any time."""
    edits: int = 0
    """Of the shape of the job."""
    edited: float = -1000.0
    suspended: float | None = None
    stopped: set[str] = field(default_factory=set)
    """Uids of the pods that were there when the last suspension began."""
    cut: bool = False
    """That suspension has deleted some of them while they ran."""
    ended: str = ""
    """How the job ended; empty while it has not."""
    ended_at: float = 0.0
    ended_edits: int = 0
    """Edits of the shape of the job before it ended."""
    failed: set[int] = field(default_factory=set)
    """Attempts in which a pod failed by its own fault."""
    fatal: bool = False
    """A pod failed for which a rule says that the job has failed, before the job ended or in the same second. Nobody
    has to have seen it then."""
    shapes: dict[str, int] = field(default_factory=dict)
    """Uid of a pod -> edits of the job's shape when it was made."""
    done: set[tuple[str, str]] = field(default_factory=set)
    """Replicas that have ended with success."""
    forgotten: bool = False
    """Somebody has taken the status away."""


@dataclass
class Checks:
    """Watches all that happens to the objects of a history."""

    server: Server
    calm: bool
    findings: list[Finding] = field(default_factory=list)
    truths: dict[str, Truth] = field(default_factory=dict)
    last_write: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Uid of an owner -> when a controller last wrote something for it, and what."""
    serving: dict[str, float] = field(default_factory=dict)
    """Uid of a pod -> since when it answers."""
    last_end: float = 0.0
    """When a pod ended last: that has still to be seen."""

    def __post_init__(self) -> None:
        self.server.on_change, self.server.on_write = self._changed, self._written

    def found(self, count: Count, sentence: str) -> None:
        self.findings.append(Finding(count, self.server.clock(), sentence))

    # What happens.

    def _changed(self, name: Name, before: Object | None, after: Object | None) -> None:
        if name[0] in ("trainingjobs", "inferenceservices"):
            if after is not None:
                self._owner(name, before, after)
        elif name[0] == "pods":
            self._pod(before, after)

    def _owner(self, name: Name, before: Object | None, after: Object) -> None:
        truth = self.truths.setdefault(after["metadata"]["uid"], Truth(*name))
        spec, now = after["spec"], self.server.clock()
        if before is None or before["spec"] != spec:
            truth.edited = now
            if name[0] == "inferenceservices":
                missing, surge = _limits(spec)
                truth.wanted.append((now, spec.get("replicas", 1), missing))
                truth.most = max(truth.most, max(count for _, count, _ in truth.wanted) + surge)
            elif before is not None and _shape(before["spec"]) != _shape(spec):
                truth.edits += 1
        suspended = spec.get("runPolicy", {}).get("suspend", False)
        if suspended:
            truth.suspended = now
        elif truth.suspended is not None and now - truth.suspended > LATE:
            truth.suspended = None
        if _says_suspended(after) and not _says_suspended(before or {}):
            truth.stopped, truth.cut = {pod["metadata"]["uid"] for pod in self.pods_of(after["metadata"]["uid"])}, False
        self._phase(truth, before, after)

    def _phase(self, truth: Truth, before: Object | None, after: Object) -> None:
        if truth.resource != "trainingjobs":
            return
        status = after.get("status") or {}
        was, phase = ((before or {}).get("status") or {}).get("phase"), status.get("phase")
        if was in ("Complete", "Failed") and phase != was and phase is not None:
            self.found(Count.RERUN, f"{truth.name} was {was} and is {phase}")
        if phase in ("Complete", "Failed"):
            self._end(truth, phase)
        restarts, known = status.get("restarts", 0), ((before or {}).get("status") or {}).get("restarts", 0)
        if restarts > len(truth.failed) and restarts != known:
            text = f"{truth.name} has {restarts} restarts; attempts with a failure: {sorted(truth.failed)}"
            self.found(Count.MISCOUNTED, f"{text}; {status.get('message')}")

    def _pod(self, before: Object | None, after: Object | None) -> None:
        pod = after or before
        assert pod is not None
        truth = self.truths.get(owner_of(pod))
        if after is not None and is_serving(after) and not (before is not None and is_serving(before)):
            self.serving[pod["metadata"]["uid"]] = self.server.clock()
        if pod["status"]["phase"] in ENDED and (before is None or before["status"]["phase"] not in ENDED):
            self.last_end = self.server.clock()
        if truth is None or truth.resource != "trainingjobs" or after is None:
            return
        attempt = int(pod["metadata"]["annotations"].get(names.ATTEMPT, "-1"))
        if pod["status"]["phase"] == "Failed" and "deletionTimestamp" not in pod["metadata"]:
            truth.failed.add(attempt)
            in_time = not truth.ended or self.server.clock() - truth.ended_at < 1.0
            truth.fatal |= in_time and _exit_code(pod) == FATAL
        if pod["status"]["phase"] == "Succeeded":
            truth.done.add(replica_of(pod))
        if pod["status"]["phase"] == "Succeeded" and self._is_complete(truth, pod, attempt):
            self._end(truth, "Complete")

    def _end(self, truth: Truth, how: str) -> None:
        if not truth.ended:
            truth.ended, truth.ended_at, truth.ended_edits = how, self.server.clock(), truth.edits

    def _is_complete(self, truth: Truth, pod: Object, attempt: int) -> bool:
        job = self.server.get("trainingjobs", truth.name)
        if job is None or job["metadata"]["uid"] != owner_of(pod):
            return False
        elastic = job["spec"].get("elastic")
        counts = 0
        for other in self.pods_of(owner_of(pod)):
            if elastic is not None and label(other, names.ROLE) != "master":
                continue
            counts += (
                other["status"]["phase"] == "Succeeded"
                and "deletionTimestamp" not in other["metadata"]
                and other["metadata"]["annotations"].get(names.ATTEMPT) == str(attempt)
                and truth.shapes.get(other["metadata"]["uid"]) == truth.edits
            )
        return counts == (1 if elastic is not None else job["spec"]["roles"][0]["replicas"])

    def pods_of(self, uid: str) -> list[Object]:
        return [pod for pod in self.server.all("pods") if owner_of(pod) == uid]

    # What controllers write.

    def _written(self, write: Write) -> None:
        resource, name = write.name
        item = write.after or write.before
        assert item is not None
        owned = resource not in ("trainingjobs", "inferenceservices")
        uid = owner_of(item) if owned else item["metadata"]["uid"]
        if owned or _says_more(write):
            self.last_write[uid] = (write.time, f"{write.method} {resource} {name} by {write.who}")
        if resource == "services" and write.method == "PATCH" and self.calm and write.before is not None:
            self._turned(uid, write.before, item)
        if resource != "pods" or (truth := self.truths.get(uid)) is None:
            return
        if write.method == "POST":
            truth.shapes[item["metadata"]["uid"]] = truth.edits
            self._made(truth, uid, item)
        elif write.method == "DELETE":
            truth.cut |= item["metadata"]["uid"] in truth.stopped and item["status"]["phase"] not in ENDED
            if self.calm:
                self._taken(truth, uid, item)

    def _turned(self, uid: str, before: Object, after: Object) -> None:
        """A Service is sent to another port."""
        was, now = self._reached(uid, before, LATE), self._reached(uid, after)
        if now < was:
            self.found(Count.TAKEN, f"Service {after['metadata']['name']} reaches {now} replicas, and reached {was}")

    def _reached(self, uid: str, service: Object, seconds: float = 0.0) -> int:
        """Replicas that answer where a Service sends, and have done so for so many seconds."""
        selector, (port,) = service["spec"]["selector"], service["spec"]["ports"]
        return sum(
            is_serving(pod)
            and listens_on(pod) == port["targetPort"]
            and self.server.clock() - self.serving.get(pod["metadata"]["uid"], 0.0) >= seconds
            for pod in self.pods_of(uid)
            if selector.items() <= pod["metadata"]["labels"].items()
        )

    def _made(self, truth: Truth, uid: str, made: Object) -> None:
        name = made["metadata"]["name"]
        if truth.ended and not truth.forgotten and self._runs_again(truth, made):
            self.found(Count.RERUN, f"pod {name} is created although the job is {truth.ended}")
        living = [pod for pod in self.pods_of(uid) if pod["status"]["phase"] not in ENDED]
        seen: dict[tuple[str, str], list[str]] = defaultdict(list)
        for pod in living:
            seen[replica_of(pod)].append(pod["metadata"]["name"])
        if twice := {key: found for key, found in seen.items() if len(found) > 1}:
            self.found(Count.DUPLICATED, f"{twice}")
        if truth.cut and any(pod["metadata"]["uid"] in truth.stopped for pod in living):
            self.found(Count.DUPLICATED, f"{name} is created beside pods of which a suspension has deleted some")
        if truth.resource == "trainingjobs":
            attempts = {pod["metadata"]["annotations"].get(names.ATTEMPT) for pod in living}
            if len(attempts) > 1:
                self.found(Count.DUPLICATED, f"{name} is created beside pods of another attempt: {sorted(attempts)}")
        elif len([pod for pod in living if "deletionTimestamp" not in pod["metadata"]]) > truth.most:
            self.found(Count.DUPLICATED, f"{name} is one more than the {truth.most} replicas that there may be")

    def _runs_again(self, truth: Truth, made: Object) -> bool:
        """Whether a pod runs what has ended: not the first of its replica that was on its way, and nobody has changed
        the job between its end and the controller's next look."""
        job = self.server.get(truth.resource, truth.name) or {}
        phase = (job.get("status") or {}).get("phase")
        return phase in ("Complete", "Failed") or (truth.edits == truth.ended_edits and replica_of(made) in truth.done)

    def _taken(self, truth: Truth, uid: str, pod: Object) -> None:
        now, name = self.server.clock(), pod["metadata"]["name"]
        if truth.resource == "inferenceservices":
            last = [one for one in truth.wanted if one[0] < now - LATE][-1:]
            recent = [*last, *(one for one in truth.wanted if one[0] >= now - LATE)]
            needed = min(count - missing for _, count, missing in recent)
            serving = sum(is_serving(other) and other is not pod for other in self.pods_of(uid))
            if is_serving(pod) and serving < needed and now - LATE > 0:
                self.found(Count.TAKEN, f"{name} is deleted: {serving} replicas are left of {needed}")
            return
        running = pod["status"]["phase"] in ("Running", "Pending") and "deletionTimestamp" not in pod["metadata"]
        allowed = truth.ended or truth.forgotten or truth.suspended is not None or now - truth.edited < LATE
        if running and not allowed:
            self.found(Count.TAKEN, f"{name} is deleted although its gang is well")

    # At rest.

    def settled(self, quiet: float) -> bool:
        """Whether all is as it is to be, for longer than ``quiet`` seconds, and nothing is waited for."""
        since = max((self.last_end, *(when for when, _ in self.last_write.values())))
        ended = any(pod["status"]["phase"] in ENDED and label(pod, names.SERVICE) for pod in self.server.all("pods"))
        items = (*self.server.all("trainingjobs"), *self.server.all("inferenceservices"))
        phases = {(item.get("status") or {}).get("phase") for item in items}
        return phases <= _SETTLED and not ended and self.server.clock() - since > quiet

    def at_rest(self, quiet: float) -> None:
        """Judge the objects after a long peace, of which nothing was to happen for ``quiet`` seconds."""
        for resource in ("trainingjobs", "inferenceservices"):
            for item in self.server.all(resource):
                self._judge(resource, item)
                when, what = self.last_write.get(item["metadata"]["uid"], (0.0, ""))
                if when > self.server.clock() - quiet:
                    self.found(Count.RESTLESS, f"{item['metadata']['name']} at rest: {what} at {when:.0f}")
        items = (*self.server.all("trainingjobs"), *self.server.all("inferenceservices"))
        owners = {item["metadata"]["uid"] for item in items}
        for pod in self.server.all("pods"):
            if owner_of(pod) not in owners:
                self.found(Count.RESTLESS, f"pod {pod['metadata']['name']} of an owner that is gone")

    def _judge(self, resource: str, item: Object) -> None:
        uid, name, status = item["metadata"]["uid"], item["metadata"]["name"], item.get("status") or {}
        living = [pod for pod in self.pods_of(uid) if pod["status"]["phase"] not in ENDED]
        phase = status.get("phase")
        if resource == "inferenceservices":
            wanted = item["spec"].get("replicas", 1)
            serving = [pod for pod in living if is_serving(pod)]
            reached = self._reached(uid, service) if (service := self.server.get("services", name)) is not None else 0
            if reached < len(serving):
                self.found(Count.LOST, f"Service {name} reaches {reached} of {len(serving)} replicas at rest")
            if len(serving) < wanted:
                said = f"{name} has {len(serving)} of {wanted} replicas at rest"
                self.found(Count.LOST, f"{said}: {phase} {status.get('reason')} {status.get('message')}")
            elif len(living) > wanted:
                self.found(Count.RESTLESS, f"{name} has {len(living)} replicas at rest and wants {wanted}")
            elif phase != ("Ready" if wanted else "Idle") and status.get("failedRollout") is None:
                self.found(Count.RESTLESS, f"{name} has all {wanted} replicas and is {phase}: {status.get('message')}")
            elif status.get("failedRollout") is None and len({label(pod, names.TEMPLATE_HASH) for pod in living}) > len(
                item["spec"]["revisions"]
            ):
                self.found(Count.RESTLESS, f"{name} has replicas of older templates at rest")
            return
        self._judge_job(item, status, living, self.truths[uid])

    def _judge_job(self, item: Object, status: Any, living: Iterable[Object], truth: Truth) -> None:
        name, phase = item["metadata"]["name"], status.get("phase")
        there = sorted(pod["metadata"]["name"] for pod in living)
        if status.get("reason") == "StatusLost" and truth.forgotten:
            return
        if truth.ended and not truth.forgotten and truth.edits == truth.ended_edits:
            if phase != truth.ended and not (truth.fatal and phase == "Failed"):
                self.found(Count.RESTLESS, f"{name} was {truth.ended} and is {phase} at rest: {status.get('message')}")
            if there and item["spec"].get("runPolicy", {}).get("cleanPodPolicy") != "None":
                self.found(Count.RESTLESS, f"{name} is {phase} and has {there}")
        elif phase not in ("Running", "Complete", "Failed"):
            self.found(Count.LOST, f"{name} is {phase} at rest: {status.get('reason')}: {status.get('message')}")
        elif phase == "Running" and len(there) < _replicas(item["spec"]):
            done = [pod for pod in self.pods_of(item["metadata"]["uid"]) if pod["status"]["phase"] == "Succeeded"]
            if not done:
                self.found(Count.LOST, f"{name} is Running with {there} of {_replicas(item['spec'])}")


def _says_suspended(item: Object) -> bool:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Suspended" and one["status"] == "True" for one in conditions)


def _limits(spec: Object) -> tuple[int, int]:
    """(how many replicas may be missing, how many there may be more than wanted)."""
    strategy = spec.get("strategy") or {}
    missing, surge = strategy.get("maxUnavailable", 0), strategy.get("maxSurge", 1)
    return (1, surge) if not missing and not surge else (missing, surge)


def _replicas(spec: Object) -> int:
    elastic = spec.get("elastic")
    return sum(
        elastic["replicas"] if elastic is not None and one["name"] == elastic["role"] else one["replicas"]
        for one in spec["roles"]
    )


def _exit_code(pod: Object) -> int:
    statuses = pod["status"].get("containerStatuses") or ()
    return int(statuses[0]["state"]["terminated"]["exitCode"]) if statuses else 0


def _shape(spec: Object) -> Any:
    return [spec["roles"], spec.get("elastic")]


def _says_more(write: Write) -> bool:
    """Whether a write to one of our own objects says more than the books."""
    before, after = ((item or {}).get("status") or {} for item in (write.before, write.after))
    keys = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return bool(keys - set(_BOOKS))
