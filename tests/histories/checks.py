"""What is checked after every step of a history, and once it has come to rest."""

import re
from collections import Counter, defaultdict

from tests.histories import pool
from tests.histories.findings import Count
from tests.histories.neighbours import welcome
from tests.histories.stage import Stage

from tangram.api import names
from tangram.api.objects import Pod
from tangram.plan import Hold, Plan, Reason
from tangram.simulate.audit import misplaced, overfilled
from tangram.simulate.surroundings import surroundings
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

_MORE = 5
"""Cycles that must change nothing in a world at rest."""


class Steps:
    """Compares each step with the moment before it: only what we have written may be held against us."""

    def __init__(self) -> None:
        self._wrongs: dict[str, int] = {}
        """What was wrong without our doing, and by how much."""
        self._used: Counter[str] = Counter()
        self._placed = 0
        self._current = True

    def begin(self, stage: Stage) -> None:
        """The world has gone on, and the scheduler is about to decide: what is wrong now is not its fault."""
        self._current = stage.current
        self._wrongs = dict(map(_measured, (*overfilled(stage.world), *misplaced(stage.world))))
        self._used = pool.usage(stage.world, stage.policy)

    def end(self, stage: Stage) -> None:
        """The scheduler has written."""
        placed, self._placed = self._placed, stage.loop.cycle.counters.placed
        if placed == self._placed or not self._current:
            return
        for sentence in sorted({*overfilled(stage.world), *misplaced(stage.world)}):
            what, amount = _measured(sentence)
            if amount > self._wrongs.get(what, -1):
                stage.note(Count.ILLEGAL, sentence)
        used = pool.usage(stage.world, stage.policy)
        for queue, limit in pool.limits(stage.policy).items():
            if used[queue] > max(limit, self._used[queue]):
                stage.note(Count.LIMITS, f"queue {queue} uses {used[queue]} hundredths of GPUs, its limit is {limit}")


def _measured(sentence: str) -> tuple[str, int]:
    """What a sentence says is wrong, without the amounts behind its first comma, and their sum."""
    head, comma, tail = sentence.partition(", ")
    return head + comma + re.sub(r"\b\d+\b", "#", tail), sum(map(int, re.findall(r"\b\d+\b", tail)))


def fresh_plan(stage: Stage) -> Plan:
    """What a new process would decide now, from what the API server shows, in another order."""
    cycle, world, now = stage.new_cycle(), stage.world, stage.world.clock.now
    cycle.stage = _Silent()  # type: ignore[assignment]
    handlers = surroundings(cycle.builder, lambda: None)
    for kind in stage.chance.sample(sorted(handlers), len(handlers)):
        for found in list(world.objects[kind].values()):
            handlers[kind](None, found)
    for node in _shuffled(stage, list(world.nodes.values())):
        cycle.builder.put_node(node)
    for pod in _shuffled(stage, list(world.pods.values())):
        cycle.observe_pod(None, pod)
    stage.recall(cycle, stage.loop.cycle)
    return cycle.decide(now)


class _Silent:
    world = None

    def note(self, count: Count, sentence: str) -> None:
        """Somebody else has said so already."""

    def decided(self, plan: Plan) -> None:
        """Nobody writes it."""


def _shuffled(stage: Stage, found: list) -> list:
    stage.chance.shuffle(found)
    return found


def may_compare(stage: Stage) -> bool:
    """Whether a new process must decide the same: nothing is late, claimed or just given to who claimed it, and nobody
    has been refused anything, or got nothing by what others left: for how long it stays away is known to the process
    that heard of it only."""
    refused = stage.faults.met or stage.given_back or stage.tireless
    claims = stage.loop.cycle.builder.claims
    quiet = not (claims.live() or claims.nominations or claims.denied)
    return stage.current and not refused and quiet


def learns(stage: Stage) -> bool:
    """Whether scores follow from pods that are gone: a new process then may choose other nodes, and so other pods."""
    policy = stage.policy
    return policy is None or policy.spec.placement is None or policy.spec.placement.strategy == "fragmentation"


def compare(stage: Stage, plan: Plan, fresh: Plan) -> None:
    """Note how two plans differ."""
    if who(plan) != who(fresh):
        stage.note(Count.FRESH, f"this process:\n{moves(plan)}\na new one:\n{moves(fresh)}")
    elif plan.place != fresh.place and set(plan.place) != set(fresh.place):
        stage.note(Count.ELSEWHERE, f"this process:\n{moves(plan)}\na new one:\n{moves(fresh)}")


def who(plan: Plan) -> tuple[set[str], set[str]]:
    """Who is placed, and who is evicted for somebody: how long a gang has been in part each process counts itself."""
    evicted = {evict.pod.uid for evict in plan.evict if evict.claimant is not None}
    return {place.pod.uid for place in plan.place}, evicted


def moves(plan: Plan) -> str:
    """What a plan does, without the words for those who wait."""
    return str(Plan(plan.place, plan.evict))


