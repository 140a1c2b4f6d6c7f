"""Whatever arrives, ends, is refused or comes back after its eviction: no limit is exceeded at any step, nobody is
evicted for nothing, what a scheduler remembers changes no decision, and without new arrivals everything comes to rest.

``TANGRAM_HISTORIES`` sets how many histories are tried (seeds 0, 1, …).
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.budget import examples
from tests.worlds import START, leaving, node, placed, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import Pod
from tangram.decide.pipeline import decide
from tangram.plan import Evict, Place
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings

HISTORIES = int(os.environ.get("TANGRAM_HISTORIES", examples(240)))
_GROUPS = 24
"""The histories are run in so many tests, so that several processes can share them."""
_QUIET = 4
"""Looks at the world in a row without a decision after which it is at rest."""
_LONGEST = 400
_MOST_EVICTIONS = 12
"""Times that one and the same work may be evicted in a history: it is created anew each time."""


@dataclass(slots=True)
class History:
    """A cluster in which evicted pods are created anew, as their controllers would do it."""

    chance: random.Random
    cycle: Cycle = field(init=False)
    queues: list[dict[str, Any]] = field(init=False)
    now: int = START
    live: dict[str, Pod] = field(default_factory=dict)
    ending: dict[str, int] = field(default_factory=dict)
    evicted: Counter[str] = field(default_factory=Counter)
    """By the name of the work, whichever pod does it."""
    budgets: set[str] = field(default_factory=set)
    """Work that a PodDisruptionBudget protects."""
    grace: int = 0
    fierce: bool = False
    """Small pods of few GPUs without any reason not to fight for them."""

    def __post_init__(self) -> None:
        chance = self.chance
        batch = chance.choice([3, 256])
        self.cycle = Cycle(SchedulerSettings(debug=chance.random() < 0.1, batch=batch, gang_timeout=0))
        self.queues, self.fierce = some_queues(chance), chance.random() < 0.6
        classes = [{"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}] if chance.random() < 0.5 else []
        fallback = chance.choice(["best-effort", "preempt"])
        self.cycle.builder.set_policy(policy(*classes, fallback=fallback, queues=self.queues))
        self.grace = chance.choice([0, 0, 2])
        for number in range(chance.randint(1, 2)):
            self.cycle.builder.put_node(node(f"n{number}", chance.choice([2, 4, 8]), cpu=chance.choice([8, 16, 96])))

    def create(self, number: int) -> None:
        """One pod, or the pods of a gang."""
        chance = self.chance
        queue = chance.choice(self.queues)["name"]
        options: dict[str, Any] = {
            "queue": queue, "priority": chance.choice([0, 0, 0, 5, 9]), "klass": chance.choice(["", "gold", "tin"]),
        }  # fmt: skip
        size: dict[str, Any] = chance.choice([{"whole": 1}, {"whole": 1}, {"whole": 2}, {"whole": 4}, {"gpu": 50}, {}])
        size = size | {"cpu": chance.choice([1, 1, 3])}
        if self.fierce:
            size = chance.choice([{"whole": 1}, {"whole": 1}, {"whole": 2}, {"gpu": 50}]) | {"cpu": "100m"}
            options["priority"] = chance.choice([0, 0, 1, 2, 3, 4, 5])
        count = chance.choice([1, 1, 1, 2, 3])
        gang = f"g{number}" if count > 1 else ""
        for member in range(count):
            minimum = max(1, count - chance.choice([0, 1])) if gang else 0
            one = pod(
                f"p{number}-{member}", gang=gang, gang_min=minimum, uid=f"p{number}-{member}.0", **options, **size
            )
            self.put(with_spec(one, preemption_policy="Never" if self.peaceful() else "PreemptLowerPriority"))
        if chance.random() < 0.1:
            self.budgets.add(f"p{number}-0")

    def peaceful(self) -> bool:
        return not self.fierce and self.chance.random() < 0.2

    def put(self, one: Pod) -> None:
        old = self.live.get(one.metadata.uid)
        self.live[one.metadata.uid] = one
        self.cycle.observe_pod(old, one)

    def delete(self, uid: str) -> None:
        self.cycle.observe_pod(self.live.pop(uid), None)

    def step(self) -> bool:
        """One cycle; True when anything happened, or is about to. What is remembered of earlier ones has no say."""
        self.now += 1
        snapshot = self.cycle._priced(self.cycle.builder.snapshot(self.now))
        reported = self.cycle.reporter.known()
        afresh = decide(snapshot, reported=reported)
        plan = self.cycle.decide(self.now)
        assert plan == afresh, f"with memory:\n{plan}\nwithout:\n{afresh}"
        claimants = {place.pod.uid for claim in plan.claims for place in claim.places}
        for place in plan.place:
            self.bind(place)
        for evict in plan.evict:
            assert evict.claimant is not None
            assert evict.claimant.uid in claimants, f"{evict} without a place for it"
            self.evict(evict)
        for uid, left in list(self.ending.items()):
            self.ending[uid] = left - 1
            if left <= 0:
                self.begin_anew(uid)
        self.within_limits()
        return bool(plan.place or plan.evict or self.ending)

    def bind(self, place: Place) -> None:
        held = self.chance.random() > 0.02
        self.cycle.place_ended(place, held=held)
        if held:
            self.put(placed(self.live[place.pod.uid], place, self.now))

    def evict(self, evict: Evict) -> None:
        if evict.pod.name in self.budgets and self.chance.random() < 0.9:
            self.cycle.eviction_failed(evict)
            return
        self.evicted[evict.pod.name] += 1
        self.ending[evict.pod.uid] = self.grace
        if self.grace:
            gone = leaving(self.live[evict.pod.uid])
            self.put(gone)

    def begin_anew(self, uid: str) -> None:
        """The pod is gone and its controller makes another one in its stead."""
        del self.ending[uid]
        old = self.live[uid]
        self.delete(uid)
        name, _, generation = uid.rpartition(".")
        spec = with_spec(Pod(old.metadata, old.spec), node_name="").spec
        labels, notes = old.metadata.labels, dict(old.metadata.annotations)
        notes.pop(names.GPUS, None)
        again = pod(name, uid=f"{name}.{int(generation) + 1}", age=START - self.now)
        metadata = type(again.metadata)(
            name, "default", again.metadata.uid, creation_timestamp=again.metadata.creation_timestamp,
            labels=labels, annotations=notes,
        )  # fmt: skip
        self.put(Pod(metadata, spec))

    def within_limits(self) -> None:
        """What runs in every queue and below it is within the queue's limit."""
        used: Counter[str] = Counter()
        for one in self.live.values():
            if one.spec.node_name:
                requests = one.spec.containers[0].resources.requests
                milli = 1000 * int(requests.get(names.GPU_RESOURCE, 0)) + 10 * int(
                    requests.get(names.FRACTION_RESOURCE, 0)
                )
                name: str | None = one.metadata.labels[names.QUEUE]
                while name is not None:
                    used[name] += milli
                    name = next(queue for queue in self.queues if queue["name"] == name).get("parent")
        for queue in self.queues:
            limit = queue.get("limit", {}).get("gpu")
            assert limit is None or used[queue["name"]] <= 1000 * int(limit), f"{queue} uses {used[queue['name']]}"


