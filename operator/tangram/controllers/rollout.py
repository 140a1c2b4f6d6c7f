"""Which replicas of a service to create and which to delete. Pure.

The rules of this file:

- Replicas are shared among revisions by weight; a revision with a weight gets one as soon as there are enough for all.
- A replica made from an older template, or of a revision that is no longer named, is *old*; one above its revision's
  share is *surplus*. Both are replaced as a Deployment's are: of all replicas together there are at most ``maxSurge``
  more than wanted, and one that answers goes only while at most ``maxUnavailable`` of those wanted are missing,
  whichever revision those are of. Where fewer are wanted in all, what answers beyond that goes at once.
- Where ``maxUnavailable`` is left out it is 0; but when there is no room for one more (no node has it, or a quota
  refuses it), one old or surplus replica goes first, if the service keeps all but one of its replicas; a service of
  one replica waits for room.
- Of a paused service no replica goes for its template or its revision's share, but for those above the number wanted in
  all, and none comes above it.
- A replica that has ended (evicted, refused by the node) is replaced; the more have ended lately, the longer the pause.
  The ended pods themselves are the memory of that, so they stay for a while.
- A replica is of the revision, and has the index, that its name says: labels can be changed, and a name is given once.
- A replica that no Service reaches any more, because its label was changed, is replaced at once; one that was made less
  than a minute ago keeps its place until then: whoever changes the labels of what is created changes the next one's.
- Of too many, those go first that have no node, then those that are not ready, then the youngest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tangram.api import names
from tangram.api.inference import InferenceService, Revision
from tangram.api.views import PodView
from tangram.controllers.manifests import revision_of_pod, service_pod_name
from tangram.controllers.sameness import is_made_from
from tangram.plan import Reason
from tangram.units import timestamp_seconds

NO_ROOM_SECONDS = 30
"""Seconds without a place for the one more replica after which a rollout goes on without it."""
ROOM_HELPS = frozenset(
    map(
        str,
        (
            Reason.INSUFFICIENT_GPU, Reason.GPU_FRAGMENTED, Reason.INSUFFICIENT_GPU_MEMORY, Reason.INSUFFICIENT_CPU,
            Reason.INSUFFICIENT_MEMORY, Reason.INSUFFICIENT_PODS, Reason.INSUFFICIENT_RESOURCE, Reason.QUEUE_LIMIT,
            Reason.CLASS_NODES_FULL, Reason.HOST_PORT_TAKEN, Reason.VOLUME_IN_USE, Reason.TOPOLOGY_SPREAD,
            Reason.POD_ANTI_AFFINITY,
        ),
    )
)  # fmt: skip
"""Reasons for which a new replica waits that the going of an old one can heal."""
RELABELLED_SECONDS = 60
"""Seconds after its creation until a replica whose labels somebody has changed is replaced."""
_PAUSES = (0.0, 1.0, 5.0, 20.0, 60.0, 300.0)
"""Seconds before the next replica is created, by the number of those that ended lately."""
_REMEMBERED_SECONDS = 600
_REMEMBERED = 5


@dataclass(slots=True)
class Replicas:
    """The pods of one revision (of the service, where ``revision`` is None: of revisions no longer named)."""

    revision: Revision | None
    desired: int
    service: str = ""
    """Name of the service."""
    fresh: list[PodView] = field(default_factory=list)
    """Made from the present template."""
    old: list[PodView] = field(default_factory=list)
    ended: list[PodView] = field(default_factory=list)
    leaving: list[PodView] = field(default_factory=list)
    unreached: list[PodView] = field(default_factory=list)
    """Those whose label was changed: no Service sends to them, so others take their place."""
    held: dict[str, PodView] = field(default_factory=dict)
    """By name: those of them, and of the old ones whose label of the revision was changed, that keep their places until
    they are old enough to be replaced."""

    @property
    def alive(self) -> list[PodView]:
        """Pods that run or will."""
        return self.fresh + self.old

    @property
    def surplus(self) -> list[PodView]:
        """Pods of the present template above the revision's share: those that can be done without most easily."""
        return dispensable(self.fresh)[: max(0, len(self.fresh) - self.desired)]

    @property
    def outgoing(self) -> list[PodView]:
        """Pods that are to go, when others answer in their place."""
        return [pod for pod in self.old if pod.name not in self.held] + self.surplus

    @property
    def relabelled(self) -> list[PodView]:
        """Old ones that are so because their label of the revision was changed."""
        mine = self.revision.name if self.revision is not None else ""
        return [pod for pod in self.old if mine and pod.label(names.REVISION) != mine]

    @property
    def lacking(self) -> int:
        """Replicas that are wanted and have no place."""
        return max(0, self.desired - len(self.fresh) - len(self.held))

    def ready(self) -> int:
        """Pods that answer."""
        return sum(pod.ready for pod in self.alive)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a rollout may leave the number of replicas wanted."""

    surge: int = 1
    unavailable: int = 0
    gives_way: bool = True
    """Whether one replica may go when there is no room for another one."""
    paused: bool = False


def limits_of(service: InferenceService, desired: int) -> Limits:
    """The service's limits for so many replicas; percentages are rounded as Kubernetes does, surge up."""
    strategy = service.spec.strategy
    if service.spec.paused:
        return Limits(0, 0, False, True)
    surge = _number(strategy.max_surge or "1", desired, up=True)
    unavailable = _number(strategy.max_unavailable or "0", desired, up=False)
    gives_way = strategy.max_unavailable is None
    if not surge and not unavailable:
        unavailable = 1  # rounded to nothing, no replica could ever be replaced
    return Limits(surge, unavailable, gives_way)


