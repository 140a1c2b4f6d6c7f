"""A cluster in a dictionary: does what reconciles ask for, and lets tests play scheduler, kubelet and misfortune.

It checks on its own what must hold always: no step between phases that the tables forbid, no status that the API would
refuse, never two pods of one name, nothing deleted but by its uid.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from tests.controllers.builders import NOW, condition, ended

from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.inference import InferenceStatus, parse_inference_service
from tangram.api.phases import INFERENCE_SERVICE, TRAINING_JOB, JobPhase, ServicePhase
from tangram.api.training import TrainingStatus, parse_training_job
from tangram.api.views import PodView, ServiceView
from tangram.controllers import inference, training
from tangram.controllers.actions import Action, Confirm, Create, Delete, Patch, RecordEvent, Requeue, SetStatus
from tangram.controllers.identity import is_foreign
from tangram.controllers.observed import ObservedJob, ObservedService, Source
from tangram.controllers.rollback import SERVED_SECONDS
from tangram.controllers.status import read_status
from tangram.units import rfc3339

Writes = Create | Delete | Patch | SetStatus


class World:
    """One object, what it owns, and a clock."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = copy.deepcopy(raw)
        self.raw.setdefault("status", {})
        self.now = NOW
        self.pods: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.budgets: dict[str, dict[str, Any]] = {}
        self.told: list[RecordEvent] = []
        self.source: Source | None = None
        self.refused = ""
        self.refuses: Callable[[Create], str] = lambda _: ""
        """What the server says to an object that it does not let be created; empty when it does."""
        self.failures: dict[str, str] = {}
        """Pod -> what its node's agent says of a GPU that it holds."""
        self.deleted = False
        self.phases: list[str] = []
        self.created = 0
        self._serial = itertools.count(1)

    # What the controllers do.

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.raw["status"]
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        return next(item for item in self.status["conditions"] if item["type"] == kind)

    def reconcile(self, *, fresh: bool = False) -> tuple[Action, ...]:
        pods = tuple(msgspec.convert(pod, PodView) for pod in self.pods.values())
        services = tuple(msgspec.convert(item, ServiceView) for item in self.services.values())
        raw = {**self.raw, "status": None}
        failures = {pod.metadata.uid: self.failures[pod.name] for pod in pods if pod.name in self.failures}
        if self.raw["kind"] == "TrainingJob":
            status, stored = read_status(TrainingStatus, self.raw)
            job = parse_training_job(raw)
            observed_job = ObservedJob(job, status, stored, pods, services, self.refused, fresh, failures=failures)
            return training.reconcile(observed_job, self.now)
        found, stored = read_status(InferenceStatus, self.raw)
        service = parse_inference_service(raw)
        budgets = tuple(msgspec.convert(item, PodDisruptionBudget) for item in self.budgets.values())
        seen = pods, services, self.refused, self.source
        observed = ObservedService(
            service, found, stored, *seen, failures=failures, budgets=budgets, whole=self.whole()
        )
        return inference.reconcile(observed, self.now)

    def whole(self) -> dict[str, dict[str, Any]]:
        """The pods that another version of the controller has made, as the server stores them."""
        foreign = (
            pod for pod in self.pods.values() if is_foreign(pod["metadata"]["labels"].get(names.TEMPLATE_HASH, ""))
        )
        return {pod["metadata"]["uid"]: as_stored(pod) for pod in foreign}

    def round(self) -> list[Writes]:
        """One look and all its writes; what was written."""
        actions = self.reconcile()
        if any(isinstance(action, Confirm) for action in actions):
            actions = self.reconcile(fresh=True)
            assert not any(isinstance(action, Confirm) for action in actions)
        refused = ""
        written: list[Writes] = []
        for action in actions:
            if isinstance(action, Create):
                refused = self.refuses(action) or refused
                if refused:
                    continue
            self.apply(action)
            written += [action] if isinstance(action, Writes) else []
        if refused != self.refused:
            self.refused = refused
            updates = [action for action in self.reconcile() if isinstance(action, SetStatus)]
            for action in updates:
                self.apply(action)
            written += updates
        return written

    def quota(self, most: int) -> None:
        """The namespace may have so many pods, those on their way out included."""

        def refuses(action: Create) -> str:
            over = action.kind == "Pod" and len(self.pods) >= most
            return f'pods "{action.name}" is forbidden: exceeded quota: all, limited: pods={most}' if over else ""

        self.refuses = refuses

    def accrue(self, *, reap: bool = True) -> None:
        """Rounds until nothing is written any more; then five more that must write nothing."""
        for _ in range(30):
            written = self.round()
            if reap:
                self.reap()
            if not written:
                break
        else:
            raise AssertionError(f"does not settle: {[str(action) for action in written]}")
        for _ in range(5):
            assert self.round() == []

    def apply(self, action: Action) -> None:
        match action:
            case Create(manifest=manifest):
                self._create(manifest)
            case Delete(ref=ref) if ref.resource.kind == "Pod":
                pod = self.pods[ref.name]
                assert pod["metadata"]["uid"] == ref.uid
                assert "deletionTimestamp" not in pod["metadata"], "deleted twice"
                pod["metadata"]["deletionTimestamp"] = rfc3339(self.now)
            case Delete(ref=ref) if ref.resource.kind == "Service":
                del self.services[ref.name]
            case Delete(ref=ref) if ref.resource.kind == "PodDisruptionBudget":
                del self.budgets[ref.name]
            case Delete(ref=ref):
                assert ref.uid == self.raw["metadata"]["uid"]
                self.deleted = True
            case Patch(ref=ref, content=content) if ref.resource.kind == self.raw["kind"]:
                assert ref.uid == self.raw["metadata"]["uid"]
                self._merge(self.raw, dict(content))
            case Patch(ref=ref, content=content) if ref.resource.kind == "PodDisruptionBudget":
                self._merge(self.budgets[ref.name], dict(content))
            case Patch(ref=ref, content=content):
                self._merge(self.services[ref.name], dict(content))
            case SetStatus(change=change):
                self._set_status(dict(change))
            case RecordEvent():
                self.told.append(action)
            case Requeue(seconds=seconds):
                assert seconds > 0

    def _create(self, manifest: dict[str, Any]) -> None:
        there = {"Pod": self.pods, "Service": self.services, "PodDisruptionBudget": self.budgets}[manifest["kind"]]
        name = manifest["metadata"]["name"]
        assert name not in there, f"{name} is created twice"
        assert manifest["metadata"]["ownerReferences"][0]["uid"] == self.raw["metadata"]["uid"]
        assert len(name) <= 63
        if manifest["kind"] == "Pod" and self.raw["kind"] == "TrainingJob":
            gangs = {_gang(pod) for pod in (*self.pods.values(), manifest)}
            shapes = {shape for _, shape in gangs if shape}
            assert len({attempt for attempt, _ in gangs}) == 1, f"{name} is created beside members of another attempt"
            assert len(shapes) <= 1, f"{name} is created beside members of another gang"
        there[name] = copy.deepcopy(manifest)
        self.created += manifest["kind"] == "Pod"
        there[name]["metadata"] |= {"uid": f"uid-{next(self._serial)}", "creationTimestamp": rfc3339(self.now)}

    def _set_status(self, change: dict[str, Any]) -> None:
        assert change, "a write that changes nothing"
        before = self.status.get("phase")
        self._merge(self.status, change)
        job = self.raw["kind"] == "TrainingJob"
        written = {key: value for key, value in change.items() if value is not None}
        (TrainingStatus if job else InferenceStatus).model_validate_json(msgspec.json.encode(written))
        if "phase" not in change:
            return
        after = self.status["phase"]
        if job:
            assert TRAINING_JOB.may(JobPhase(before) if before else None, JobPhase(after)), (before, after)
        else:
            assert INFERENCE_SERVICE.may(ServicePhase(before) if before else None, ServicePhase(after)), (before, after)
        if after != before:
            self.phases.append(after)

    def _merge(self, target: dict[str, Any], change: dict[str, Any]) -> None:
        for key, value in change.items():
            if value is None:
                target.pop(key, None)
            elif isinstance(value, dict) and isinstance(target.get(key), dict):
                self._merge(target[key], value)
            else:
                target[key] = copy.deepcopy(value)

    # What others do.

    def edit(self, **spec: Any) -> None:
        """The user changes the spec."""
        self._merge(self.raw["spec"], spec)
        self.raw["metadata"]["generation"] += 1

    def reap(self) -> None:
        """Pods that were asked to go are gone."""
        self.pods = {name: pod for name, pod in self.pods.items() if "deletionTimestamp" not in pod["metadata"]}

    def place(self, *names: str, node: str = "node-1") -> None:
        """The scheduler binds pods."""
        for name in names or list(self.pods):
            self.pods[name]["spec"]["nodeName"] = node

    def run(self, *names: str, ready: bool = True) -> None:
        """The kubelet starts the containers of placed pods."""
        for name in names or list(self.pods):
            pod = self.pods[name]
            if "nodeName" in pod["spec"] and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                since = {one["type"]: one for one in pod.get("status", {}).get("conditions", ())}
                now = condition("Ready", str(ready), when=self.now)
                same = since.get("Ready", {}).get("status") == now["status"]
                pod["status"] = {"phase": "Running", "conditions": [since["Ready"] if same else now]}

    def finish(self, *names: str, code: int = 0, reason: str = "") -> None:
        """Containers end."""
        for name in names:
            phase = "Failed" if code or reason else "Succeeded"
            self.pods[name]["status"] = {
                "phase": phase,
                "reason": reason,
                "containerStatuses": ended(code, when=self.now) if code or not reason else [],
            }

    def crash(self, *names: str, code: int = 1, restarts: int = 1, reason: str = "Error") -> None:
        """The container of a placed pod ends, and the kubelet has restarted it so often."""
        for name in names:
            ended = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": rfc3339(self.now)}}
            backing_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}
            container = {"name": "main", "restartCount": restarts, "state": backing_off, "lastState": ended}
            self.pods[name]["status"] = {
                "phase": "Running",
                "conditions": [condition("Ready", "False", when=self.now)],
                "containerStatuses": [container],
            }

    def start(self) -> None:
        """From nothing to everything running; what a service's replicas are made from has served."""
        self.accrue()
        self.place()
        self.run()
        self.accrue()
        if self.raw["kind"] == "InferenceService":
            self.pass_seconds(SERVED_SECONDS)
            self.accrue()

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds

    @property
    def alive(self) -> list[str]:
        """Names of pods that are not on their way out and have not ended."""
        return sorted(
            name
            for name, pod in self.pods.items()
            if "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        )


def as_stored(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod with what the API server, and a webhook that adds a sidecar, put into it."""
    stored = copy.deepcopy(pod)
    spec = stored["spec"]
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    for container in spec["containers"]:
        container |= {"terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"}
        container["volumeMounts"] = [*container.get("volumeMounts", ()), {**token, "readOnly": True}]
        resources = container.get("resources", {})
        for amounts in resources.values():
            amounts |= {name: "500m" for name, amount in amounts.items() if amount == 0.5}
        if "limits" in resources:
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    spec["containers"].insert(0, {"name": "sidecar", "image": "registry.test/proxy:1"})
    spec["volumes"] = [{"name": token["name"], "projected": {}}, *spec.get("volumes", ())]
    spec["tolerations"] = [*spec.get("tolerations", ()), {"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]
    return stored


def _gang(pod: dict[str, Any]) -> tuple[str, str]:
    """What the members of one gang have in common."""
    annotations = pod["metadata"]["annotations"]
    shape = annotations[names.GANG_SHAPE]
    return annotations[names.ATTEMPT], "" if is_foreign(shape) else shape