def some_queues(chance: random.Random) -> list[dict[str, Any]]:
    """A tree of several levels; guarantees may be more than there is, or nobody has any and shares alone decide."""
    found: list[dict[str, Any]] = []
    promises = chance.random() < 0.6
    for number in range(chance.randint(1, 5)):
        one: dict[str, Any] = {"name": f"q{number}", "weight": chance.randint(1, 3)}
        if found and chance.random() < 0.4:
            one["parent"] = chance.choice(found)["name"]
        if promises and chance.random() < 0.6:
            one["guarantee"] = {"gpu": str(chance.randint(1, 6))}
            if chance.random() < 0.4:
                one["guarantee"]["cpu"] = str(chance.randint(1, 12))
        if chance.random() < 0.3:
            least = int(one.get("guarantee", {}).get("gpu", "1"))
            one["limit"] = {"gpu": str(least + chance.randint(0, 4))}
        one["reclaimable"] = chance.random() < 0.85
        one["minRuntime"] = chance.choice(["0s", "0s", "5s"])
        found.append(one)
    return found


def live_through(seed: int) -> History:
    """One history, to its end."""
    chance = random.Random(seed)
    history = History(chance)
    for number in range(chance.randint(8, 30)):
        history.create(number)
        for _ in range(chance.randrange(3)):
            history.step()
        bound = sorted(uid for uid, one in history.live.items() if one.spec.node_name and uid not in history.ending)
        if bound and chance.random() < 0.25:
            history.delete(chance.choice(bound))
    history.budgets.clear()
    before, quiet = sum(history.evicted.values()), 0
    for _ in range(_LONGEST):
        quiet = 0 if history.step() else quiet + 1
        if quiet == 1:
            history.now += 70  # refused evictions, minimum runtimes and lost requests are over
        if quiet == _QUIET:
            break
    else:
        raise AssertionError(f"seed {seed}: no rest after {sum(history.evicted.values()) - before} more evictions")
    assert max(history.evicted.values(), default=0) <= _MOST_EVICTIONS, f"seed {seed}: {history.evicted.most_common(3)}"
    assert history.cycle.builder.claims.live() == []
    return history


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("group", range(_GROUPS))
def test_fault_14_histories_end_quiet(group: int) -> None:
    evictions = [sum(live_through(seed).evicted.values()) for seed in range(group, HISTORIES, _GROUPS)]
    assert HISTORIES < 10 * _GROUPS or sum(evictions) > 0, "the histories are not about evictions"
