"""A promise can be had back: no pod waits that its queue is owed a place for, whatever has to leave for it.

Small random worlds come to rest and are then looked at by brute force: for every pod that waits and for every set of
running pods it is asked whether the pod would be within its queue's promise, all limits would hold and the set may
leave. ``TANGRAM_OWED`` sets how many worlds are tried (seeds 0, 1, …).
"""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import msgspec
import pytest
from tests.budget import examples
from tests.worlds import START, World, bound, node, pod, policy

from tangram.api import names
from tangram.api.objects import Pod
from tangram.decide import ahead
from tangram.plan import Plan
from tangram.units import rfc3339

WORLDS = int(os.environ.get("TANGRAM_OWED", examples(48)))
_GROUPS = 8
"""The worlds are tried in so many tests, so that several processes can share them."""


@dataclass(slots=True)
class Again(World):
    """A world in which whatever is evicted is made again by its owner."""

    def _let_go(self, plan: Plan) -> None:
        before = dict(self.live)
        World._let_go(self, plan)
        for uid in before.keys() - self.live.keys():
            self._make_again(before[uid])

    def _make_again(self, old: Pod) -> None:
        number = sum(one.pod.name == old.metadata.name for one in self.evicted)
        notes = {key: value for key, value in old.metadata.annotations.items() if key != names.GPUS}
        metadata = msgspec.structs.replace(
            old.metadata, uid=f"{old.metadata.name}.{number}", annotations=notes, deletion_timestamp=None,
            creation_timestamp=rfc3339(self.now),
        )  # fmt: skip
        self.add(Pod(metadata, msgspec.structs.replace(old.spec, node_name="")))

    def rest(self) -> "Again":
        """Step until nothing happens; three further cycles must then change nothing."""
        for _ in range(60):
            plan = self.step()
            if not (plan.place or plan.evict or self.ending):
                break
        else:
            raise AssertionError(f"no rest: {[str(one) for one in self.evicted[-6:]]}")
        for _ in range(3):
            plan = self.step()
            assert not plan.place, plan
            assert not plan.evict, plan
        return self


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is of one small world, in hundredths of a GPU."""

    nodes: dict[str, int]
    """Node -> GPUs."""
    queues: dict[str, dict[str, Any]]

    def path(self, queue: str) -> list[str]:
        """A queue and those above it."""
        found: list[str] = []
        while queue:
            found.append(queue)
            queue = self.queues[queue].get("parent", "")
        return found

    def amount(self, queue: str, what: str) -> int | None:
        """What the queue is promised, or limited to; None: nothing is said."""
        told = self.queues[queue].get(what)
        return None if told is None else 100 * int(told["gpu"])


def some_queues(chance: random.Random) -> list[dict[str, Any]]:
    """Two or three queues, sometimes below a parent; promises, limits, some that cannot be taken from."""
    found: list[dict[str, Any]] = []
    if chance.random() < 0.5:
        found.append({"name": "p"})
        if chance.random() < 0.6:
            found[0]["limit"] = {"gpu": str(chance.randint(2, 5))}
        if chance.random() < 0.3:
            found[0]["guarantee"] = {"gpu": str(chance.randint(1, 3))}
    for name in "abc"[: chance.randint(2, 3)]:
        one: dict[str, Any] = {"name": name}
        if found and found[0]["name"] == "p" and chance.random() < 0.7:
            one["parent"] = "p"
        if chance.random() < 0.7:
            one["guarantee"] = {"gpu": str(chance.randint(1, 4))}
        if chance.random() < 0.2:
            one["limit"] = {"gpu": str(int(one.get("guarantee", {"gpu": 1})["gpu"]) + chance.randint(0, 2))}
        if chance.random() < 0.1:
            one["reclaimable"] = False
        found.append(one)
    for one in found[:1]:
        least = int(one.get("guarantee", {"gpu": 0})["gpu"])
        if "limit" in one and int(one["limit"]["gpu"]) < least:
            one["limit"] = {"gpu": str(least)}
    return found


def some_world(seed: int) -> tuple[Again, Facts]:
    """Nodes of a few GPUs on which some pods run, and others that wait."""
    chance = random.Random(seed)
    nodes = {f"n{number}": chance.randint(1, 4) for number in range(chance.choice([1, 1, 2, 3]))}
    queues = some_queues(chance)
    told = [node(name, gpus, labels={"node": name}) for name, gpus in nodes.items()]
    world = Again(told, policy=policy(queues=queues), reservation_delay=-1)
    facts = Facts(nodes, {one["name"]: one for one in queues})
    free = {name: [100] * gpus for name, gpus in nodes.items()}
    leaves = [one["name"] for one in queues if one["name"] != "p"]
    number = 0
    for _ in range(20):
        where, queue = chance.choice(sorted(free)), chance.choice(leaves)
        share = chance.choice([50, 100, 100, 100, 200, 300])
        devices = _devices(free[where], share)
        if not devices:
            continue
        one = some_pod(chance, f"r{number}", queue, share)
        used = Counter(dict.fromkeys(facts.queues, 0))
        for other in world.live.values():
            for row in facts.path(other.metadata.labels[names.QUEUE]):
                used[row] += size(other)
        limits = [(used[row] + share, facts.amount(row, "limit")) for row in facts.path(queue)]
        if any(limit is not None and amount > limit for amount, limit in limits):
            continue
        for device, part in devices:
            free[where][int(device)] -= part
        world.add(bound(one, where, {"main": devices}, started=START - 3600 - 60 * chance.randrange(9)))
        number += 1
    for waiting in range(chance.randint(1, 3)):
        selector = {"node": chance.choice(sorted(nodes))} if chance.random() < 0.15 else {}
        one = some_pod(chance, f"w{waiting}", chance.choice(leaves), chance.choice([50, 100, 100, 200, 300]))
        world.add(msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, node_selector=selector)))
    return world, facts


def some_pod(chance: random.Random, name: str, queue: str, share: int) -> Pod:
    """A pod of so many hundredths of a GPU."""
    amount: dict[str, Any] = {"gpu": share} if share < 100 else {"whole": share // 100}
    return pod(name, queue=queue, priority=chance.choice([0, 0, 1, 2]), age=chance.randrange(99), cpu="10m", **amount)


def _devices(free: list[int], share: int) -> list[tuple[str, int]]:
    part = min(share, 100)
    fitting = [index for index, left in enumerate(free) if left >= part][: max(1, share // 100)]
    return [(str(index), part) for index in fitting] if len(fitting) == max(1, share // 100) else []


def size(one: Pod) -> int:
    """Hundredths of a GPU that the pod asks for."""
    requests = one.spec.containers[0].resources.requests
    return 100 * int(requests.get(names.GPU_RESOURCE, 0)) + int(requests.get(names.FRACTION_RESOURCE, 0))


@dataclass(slots=True)
class Oracle:
    """What the docs say of claims by guarantee, in as many words, over everything that runs in a world at rest."""

    world: Again
    facts: Facts

    @property
    def running(self) -> list[Pod]:
        """Pods that have a place."""
        return sorted(
            (one for one in self.world.live.values() if one.spec.node_name), key=lambda one: one.metadata.name
        )

    def used(self, row: str, without: frozenset[str] = frozenset(), least: int = -1) -> int:
        """What pods of at least a priority use in a queue and below it."""
        found = 0
        for one in self.running:
            inside = row in self.facts.path(one.metadata.labels[names.QUEUE])
            if inside and one.metadata.name not in without and (one.spec.priority or 0) >= least:
                found += size(one)
        return found

    def owed(self) -> Iterator[tuple[str, list[str]]]:
        """Pods that wait though their queue is owed a place for them, and who could leave."""
        for one in self.world.live.values():
            if not one.spec.node_name:
                victims = self.somebody_for(one)
                if victims is not None:
                    yield one.metadata.name, victims

    def somebody_for(self, claimant: Pod) -> list[str] | None:
        """The smallest set of pods that may leave and after which the claimant has its place; None: there is none."""
        everybody = self.running
        for count in range(len(everybody) + 1):
            for some in combinations(everybody, count):
                gone = frozenset(one.metadata.name for one in some)
                if self.fits(claimant, gone) and self.within_limits(claimant, gone) and self.may(claimant, list(some)):
                    return sorted(gone)
        return None

    def fits(self, claimant: Pod, gone: frozenset[str], on: Collection[str] = ()) -> bool:
        """Whether a node, one of these where any are named, has room for the claimant then."""
        for name, gpus in self.facts.nodes.items():
            if on and name not in on:
                continue
            free = [100] * gpus
            for one in self.running:
                if one.spec.node_name == name and one.metadata.name not in gone:
                    for device, share in self.world.devices(one.metadata.name)["main"]:
                        free[int(device)] -= share
            if claimant.spec.node_selector.get("node", name) == name and _devices(free, size(claimant)):
                return True
        return False

    def within_limits(self, claimant: Pod, gone: frozenset[str]) -> bool:
        """Whether no queue exceeds its limit then."""
        for row in self.facts.path(claimant.metadata.labels[names.QUEUE]):
            limit = self.facts.amount(row, "limit")
            if limit is not None and self.used(row, gone) + size(claimant) > limit:
                return False
        return True

    def may(self, claimant: Pod, some: list[Pod]) -> bool:
        """Whether one of the queues above the claimant is promised the place and all of these may leave for it."""
        gone = frozenset(one.metadata.name for one in some)
        path = self.facts.path(claimant.metadata.labels[names.QUEUE])
        for row in path:
            promised = self.facts.amount(row, "guarantee")
            if not promised or self.used(row, gone) + size(claimant) > promised:
                continue
            if (self.used(row) <= promised or self._are_in_the_way(claimant, some)) and self._leave(
                claimant, some, row
            ):
                return True
        return False

    def _are_in_the_way(self, claimant: Pod, some: list[Pod]) -> bool:
        """Whether those of them that are of the claimant's queue are on the node that it goes to: a queue that borrows
        would only borrow again what others give up."""
        gone, own = frozenset(one.metadata.name for one in some), claimant.metadata.labels[names.QUEUE]
        nodes = {one.spec.node_name for one in some if one.metadata.labels[names.QUEUE] == own}
        return not nodes or (len(nodes) == 1 and self.fits(claimant, gone, nodes))

    def _leave(self, claimant: Pod, some: list[Pod], row: str) -> bool:
        """Whether they may leave, in some order, for what a row is promised."""
        own, gone = claimant.metadata.labels[names.QUEUE], frozenset[str]()
        left = []
        for one in some:
            queue = one.metadata.labels[names.QUEUE]
            if queue == own and (one.spec.priority or 0) < (claimant.spec.priority or 0):
                continue
            parting = [each for each in self.facts.path(queue) if each not in self.facts.path(own)]
            if row in self.facts.path(queue) or not all(
                self.facts.queues[each].get("reclaimable", True) for each in parting
            ):
                return False
            left.append((one, parting))
        return self._one_by_one(left, gone)

    def _one_by_one(self, left: list[tuple[Pod, list[str]]], gone: frozenset[str]) -> bool:
        if not left:
            return True
        for index, (one, parting) in enumerate(left):
            lowest = one.spec.priority or 0
            above = all(self.used(each, gone, lowest) > (self.facts.amount(each, "guarantee") or 0) for each in parting)
            others = left[:index] + left[index + 1 :]
            if above and self._one_by_one(others, gone | {one.metadata.name}):
                return True
        return False


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("group", range(_GROUPS))
def test_nobody_waits_who_is_owed_a_place(group: int) -> None:
    found = {}
    for seed in range(group, WORLDS, _GROUPS):
        world, facts = some_world(seed)
        owed = list(Oracle(world.rest(), facts).owed())
        if owed:
            found[seed] = owed
    assert found == {}


_FEW_OR_MANY = [8, 64, *(pytest.param(most, marks=pytest.mark.slow) for most in (1, 4, 11, 14, 17, 20, 23))]


@pytest.mark.parametrize("most", _FEW_OR_MANY)
def test_pods_that_give_way_in_a_circle_are_placed(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would have been evicted for one that gives way itself, and all waited beside six idle GPUs. However many
    decisions ahead a cycle may make."""
    monkeypatch.setattr(ahead, "_MOST_AHEAD", most)
    world, facts = some_world(409)
    assert list(Oracle(world.rest(), facts).owed()) == []


def test_who_is_owed_its_place_has_it_back_though_another_of_its_queue_comes_before_it_there() -> None:
    """``large`` asks for more than its queue is promised: only the place that ``small`` has back can be taken by it."""
    queues = [{"name": "p", "limit": {"gpu": "3"}, "guarantee": {"gpu": "3"}}]
    queues += [{"name": name, "parent": "p", "guarantee": {"gpu": "1"}} for name in "abc"]
    world = Again([node("n0", 3)], policy=policy(queues=queues), reservation_delay=-1)
    world.add(bound(pod("one", whole=1, queue="a", priority=1), "n0", {"main": [("0", 100)]}, started=START - 3600))
    two = {"main": [("1", 100), ("2", 100)]}
    world.add(bound(pod("two", whole=2, queue="b"), "n0", two, started=START - 3600))
    world.add(pod("small", whole=1, queue="c", age=9), pod("large", whole=2, queue="c", priority=1, age=5))
    world.rest()
    assert sorted(world.where) == ["large", "one"]
