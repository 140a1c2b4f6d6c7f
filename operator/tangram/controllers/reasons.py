"""Reason codes of the controllers, and how the reasons of many pods become the one that a person reads."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from tangram.controllers.observed import PodView
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
    REPLICAS_BROKEN = "ReplicasBroken"
    WAITING_FOR_MODEL = "WaitingForModel"
    MODEL_FAILED = "ModelFailed"
    MODEL_MISSING = "ModelMissing"
    TRAINING_JOB_COMPLETE = "TrainingJobComplete"
    VALID = "Valid"
    PLUGIN_FAILED = "PluginFailed"
    IN_FORCE = "InForce"
    SHADOWED = "Shadowed"
    NOT_IN_EFFECT = "NotInEffect"
    GUARANTEES_EXCEED = "GuaranteesExceedParent"
    GUARANTEES_FIT = "GuaranteesFit"


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


def starting_reason(pods: Iterable[PodView]) -> tuple[str, str]:
    """Why containers of placed pods do not run yet: the kubelet's own word, such as ImagePullBackOff."""
    said: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        for status in pod.status.container_statuses:
            waiting = status.state.waiting
            if waiting is not None and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
                said[waiting.reason, waiting.message or f"container {status.name} does not start"] += 1
    if not said:
        return Why.STARTING.value, "containers are starting"
    return min(said, key=lambda item: (-said[item], item))
