"""Evictions: only for a pod that then gets the place, never twice for one place, never in a circle."""

import random

import pytest
from tests.worlds import GPU_MIB, START, World, bound, cluster, gang, leaving, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.disruption import BudgetSpec, BudgetStatus, PodDisruptionBudget
from tangram.api.objects import Affinity, LabelSelector, Metadata, PodAffinity, PodAffinityTerm
from tangram.api.policy import HybridPolicy
from tangram.plan import Evict, PodName
from tangram.snapshot.nodes.inventory import NodeDevice

HIGH, LOW = {"name": "high", "weight": 3}, {"name": "low", "weight": 1}
AT_HOME = {"nodeSelector": {"zone": "a"}}


def preempts(*classes: dict[str, object]) -> HybridPolicy:
    return policy(*(classes or (HIGH, LOW)), fallback="preempt")


def full_of_low(gpus: int = 4, grace: int = 0) -> World:
    """One node whose GPUs are all held by pods of the class low, the youngest last."""
    world = World(cluster(f"1x{gpus}xA100"), policy=preempts(), grace=grace)
    for index in range(gpus):
        running = pod(f"low-{index}", whole=1, klass="low")
        world.add(bound(running, "n0", {"main": [(str(index), 100)]}, started=START + index))
    return world


def test_the_youngest_and_fewest_leave_and_the_claimant_gets_their_place() -> None:
    world = full_of_low()
    world.add(pod("a", whole=2, klass="high"))
    world.settle()
    assert [evict.pod.name for evict in world.evicted] == ["low-3", "low-2"]
    assert world.where == {"a": "n0", "low-0": "n0", "low-1": "n0"}
    assert ("a", "WaitingForEviction") in world.told


def test_while_victims_are_leaving_nobody_else_is_evicted_and_nobody_takes_the_place() -> None:
    """Neither an older pod of the same class nor a fraction that would fit in what one victim has left already."""
    world = full_of_low(grace=4)
    world.add(pod("a", whole=2, klass="high"))
    first = world.step()
    assert len(first.evict) == 2
    world.add(pod("older", gpu=50, klass="low", age=100), pod("b", cpu=1, whole=9, klass="low"))
    world.delete("low-3")
    for _ in range(3):
        assert not world.step().evict
    assert "older" in world.waiting
    world.settle()
    assert world.where == {"a": "n0", "low-0": "n0", "low-1": "n0"}
    assert len(world.evicted) == 2


def budget(allowed: int = 0, keeps: int = 4, **labels: str) -> PodDisruptionBudget:
    """One that is for the pods of full_of_low, unless for those with other labels."""
    selector = LabelSelector(labels or {names.PRIORITY_CLASS: "low"})
    return PodDisruptionBudget(Metadata("b", "default"), BudgetSpec(selector, keeps), BudgetStatus(allowed))


@pytest.mark.parametrize(
    ("then", "ends"),
    [
        (None, True),
        (budget(keeps=3), True),
        (budget(allowed=1), True),
        (budget(), False),
        (budget(app="other"), True),
    ],
)
def test_a_budget_that_is_changed_or_allows_more_than_before_ends_the_wait_after_a_refused_eviction(
    then: PodDisruptionBudget | None, *, ends: bool
) -> None:
    world = full_of_low(1)
    world.cycle.builder.put_budget(("default", "b"), budget())
    world.protected = {"low-0"}
    world.add(pod("a", whole=1, klass="high"))
    world.step()
    world.protected = set()
    world.now += 3
    assert world.cycle.builder.put_budget(("default", "b"), then) is ends
    world.step()
    assert [evict.pod.name for evict in world.evicted] == (["low-0"] if ends else [])


def test_a_budget_that_allows_as_much_as_it_did_before_ends_no_wait() -> None:
    """It does so whenever a pod that has left is made anew: the others would lose work again and again."""
    world = full_of_low(2)
    builder = world.cycle.builder
    builder.put_budget(("default", "b"), budget(allowed=1))
    world.protected = {"low-0"}
    world.add(pod("a", whole=2, klass="high"))
    world.step()
    builder.put_budget(("default", "b"), budget(allowed=0))
    assert not builder.put_budget(("default", "b"), budget(allowed=1))
    assert builder.put_budget(("default", "b"), budget(allowed=2))


def test_a_victim_is_asked_for_a_claimant_only_while_that_waits_for_it() -> None:
    world = full_of_low()
    world.add(pod("a", whole=2, klass="high"))
    world.now += 1
    first, second = world.cycle.decide(world.now).evict
    assert world.cycle.holds(first)
    world.delete("a")
    assert not world.cycle.holds(first)
    assert not world.cycle.holds(second)
    world.add(pod("b", whole=1, klass="high"))
    assert [evict.pod.name for evict in world.settle().evicted] == ["low-3"], "nobody else was expected to leave"


