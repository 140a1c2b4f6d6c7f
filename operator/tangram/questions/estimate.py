"""When a waiting pod will start, as far as anybody can know: the production cycle run forward in virtual time.

Pods that say how long they run (annotation ``estimated-duration``, which a TrainingJob's pods get from their job) end
when they said, give or take: people guess badly, so the world is run forward several times, and in each run every pod
runs for its guess times another quantile of a log-normal distribution around 1. Each pod meets every quantile once, in
an order made of its uid (a Latin hypercube), so that equal questions have equal answers. The median of the runs is
p50. Pods that say nothing never end, nobody new arrives, and a pod that overran its guess runs for a tenth more of it.
"""

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod
from tangram.decide.queues.rights import least_runtime
from tangram.decide.registry import Registry
from tangram.errors import InvalidInput
from tangram.questions.observe import cycle_of, run_to_rest
from tangram.scheduler.cycle import Cycle
from tangram.snapshot.recording import Recording
from tangram.snapshot.values.hashing import stable_hash

RUNS = 11
"""A prime, so that every step through the quantiles meets each of them once."""
SPREAD = 0.5
"""Standard deviation of the logarithm of actual by estimated duration; nine of ten are within 0.44 and 2.28 times."""
_OVERRUN = 0.1
_TOGETHER = 30
"""Seconds within which pods count as protected for as long: each moment costs a decision."""
_GRACE_SECONDS = 30
"""Seconds that an evicted pod takes to leave."""
_MOST_MOMENTS = 2000
"""Moments of change that a run follows; what is further away is not estimated."""
_FACTORS = tuple(math.exp(SPREAD * NormalDist().inv_cdf((index + 0.5) / RUNS)) for index in range(RUNS))


@dataclass(frozen=True, slots=True)
class Estimate:
    """When the pod starts, in seconds from now; None: it cannot be estimated, and ``why`` says why not."""

    p50: int | None
    p90: int | None
    known: int
    """Pods that hold GPUs and say how long they run, or are terminating."""
    holding: int
    """Pods of this scheduler that hold GPUs."""
    why: str = ""


def estimate(recorded: Recording, wanted: Collection[str], registry: Registry | None = None) -> Estimate:
    """When the first of the pods with these uids is placed; of a gang all start together."""
    running = [pod for pod in recorded.pods if _holds_gpus(pod) and pod.spec.scheduler_name == recorded.scheduler_name]
    known = sum(_end(pod, recorded.now, 1.0, recorded.now) is not None for pod in running)
    waiting = any(_duration(pod) is not None for pod in recorded.pods if not pod.spec.node_name)
    if not known and not waiting and not _next_unprotected(cycle_of(recorded, registry), recorded.now):
        return Estimate(None, None, 0, len(running), "no pod declares how long it runs (estimated-duration)")
    first = _run(recorded, frozenset(wanted), None, registry)
    if first is None:
        silent = len(running) - known
        why = "not even once all pods that declare a duration have ended"
        why += f"; {silent} of {len(running)} pods with GPUs declare none" if silent else ""
        return Estimate(None, None, known, len(running), why)
    if first == 0:
        return Estimate(0, 0, known, len(running))
    starts = [_run(recorded, frozenset(wanted), number, registry) for number in range(RUNS)]
    ordered = sorted(math.inf if start is None else start for start in starts)
    median, late = ordered[RUNS // 2], ordered[math.ceil(0.9 * RUNS) - 1]
    why = (
        "" if median < math.inf else "in most runs it does not start before all pods that declare a duration have ended"
    )
    return Estimate(_whole(median), _whole(late), known, len(running), why)


def factor(uid: str, run: int | None) -> float:
    """By how much the pod's guess is off in a run; 1 when there is no number."""
    if run is None:
        return 1.0
    number = stable_hash(uid)
    step, begin = 1 + number % (RUNS - 1), number // RUNS % RUNS
    return _FACTORS[(begin + step * run) % RUNS]


def _run(recorded: Recording, wanted: frozenset[str], run: int | None, registry: Registry | None) -> int | None:
    """Seconds until one of the wanted pods is placed; None: not before everything that is known has ended."""
    cycle, now = cycle_of(recorded, registry), recorded.now
    pods = {pod.metadata.uid: pod for pod in recorded.pods}
    ends: list[tuple[int, str]] = []
    for uid, pod in pods.items():
        if pod.spec.node_name:
            _plan_end(ends, pod, recorded.now, factor(uid, run), recorded.now)
    heapq.heapify(ends)
    for _ in range(_MOST_MOMENTS):
        outcome = run_to_rest(cycle, now)
        if wanted & outcome.placed.keys():
            return now - recorded.now
        for uid in outcome.placed:
            _plan_end(ends, pods[uid], now, factor(uid, run), recorded.now)
        for uid in outcome.evictions:
            heapq.heappush(ends, (now + _GRACE_SECONDS, uid))
        moments = [end for end, _ in ends[:1]]
        moments += [at for at in (cycle.next_cycle_at, _next_unprotected(cycle, now)) if at > now]
        if not moments:
            return None
        now = min(moments)
        while ends and ends[0][0] <= now:
            cycle.builder.remove_pod(heapq.heappop(ends)[1])
    return None


def _next_unprotected(cycle: Cycle, now: int) -> int:
    """When the next pod that runs will have run for its queue's ``minRuntime``, so that it may be evicted; 0: none."""
    snapshot = cycle.builder.snapshot(now)
    queues, running = snapshot.queues, snapshot.running
    slots = np.flatnonzero(running.present)
    leaves = snapshot.shapes.leaf[running.shape[slots]]
    slots, leaves = slots[leaves >= 0], leaves[leaves >= 0]
    until = running.started[slots] + least_runtime(queues)[queues.parent[leaves]]
    later = until[until > now]
    return -(-int(later.min()) // _TOGETHER) * _TOGETHER if len(later) else 0


def _plan_end(ends: list[tuple[int, str]], pod: Pod, placed: int, times: float, now: int) -> None:
    end = _end(pod, placed, times, now)
    if end is not None:
        heapq.heappush(ends, (end, pod.metadata.uid))


def _end(pod: Pod, placed: int, times: float, now: int) -> int | None:
    """When the pod ends; None when it does not say. A pod that has been deleted goes at its deletion time."""
    if pod.metadata.deletion_timestamp:
        return max(now + 1, units.timestamp_seconds(pod.metadata.deletion_timestamp))
    duration = _duration(pod)
    if duration is None:
        return None
    start = units.timestamp_seconds(pod.status.start_time) if pod.spec.node_name else placed
    end = (start or placed) + math.ceil(duration * times)
    return end if end > now else now + max(1, math.ceil(duration * _OVERRUN))


def _duration(pod: Pod) -> int | None:
    text = pod.metadata.annotations.get(names.ESTIMATED_DURATION)
    try:
        return units.duration_seconds(text) if text else None
    except InvalidInput:
        return None


def _holds_gpus(pod: Pod) -> bool:
    return bool(pod.spec.node_name) and names.GPUS in pod.metadata.annotations


def _whole(seconds: float) -> int | None:
    return None if math.isinf(seconds) else int(seconds)
