"""Reason codes of the controllers, and how the reasons of many pods become the one that a person reads."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tangram.api.views import PodView
from tangram.plan import Reason


class Why(StrEnum):
    """Why an object is in its phase; the scheduler's codes for waiting pods are in ``plan.Reason``."""

    WAITING_FOR_SCHEDULER = "WaitingForScheduler"
    CREATING_PODS = "CreatingPods"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    COMPLETE = "Complete"
    PODS_DISRUPTED = "PodsDisrupted"
    PODS_FAILED = "PodsFailed"
    RESIZED = "Resized"
    EXIT_CODE = "ExitCodeRule"
    BACKOFF_LIMIT = "BackoffLimitExceeded"
    DEADLINE = "DeadlineExceeded"
    INVALID_SPEC = "InvalidSpec"
    REFUSED = "CreateRefused"
    SERVER_WARNING = "ServerWarning"
    PLACED = "Placed"
    NOT_PLACED = "NotPlaced"
    IDLE = "Idle"
    NOT_STALLED = "NotStalled"
    NOT_SUSPENDED = "NotSuspended"
    GPUS_HEALTHY = "GpusHealthy"
    GPU_UNHEALTHY = "GpuUnhealthy"
    READY = "Ready"
    SCALED_TO_ZERO = "ScaledToZero"
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    REPLICAS_UNREADY = "ReplicasUnready"
    CRASHING = "CrashLoopBackOff"
    ROLLOUT_PAUSED = "RolloutPaused"
    PROGRESS_DEADLINE = "ProgressDeadlineExceeded"
    ROLLOUT_FAILED = "RolloutFailed"
    REPLICAS_BROKEN = "ReplicasBroken"
    WAITING_FOR_MODEL = "WaitingForModel"
    MODEL_FAILED = "ModelFailed"
    MODEL_MISSING = "ModelMissing"
    TRAINING_JOB_COMPLETE = "TrainingJobComplete"
    VALID = "Valid"
    PLUGIN_FAILED = "PluginFailed"
    IN_FORCE = "InForce"
    SHADOWED = "Shadowed"
    STATUS_UNREADABLE = "StatusUnreadable"
    STATUS_LOST = "StatusLost"
    NOT_IN_EFFECT = "NotInEffect"
    GUARANTEES_EXCEED = "GuaranteesExceedParent"
    GUARANTEES_FIT = "GuaranteesFit"


_ON_ITS_WAY = ("", "ContainerCreating", "PodInitializing")
"""What the kubelet says of a container that is being started."""
_ORDER = {str(reason): place for place, reason in enumerate(Reason)}


def waiting_reason(pods: Iterable[PodView]) -> tuple[str, str]:
    """The dominant reason of pods without a node: code and sentence, with the number of pods that it keeps waiting.

    The scheduler writes ``Code: sentence`` into the condition PodScheduled. Where pods wait for different reasons the
    one that stands first in ``plan.Reason`` is named; it has to go before the others matter.
    """
    said: Counter[str] = Counter()
    sentences: dict[str, str] = {}
    for pod in pods:
        condition = pod.condition("PodScheduled")
        code, sentence = Why.WAITING_FOR_SCHEDULER.value, "the scheduler has not reported on the pod yet"
        if condition is not None and condition.status == "False" and condition.message:
            head, colon, rest = condition.message.partition(": ")
            known = bool(colon) and head.isalnum()
            code, sentence = (head, rest) if known else (condition.reason or code, condition.message)
        said[code] += 1
        # The smallest sentence and not the first: the order of the pods must not show.
        sentences[code] = min(sentence, sentences.get(code, sentence))
    if not said:
        return "", ""
    code = min(said, key=lambda item: (_ORDER.get(item, len(_ORDER)), -said[item], item))
    count = f" ({said[code]} of {said.total()} waiting pods)" if said.total() > 1 else ""
    return code, sentences[code] + count


@dataclass(frozen=True, slots=True)
class Crash:
    """A container that ends again and again although it should run."""

    pod: str
    container: str
    exit_code: int
    reason: str
    """The kubelet's word, such as OOMKilled."""
    restarts: int

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "Error", "Completed") else ""
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        ended = f"ended with exit code {self.exit_code}{why}, restarted {times}"
        return f"container {self.container} of pod {self.pod} {ended}"


def crash_of(pod: PodView) -> Crash | None:
    """The container of a pod that is not ready that has been restarted most often; None when none has been."""
    if pod.ready or pod.ended:
        return None
    found = [
        Crash(pod.name, status.name, ended.exit_code, ended.reason, status.restart_count)
        for status in (*pod.status.init_container_statuses, *pod.status.container_statuses)
        if status.restart_count > 0 and not status.ready
        and (ended := status.state.terminated or status.last_state.terminated) is not None
    ]  # fmt: skip
    return min(found, key=lambda crash: (-crash.restarts, crash.container), default=None)


def fault_of(pods: Iterable[PodView]) -> tuple[str, str]:
    """Why containers of placed pods will not run until somebody does something: code and sentence; empty: nothing.

    A container that crashes stands before one that cannot be started (``ImagePullBackOff`` and the like).
    """
    pods = [pod for pod in pods if not pod.terminating]
    crashes = [crash for pod in pods if (crash := crash_of(pod)) is not None]
    if crashes:
        worst = min(crashes, key=lambda crash: (-crash.restarts, crash.pod))
        more = f" ({len(crashes)} pods are crashing)" if len(crashes) > 1 else ""
        return Why.CRASHING, f"{worst}{more}"
    said: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            waiting = status.state.waiting
            if waiting is not None and waiting.reason not in _ON_ITS_WAY:
                said[waiting.reason, waiting.message or f"container {status.name} does not start"] += 1
    return min(said, key=lambda item: (-said[item], item), default=("", ""))


def obstacle(pods: Iterable[PodView]) -> tuple[str, str]:
    """What keeps pods from running, the worst first: a fault of containers, then a missing place, then the start.

    A place may become free by itself, while a crash stays until somebody corrects it.
    """
    pods = list(pods)
    reason, message = fault_of(pod for pod in pods if pod.bound)
    if reason:
        return reason, message
    reason, message = waiting_reason(pod for pod in pods if not pod.bound and not pod.ended)
    if reason:
        return reason, message
    return (Why.STARTING, "containers are starting") if any(pod.bound and not pod.ready for pod in pods) else ("", "")