def test_the_claimant_gets_the_place_before_an_older_pod_that_came_meanwhile() -> None:
    world = World(cluster("1x1xA100"), [pod("low", whole=1)], grace=2).settle()
    world.add(pod("high", whole=1, priority=9))
    world.step()
    world.add(pod("older", whole=1, priority=9, age=100))
    assert world.settle().where == {"high": "n0"}


def test_what_victims_leave_beyond_the_claim_is_not_given_before_they_are_gone() -> None:
    """A victim of a whole GPU goes for a claim of half of one: the other half is free only when the victim is."""
    world = full_of_low(1, grace=3)
    world.add(pod("a", gpu=50, klass="high"), pod("b", gpu=50, klass="low"))
    assert [str(hold.pod) for hold in world.step().hold if hold.nominated_node] == ["default/a"]
    assert world.step().place == ()
    assert sorted(world.settle().where) == ["a", "b"]


def test_two_claimants_never_count_on_the_same_victim() -> None:
    world = full_of_low(2)
    world.add(*[pod(f"a{index}", whole=1, klass="high") for index in range(3)])
    world.settle()
    assert sorted(world.where) == ["a0", "a1"] or len(world.where) == 2
    assert sorted(evict.pod.name for evict in world.evicted) == ["low-0", "low-1"]
    assert len(world.waiting) == 1


def test_equal_classes_do_not_evict_each_other() -> None:
    world = full_of_low()
    world.add(pod("b", whole=1, klass="low"))
    assert (world.settle().evicted, world.waiting) == ([], ["b"])


def test_nothing_is_evicted_for_a_pod_that_would_not_fit_even_then() -> None:
    world = full_of_low()
    world.add(pod("a", whole=5, klass="high"), pod("b", whole=1, cpu=1000, klass="high"))
    assert world.settle().evicted == []
    assert world.reason("a") == "ExceedsNodeCapacity"


def test_nothing_is_evicted_where_the_pod_may_not_run() -> None:
    world = full_of_low()
    world.add(pod("a", whole=1, klass="high", selector={"zone": "b"}))
    assert world.settle().evicted == []


def test_room_elsewhere_ends_the_wait() -> None:
    """A node appears while victims take their time: the claimant goes there, and its claim is no longer held."""
    world = full_of_low(grace=30)
    world.add(pod("a", whole=4, klass="high"))
    world.step()
    world.cycle.builder.put_node(node("n1", 4))
    world.step()
    assert world.where["a"] == "n1"
    assert world.cycle.builder.claims.live() == []


def test_a_claim_ends_with_its_pod() -> None:
    world = full_of_low(grace=3)
    world.add(pod("a", whole=4, klass="high"))
    world.step()
    world.delete("a")
    world.add(pod("b", whole=4, klass="low"))
    world.settle()
    assert world.where == {"b": "n0"}


def test_a_claim_ends_with_its_node() -> None:
    world = full_of_low(grace=30)
    world.add(pod("a", whole=4, klass="high"))
    world.step()
    world.cycle.builder.remove_node("n0")
    world.cycle.builder.put_node(node("n1", 4))
    world.step()
    assert world.where["a"] == "n1"


def test_a_refused_eviction_gives_the_claim_up_and_is_not_asked_for_again_at_once() -> None:
    """A PodDisruptionBudget says no: others are chosen, and the same pod only after a while."""
    world = full_of_low(2)
    world.add(pod("a", whole=1, klass="high"))
    refused: list[Evict] = []
    for _ in range(10):
        world.now += 1
        plan = world.cycle.decide(world.now)
        for evict in plan.evict:
            refused.append(evict)
            world.cycle.eviction_failed(evict)
    assert sorted(evict.pod.name for evict in refused) == ["low-0", "low-1"]
    world.now += 60
    assert len(world.step().evict) == 1
    assert world.settle().where["a"] == "n0"


def test_an_eviction_that_was_never_made_does_not_hold_its_claimant_for_ever() -> None:
    """The process lost its Lease between decision and write: the victim shows no sign of leaving."""
    world = full_of_low(1)
    world.add(pod("a", whole=1, klass="high"))
    assert len(world.cycle.decide(world.now).evict) == 1
    assert world.cycle.decide(world.now + 30).evict == ()
    assert len(world.cycle.decide(world.now + 61).evict) == 1