def _number(text: str, whole: int, *, up: bool) -> int:
    if not text.endswith("%"):
        return int(text)
    hundredfold = int(text[:-1]) * whole
    return -(-hundredfold // 100) if up else hundredfold // 100


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do next."""

    create: tuple[tuple[Revision, int], ...] = ()
    """(revision, index of the new replica)."""
    delete: tuple[tuple[PodView, str], ...] = ()
    """(pod, why)."""
    wait: float | None = None
    """Seconds until more can be done, when time alone decides it."""


def wanted_replicas(service: InferenceService) -> int:
    """Replicas wanted in all; between the bounds of the autoscaler, where there is one."""
    scale = service.spec.autoscale
    replicas = service.spec.replicas
    return replicas if scale is None else max(scale.min, min(scale.max, replicas))


def split(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """``total`` replicas shared by weight: whole numbers as near to the shares as can be (largest remainder)."""
    weighted = [name for name, weight in weights.items() if weight > 0]
    shares = dict.fromkeys(weights, 0)
    whole = sum(weights[name] for name in weighted)
    if not weighted or total <= 0:
        return shares
    for name in weighted:
        shares[name] = total * weights[name] // whole
    order = {name: place for place, name in enumerate(weights)}
    rest = sorted(weighted, key=lambda name: (-(total * weights[name] % whole), order[name]))
    for name in rest[: total - sum(shares.values())]:
        shares[name] += 1
    if total >= len(weighted):
        for name in weighted:
            if shares[name] == 0:  # a canary of which nothing can be seen is none
                largest = max(weighted, key=lambda item: (shares[item], -order[item]))
                shares[largest] -= 1
                shares[name] = 1
    return shares


def sort_replicas(
    service: InferenceService,
    pods: Iterable[PodView],
    desired: Mapping[str, int],
    whole: Mapping[str, Mapping[str, Any]],
    now: float,
) -> list[Replicas]:
    """The pods by revision, in the order of the spec; those of revisions no longer named come last.

    ``whole`` are the pods that another version of the controller has made, as the server has them, by uid.
    """
    name = service.metadata.name
    groups = {item.name: Replicas(item, desired[item.name], name) for item in service.spec.revisions}
    gone = Replicas(None, 0, name)
    for pod in sorted(pods, key=lambda item: item.name):
        group = groups.get(revision_of_pod(name, pod.name), gone)
        if pod.terminating:
            group.leaving.append(pod)
        elif pod.ended:
            group.ended.append(pod)
        elif pod.label(names.SERVICE) != name:
            group.unreached.append(pod)
        elif (
            group.revision is not None
            and pod.label(names.REVISION) == group.revision.name
            and is_made_from(service, group.revision, pod, whole)
        ):
            group.fresh.append(pod)
        else:
            group.old.append(pod)
    for group in groups.values():
        group.held = _held(group, now)
    return [*groups.values(), gone]


def _held(group: Replicas, now: float) -> dict[str, PodView]:
    """Replicas whose labels were changed, and that are too young to be replaced; as many as places are left."""
    relabelled = (*group.unreached, *group.relabelled)
    young = [pod for pod in relabelled if now - pod.created < RELABELLED_SECONDS]
    return {pod.name: pod for pod in young[: group.lacking]}


def plan(groups: Iterable[Replicas], now: float, limits: Limits, refused_since: float | None = None) -> Steps:
    """The next steps of a rollout, a scaling or a repair; ``refused_since``: when a quota began to refuse replicas."""
    create: list[tuple[Revision, int]] = []
    delete: list[tuple[PodView, str]] = []
    waits: list[float] = []
    groups = list(groups)
    left = _allowance(groups, limits)
    for group in groups:
        delete += _forget(group, now)
        unreached = (pod for pod in group.unreached if pod.name not in group.held)
        delete += [(pod, f"its label {names.SERVICE} was changed") for pod in unreached]
        if group.revision is None:
            continue
        pause = pause_left(group.ended, now)
        indexes = _to_create(group, left)
        if indexes and pause > 0:
            waits.append(pause)
        else:
            left -= len(indexes)
            create += [(group.revision, index) for index in indexes]
    if limits.paused:
        delete += _too_many(groups)
    else:
        delete += _replaced(groups, limits, _no_room_left(groups, now, refused_since), waits)
    for group in groups:
        waits += [pod.finished + _REMEMBERED_SECONDS - now for pod in group.ended]
        waits += [pod.created + RELABELLED_SECONDS - now for pod in group.held.values()]
    due = [wait for wait in waits if wait > 0]
    return Steps(tuple(create), tuple(delete), min(due) if due else None)


def _allowance(groups: list[Replicas], limits: Limits) -> int:
    """How many replicas may be created now."""
    alive = sum(len(group.alive) + sum(pod.name in group.held for pod in group.unreached) for group in groups)
    outgoing = any(group.outgoing for group in groups)
    return sum(group.desired for group in groups) + (limits.surge if outgoing else 0) - alive


def pause_left(ended: list[PodView], now: float) -> float:
    """Seconds until the next replica may be created."""
    if not ended:
        return 0.0
    pause = _PAUSES[min(len(ended), len(_PAUSES) - 1)]
    return max(0.0, max(pod.finished for pod in ended) + pause - now)


def _to_create(group: Replicas, most: int) -> list[int]:
    """Indexes of new replicas: the lowest whose names no pod has, so that a repetition asks for the same names."""
    assert group.revision is not None
    count = max(0, min(group.lacking, most))
    taken = {pod.name for pod in (*group.alive, *group.ended, *group.leaving, *group.unreached)}
    indexes: list[int] = []
    index = 0
    while len(indexes) < count:
        if service_pod_name(group.service, group.revision.name, index) not in taken:
            indexes.append(index)
        index += 1
    return indexes


def dispensable(pods: Iterable[PodView]) -> list[PodView]:
    """Pods in the order in which they can be done without."""
    return sorted(pods, key=lambda pod: (pod.bound, pod.ready, -pod.created, pod.name))


def _too_many(groups: list[Replicas]) -> list[tuple[PodView, str]]:
    """Outgoing replicas of a paused service above the number wanted, in so far as no answer is lost by it."""
    above = sum(len(group.alive) - group.desired for group in groups)
    spare = _spare(groups, 0)
    going: list[tuple[PodView, str]] = []
    for pod, why in _outgoing(groups):
        if len(going) < above and (not pod.ready or spare > 0):
            spare -= pod.ready
            going.append((pod, why))
    return going


def _outgoing(groups: list[Replicas]) -> list[tuple[PodView, str]]:
    """Replicas that are to go and why, in the order in which they can be done without."""
    why = {pod.name: "it was made from an older template" for group in groups for pod in group.old}
    why |= {pod.name: f"its label {names.REVISION} was changed" for group in groups for pod in group.relabelled}
    going = dispensable(pod for group in groups for pod in group.outgoing)
    return [(pod, why.get(pod.name, "fewer replicas of its revision are wanted")) for pod in going]


def _spare(groups: list[Replicas], unavailable: int) -> int:
    """How many that answer may go, while so many of those wanted may be missing."""
    desired = sum(group.desired for group in groups)
    return max(0, sum(group.ready() for group in groups) - max(0, desired - unavailable))


def _replaced(
    groups: list[Replicas], limits: Limits, left: float | None, waits: list[float]
) -> list[tuple[PodView, str]]:
    """Outgoing replicas that may go now: those that do not answer, and as many others as are not needed any more."""
    outgoing = _outgoing(groups)
    useless = [(pod, why) for pod, why in outgoing if not pod.ready]
    serving = [(pod, why) for pod, why in outgoing if pod.ready]
    spare = _spare(groups, limits.unavailable)
    desired = sum(group.desired for group in groups)
    if limits.gives_way and spare == 0 and serving and sum(group.ready() for group in groups) > max(1, desired - 1):
        # All wait for room that may never come: give some.
        if left is not None and left > 0:
            waits.append(left)
        elif left is not None:
            spare = 1
    return [*useless, *serving[:spare]]


def _no_room_left(groups: list[Replicas], now: float, refused_since: float | None) -> float | None:
    """Seconds until a new replica has waited long enough for room; None when none waits for it."""
    lacking = any(group.lacking for group in groups)
    since = [refused_since] if refused_since is not None and lacking else []
    for group in groups:
        for pod in group.fresh:
            condition = pod.condition("PodScheduled")
            if (
                not pod.bound
                and condition is not None
                and condition.status == "False"
                and _lacks_room(condition.message)
            ):
                since.append(timestamp_seconds(condition.last_transition_time) or pod.created)
    return max(0.0, min(since) + NO_ROOM_SECONDS - now) if since else None


def _lacks_room(message: str) -> bool:
    """Whether a replica waits for what another one's going could give it; the scheduler writes ``Code: sentence``."""
    return message.partition(":")[0] in ROOM_HELPS


def _forget(group: Replicas, now: float) -> list[tuple[PodView, str]]:
    """Ended pods that need not be remembered any more."""
    newest = sorted(group.ended, key=lambda pod: (-pod.finished, pod.name))
    keep = 0 if group.revision is None else _REMEMBERED
    return [
        (pod, "it has ended and was replaced")
        for place, pod in enumerate(newest)
        if place >= keep or now - pod.finished >= _REMEMBERED_SECONDS
    ]