def at_rest(stage: Stage) -> None:
    """What must hold when nothing has happened for a long time."""
    parted(stage)
    starved(stage)
    if may_compare(stage):
        fresh = fresh_plan(stage)
        compare(stage, Plan(), Plan(fresh.place, fresh.evict))
    for _ in range(0 if stage.tireless else _MORE):
        stage.world.run(stage.world.clock.now + 1)
        plan = stage.loop.turn()
        moving = [one for one in (*plan.place, *plan.evict) if not stage.is_in_vain(one)]
        if moving:
            stage.note(Count.RESTLESS, f"one more cycle: {'; '.join(str(one) for one in moving)}")
            return


def parted(stage: Stage) -> None:
    """Gangs of which some members run, and fewer than must run together."""
    members: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in stage.world.pods.values():
        gang = pod.metadata.labels.get(names.GANG)
        if gang and pod.spec.scheduler_name == names.SCHEDULER_NAME:
            members[gang].append(pod)
    for gang, pods in sorted(members.items()):
        least = max(int(pod.metadata.annotations.get(names.GANG_MIN, 0)) for pod in pods)
        running = [pod for pod in pods if pod.spec.node_name and pod.status.phase != "Failed"]
        living = [pod for pod in running if pod.status.phase != "Succeeded"]
        protected = any(stage.is_refused(pod.metadata.name) for pod in living)
        ruled = {_ruled_by(pod) for pod in living}
        barred = [pod for pod in pods if waits(pod) and _is_barred(stage, pod) and _ruled_by(pod) in ruled]
        if living and len(running) + len(barred) + stage.done[gang] < least and not protected:
            stage.note(Count.PARTED, f"gang {gang}: {len(living)} of {least} run")


def starved(stage: Stage) -> None:
    """Pods that wait though they fit and nothing stands in their way."""
    rooms, world = pool.rooms(stage.world), stage.world
    if rooms is None or stage.history.settings["reservation_delay"] >= 0 or stage.loop.cycle.builder.claims.live():
        return
    used, most = pool.usage(world, stage.policy), pool.limits(stage.policy)
    strict = stage.policy is not None and stage.policy.spec.fallback_strategy == "strict"
    for pod in sorted(world.pods.values(), key=lambda one: one.metadata.name):
        if not waits(pod) or stage.is_refused(pod.metadata.name) or pod.metadata.labels.get(names.GANG):
            continue
        near = pool.near_volumes(world, pod)
        if strict or near is None:
            continue
        if _is_barred(stage, pod):
            continue
        queues = pool.queue_of(pod, stage.policy)
        ask = pool.ask_of(pod)
        if any(queue in most and used[queue] + ask.hundredths > most[queue] for queue in queues):
            continue
        for name, room in sorted(rooms.items()):
            selected = pod.spec.node_selector.items() <= room.node.metadata.labels.items()
            closed = room.node.spec.unschedulable or any(
                taint.effect == "NoSchedule" for taint in room.node.spec.taints
            )
            fits = selected and not closed and room.holds(ask) and room.node.metadata.name in near
            hold = stage.loop.holds.get(pod.metadata.uid)
            if fits and welcome(world, pod, room.node) and not _comes_after_one_that_is_owed(stage, hold):
                stage.note(Count.STARVED, f"pod {pod.metadata.name} fits on {name} and waits: {hold}")
                break


def _is_barred(stage: Stage, pod: Pod) -> bool:
    """Whether the policy lets a pod not be started: it lacks its queue or its class."""
    policy, labels = stage.policy, pod.metadata.labels
    queue, klass = labels.get(names.QUEUE, DEFAULT_QUEUE), labels.get(names.PRIORITY_CLASS)
    known = {one.name for one in policy.spec.priority_classes} if policy is not None else set()
    return (queue != DEFAULT_QUEUE and not pool.queue_of(pod, policy)) or bool(klass and klass not in known)


def _ruled_by(pod: Pod) -> tuple[str | None, str | None]:
    labels = pod.metadata.labels
    return labels.get(names.QUEUE), labels.get(names.PRIORITY_CLASS)


def _comes_after_one_that_is_owed(stage: Stage, hold: Hold | None) -> bool:
    """Whether a pod waits because it would be evicted at once for what a queue is promised, by one that gives way to
    nobody: by being there it would give that one its right."""
    if hold is None or hold.reason != Reason.WAITING_FOR_TURN or not hold.message.endswith("reclaims its guarantee"):
        return False
    claimant = next(
        (one for one in stage.loop.holds.values() if f"preempted by {one.pod} at once" in hold.message), None
    )
    return claimant is not None and claimant.reason != Reason.WAITING_FOR_TURN


def waits(pod: Pod) -> bool:
    """Whether the pod is one of ours without a node."""
    ours = pod.spec.scheduler_name == names.SCHEDULER_NAME
    return ours and not pod.spec.node_name and not pod.metadata.deletion_timestamp