def test_preferred_nodes_are_cleared_first_and_any_node_is_taken_when_that_does_not_help() -> None:
    nodes = [node("home", 1, labels={"zone": "a"}), node("away", 2)]
    world = World(nodes, policy=preempts(HIGH | AT_HOME, LOW))
    world.add(bound(pod("low", whole=1, klass="low"), "home", {"main": [("0", 100)]}))
    world.add(pod("a", whole=1, klass="high", age=2))
    world.settle()
    assert world.where["a"] == "home"
    world.add(pod("b", whole=1, klass="high"))
    assert world.settle().where["b"] == "away"
    assert len(world.evicted) == 1


def test_a_victim_that_was_still_in_flight_is_found_once_it_runs() -> None:
    """The claimant fitted nowhere before, and nothing has been freed since: it is looked at again all the same."""
    world = World(cluster("1x1xA100"), [pod("low", whole=1, klass="low", age=1)], policy=preempts())
    [place] = world.cycle.decide(world.now).place
    world.add(pod("a", whole=1, klass="high"))
    assert world.cycle.decide(world.now).evict == ()
    world.add(bound(world.pod("low"), place.node, {"main": [("0", 100)]}))
    assert world.settle().where == {"a": "n0"}


@pytest.mark.slow
@pytest.mark.parametrize("grace", [0, 1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_adversarial_histories_end_quiet(seed: int, grace: int) -> None:
    """Whatever arrives and ends, evictions are fewer than the claims that were served, and the world comes to rest."""
    chance = random.Random(seed)
    classes: list[dict[str, object]] = [
        {"name": name, "weight": weight} for name, weight in (("a", 1), ("b", 2), ("c", 5), ("d", 2))
    ]
    if seed % 2:
        classes[2] |= AT_HOME
    nodes = [node(f"n{index}", chance.choice([1, 2, 4]), labels={"zone": chance.choice("ab")}) for index in range(3)]
    world = World(nodes, policy=preempts(*classes), grace=grace)
    for number in range(30):
        shape = chance.choice([{"gpu": 30}, {"gpu": 70}, {"whole": 1}, {"whole": 2}, {"gpu": 10, "gpu_memory": "40Gi"}])
        world.add(pod(f"p{number}", klass=chance.choice("abcd"), priority=chance.randrange(3), **shape))
        for _ in range(chance.randrange(3)):
            world.step()
        if chance.random() < 0.2 and world.where:
            world.delete(chance.choice(sorted(world.where)))
        if chance.random() < 0.1:
            name = chance.choice(sorted(world.cycle.builder.nodes.rows))
            world.cycle.builder.set_inventory(
                name, tuple(NodeDevice(f"{name}-{i}", chance.random() < 0.8) for i in range(2))
            )
    world.settle(limit=120)
    victims = [evict.pod.uid for evict in world.evicted]
    assert len(victims) == len(set(victims))
    weight = {one["name"]: int(str(one["weight"])) for one in classes}
    for evict in world.evicted:
        assert rank_of(world, evict.pod, weight) < rank_of(world, evict.claimant, weight)
    assert world.cycle.builder.claims.live() == []


def rank_of(world: World, name: PodName, weight: dict[str, int]) -> tuple[int, int]:
    """The class counts before the priority."""
    one = world.seen[name.uid]
    return weight[one.metadata.labels[names.PRIORITY_CLASS]], one.spec.priority


def test_a_terminating_pod_is_no_victim() -> None:
    world = full_of_low(1)
    world.add(leaving(world.pod("low-0")), pod("a", whole=1, klass="high"))
    assert world.step().evict == ()
    world.delete("low-0")
    assert world.settle().where == {"a": "n0"}


def test_memory_is_reserved_too() -> None:
    """A claim of most of a GPU's memory leaves no room for a pod that would take a part of it meanwhile."""
    world = World(cluster("1x1xA100"), policy=preempts(), grace=3)
    low = pod("low", gpu=20, klass="low", gpu_memory=f"{GPU_MIB // 2}Mi")
    world.add(low)
    world.settle()
    world.add(pod("a", gpu=20, klass="high", gpu_memory=f"{GPU_MIB}Mi"))
    world.step()
    world.add(pod("b", gpu=20, klass="low", gpu_memory="20Gi"))
    world.settle()
    assert (world.where, world.reason("b")) == ({"a": "n0"}, "InsufficientGpuMemory")


def test_a_pod_that_evictions_would_not_let_onto_its_nodes_runs_elsewhere() -> None:
    nodes = [node("home", 2, labels={"zone": "a"}), node("away", 2)]
    world = World(nodes, policy=preempts(HIGH | AT_HOME, LOW))
    for index, klass in enumerate(("low", "high")):
        one = pod(f"{klass}-{index}", whole=1, klass=klass)
        world.add(bound(one, "home", {"main": [(str(index), 100)]}))
    apart = PodAffinityTerm("kubernetes.io/hostname", LabelSelector({names.PRIORITY_CLASS: "high"}))
    affinity = Affinity(pod_anti_affinity=PodAffinity((apart,)))
    world.add(pod("a", whole=1, klass="high", affinity=affinity), pod("low-2", whole=1, klass="low", age=1))
    world.settle()
    assert (world.where["a"], world.evicted) == ("away", [])


@pytest.mark.parametrize("first", [True, False])
def test_who_preempts_nobody_stands_for_no_other_at_a_limit(*, first: bool) -> None:
    """The first in line never preempts; the next one, which asks for the same, may have its queue's lower pod go."""
    there = policy({"name": "any", "weight": 1}, queues=[{"name": "q", "limit": {"gpu": "2"}}])
    low = [bound(pod(f"low{index}", whole=1, queue="q"), "n0", {"main": [(str(index), 100)]}) for index in range(2)]
    world = World(cluster("1x8xA100"), low, there)
    if first:
        world.add(with_spec(pod("never", whole=1, queue="q", priority=9, age=9), preemption_policy="Never"))
    world.add(pod("high", whole=1, queue="q", priority=5))
    world.settle()
    assert "high" in world.where
    assert len(world.evicted) == 1


def test_a_claimant_comes_as_soon_as_its_own_node_is_free() -> None:
    """Its victims are members of a gang, of which the others, on another node, take longer to end."""
    there = policy({"name": "any", "weight": 1}, queues=[{"name": "q", "guarantee": {"gpu": "8"}}, {"name": "guest"}])
    world = World(cluster("2x8xA100"), policy=there, grace=3)
    world.add(*gang("g", 4, whole=4, queue="guest"))
    world.settle()
    here = {"kubernetes.io/hostname": "n0"}
    world.add(pod("own", whole=8, queue="q", selector=here))
    world.step()
    assert len(world.evicted) == 4
    for name in [name for name, there in world.where.items() if there == "n0"]:
        world.delete(name)
    world.step()
    assert world.where.get("own") == "n0"
    assert "n1" in world.where.values(), "the others are still there"


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_a_queue_that_borrows_gives_up_none_of_its_own_on_other_nodes(nodes: int) -> None:
    """It is promised 8 GPUs and uses 7 on each node. To have back by its promise the one that another queue has on a
    node, all of its own pods would have to leave, which would borrow the same GPUs again."""
    queues = [{"name": "other"}, {"name": "own", "guarantee": {"gpu": "8"}}]
    world = World(cluster(f"{nodes}x8xA100"), [], policy({"name": "any", "weight": 1}, queues=queues))
    for row in range(nodes):
        world.add(bound(pod(f"x{row}", whole=1, queue="other"), f"n{row}", {"main": [("0", 100)]}))
        for gpu in range(1, 8):
            world.add(bound(pod(f"low{row}-{gpu}", whole=1, queue="own"), f"n{row}", {"main": [(str(gpu), 100)]}))
    world.add(pod("c", whole=8, queue="own", priority=9))
    assert not world.settle().evicted
    assert world.reason("c") == "InsufficientGpu"


@pytest.mark.parametrize("fallback", ["best-effort", "strict"])
def test_where_classes_preempt_nobody_the_priority_is_what_is_said(fallback: str) -> None:
    classes = [{"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}]
    world = World(cluster("1x1xA100"), [], policy(*classes, queues=[{"name": "q"}], fallback=fallback))
    world.add(bound(pod("v", whole=1, queue="q", klass="gold"), "n0", {"main": [("0", 100)]}))
    world.add(pod("c", whole=1, queue="q", klass="tin", priority=9))
    (evict,) = world.step().evict
    assert evict.reason == "its priority 0 is lower than 9 in the same queue"


def test_a_place_counts_on_whoever_leaves_for_a_pod_that_has_come_sooner() -> None:
    """``other`` leaves more than ``early`` needs, so what is held for ``large`` is free until then; ``early`` takes
    it at once, on a GPU that nobody has to leave."""
    gpus = {"main": [("1", 100), ("2", 100)]}
    world = World([node("n0", 8, cpu=16)], grace=5)
    world.add(
        bound(pod("low", whole=2, cpu=4), "n0", gpus),
        bound(pod("other", whole=1, cpu=6, priority=5), "n0", {"main": [("0", 100)]}),
        bound(pod("stays", cpu=4, priority=9), "n0"),
        pod("large", cpu=6, priority=9),
    )
    assert [one.pod.name for one in world.step().evict] == ["low"]
    world.add(pod("early", whole=1, cpu=1, priority=9))
    assert [one.pod.name for one in world.step().evict] == ["other"]
    assert [one.pod.name for one in world.step().place] == ["early"]
    assert (world.cycle.builder.snapshot(world.now).nodes.free >= 0).all()
    assert "large" in world.settle().where
