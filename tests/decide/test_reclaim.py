"""Who may have whom evicted: priorities within a queue, guarantees between queues, whole gangs or none of them."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from tests.worlds import START, World, bound, cluster, gang, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod
from tangram.units import rfc3339

TEAMS = [{"name": "a", "guarantee": {"gpu": "4"}}, {"name": "b", "guarantee": {"gpu": "2"}}]
LONG_AGO = START - 3600


def pool(*pods: Pod, gpus: int = 8, nodes: int = 1, grace: int = 0, queues: Iterable[Any] = TEAMS) -> World:
    """Nodes of so many GPUs on which these pods run, one GPU after the other."""
    world = World(cluster(f"{nodes}x{gpus}xA100"), policy=policy(queues=list(queues)), grace=grace)
    given = 0
    for one in pods:
        wanted = int(one.spec.containers[0].resources.requests[names.GPU_RESOURCE])
        where, first = divmod(given, gpus)
        world.add(bound(one, f"n{where}", {"main": [(str(first + n), 100) for n in range(wanted)]}, started=LONG_AGO))
        given += wanted
    return world


def ones(name: str, count: int, **options: Any) -> list[Pod]:
    """Pods of one GPU each."""
    return [pod(f"{name}{number}", whole=1, **options) for number in range(count)]


def victims(world: World) -> list[str]:
    return sorted(evict.pod.name for evict in world.evicted)


def test_a_higher_priority_takes_the_place_of_the_lowest_in_its_queue() -> None:
    world = pool(*ones("low", 4, queue="b", priority=1), *ones("lower", 4, queue="b"))
    world.add(pod("high", whole=2, queue="b", priority=5))
    world.settle()
    assert all(name.startswith("lower") for name in victims(world))
    assert world.where["high"] == "n0"
    assert len(world.evicted) == 2


@pytest.mark.parametrize(
    "waiting",
    [
        pod("high", whole=5, queue="a", priority=9),
        pod("high", whole=1, queue="b"),
        with_spec(pod("high", whole=1, queue="b", priority=9), preemption_policy="Never"),
    ],
    ids=["another queue, which would have more than half of it then", "equal priority", "preemptionPolicy Never"],
)
def test_a_pod_without_a_right_to_it_has_nobody_evicted(waiting: Pod) -> None:
    world = pool(*ones("low", 8, queue="b"), queues=[{"name": "a"}, {"name": "b"}])
    world.add(waiting)
    assert (world.settle().evicted, world.waiting) == ([], ["high"])


@pytest.mark.parametrize("kind", ["DaemonSet", "Node", "critical", "foreign"])
def test_pods_of_the_node_and_of_the_system_are_never_victims(kind: str) -> None:
    one = pod("low", whole=1, queue="b", scheduler="default-scheduler" if kind == "foreign" else "tangram")
    owner = OwnerReference(kind, "it")
    if kind in ("DaemonSet", "Node"):
        one = msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, owner_references=(owner,)))
    if kind == "critical":
        one = with_spec(one, priority=2_000_000_000)
        one = msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, namespace="kube-system"))
    world = pool(one, gpus=1)
    world.add(with_spec(pod("high", whole=1, queue="b"), priority=2_100_000_000))
    assert world.settle().evicted == []


def test_a_critical_priority_class_keeps_no_tenants_borrower_on_what_another_is_guaranteed() -> None:
    critical = (with_spec(one, priority=2_000_000_000) for one in ones("b", 8, queue="b"))
    world = pool(*critical)
    world.add(*ones("a", 8, queue="a"))
    assert len(world.settle().evicted) == 4


def test_a_queue_takes_back_what_it_is_guaranteed_and_not_more() -> None:
    world = pool(*ones("b", 8, queue="b"))
    world.add(*ones("a", 8, queue="a"))
    world.settle()
    assert len(world.evicted) == 4
    assert sum(name.startswith("a") for name in world.where) == 4
    assert {evict.reason for evict in world.evicted} == {"queue a reclaims its guarantee"}


def test_a_guarantee_of_the_victims_is_never_broken() -> None:
    """b keeps its 2 though a lacks 4: the pool is too small for what was promised."""
    world = pool(*ones("b", 4, queue="b"), gpus=4)
    world.add(*ones("a", 4, queue="a"))
    world.settle()
    assert sorted(name[0] for name in world.where) == ["a", "a", "b", "b"]


def test_what_is_not_reclaimable_stays() -> None:
    world = pool(*ones("b", 8, queue="b"), queues=[TEAMS[0], TEAMS[1] | {"reclaimable": False}])
    world.add(*ones("a", 4, queue="a"))
    assert world.settle().evicted == []


def test_the_minimum_runtime_of_the_victims_queue_is_heeded() -> None:
    world = pool(*ones("b", 8, queue="b"), queues=[TEAMS[0], TEAMS[1] | {"minRuntime": "2h"}])
    world.add(pod("a", whole=1, queue="a"))
    world.settle()
    assert world.evicted == []
    world.now += 3600
    assert len(world.settle().evicted) == 1


def just_bound(one: Pod, device: int) -> Pod:
    """The pod as the watch shows it bound, before its kubelet has said when it started."""
    shown = bound(one, "n0", {"main": [(str(device), 100)]})
    return msgspec.structs.replace(
        shown, status=msgspec.structs.replace(shown.status, phase="Pending", start_time=None)
    )


def test_the_minimum_runtime_of_a_pod_that_has_not_started_yet_has_not_begun() -> None:
    world = pool(gpus=1, queues=[{"name": "a", "guarantee": {"gpu": 1}}, {"name": "b", "minRuntime": "1h"}])
    fresh = just_bound(pod("fresh", whole=1, queue="b"), 0)
    world.add(fresh)
    world.add(pod("a", whole=1, queue="a"))
    assert world.settle().evicted == []
    world.add(msgspec.structs.replace(fresh, status=bound(fresh, "n0").status))
    world.now += 3600
    assert victims(world.settle()) == ["fresh"]


def test_a_pod_that_has_not_started_yet_has_no_work_to_lose() -> None:
    world = pool(*ones("b", 7, queue="b"))
    world.add(just_bound(pod("fresh", whole=1, queue="b"), 7))
    world.add(pod("a", whole=1, queue="a"))
    assert victims(world.settle()) == ["fresh"]


def test_a_parents_guarantee_covers_its_children_and_protects_them() -> None:
    """org's children have none of their own: they take back together what org lacks, and are covered up to it."""
    queues = [
        {"name": "org", "guarantee": {"gpu": "4"}}, {"name": "x", "parent": "org"}, {"name": "y", "parent": "org"},
        {"name": "other", "guarantee": {"gpu": "8"}},
    ]  # fmt: skip
    world = pool(*ones("o", 8, queue="other"), queues=[*queues[:3], {"name": "other"}])
    world.add(*ones("x", 3, queue="x"), *ones("y", 3, queue="y"))
    assert len(world.settle().evicted) == 4
    world = pool(*ones("x", 3, queue="x"), *ones("y", 3, queue="y"), gpus=6, queues=queues)
    world.add(*ones("o", 6, queue="other"))
    assert len(world.settle().evicted) == 2


def test_the_highest_pods_of_a_queue_are_covered_first() -> None:
    """b may use 2 of right: those of its pods that are of the highest priority."""
    world = pool(*ones("high", 2, queue="b", priority=5), *ones("low", 6, queue="b"))
    world.add(*ones("a", 4, queue="a"))
    world.settle()
    assert len(world.evicted) == 4
    assert {"high0", "high1"} <= world.where.keys()


def test_what_was_saved_by_a_checkpoint_is_not_lost() -> None:
    """All have run for an hour; the one that saved its work a minute ago hurts least."""
    saved = pod("saved", whole=1, queue="b", annotations={names.LAST_CHECKPOINT: rfc3339(START - 60)})
    world = pool(*ones("b", 4, queue="b"), saved, *ones("c", 3, queue="b"))
    world.add(pod("a", whole=1, queue="a"))
    assert victims(world.settle()) == ["saved"]


@pytest.mark.parametrize("told", ["yesterday", "", rfc3339(START + 10**6), "9" * 400])
def test_a_checkpoint_that_cannot_be_believed_is_ignored(told: str) -> None:
    liar = pod("liar", whole=1, queue="b", annotations={names.LAST_CHECKPOINT: told})
    young = bound(pod("young", whole=1, queue="b"), "n0", {"main": [("1", 100)]}, started=START - 60)
    world = pool(liar, gpus=2, queues=[TEAMS[0], {"name": "b"}])
    world.add(young)
    world.add(pod("a", whole=1, queue="a"))
    assert victims(world.settle()) == ["young"]


def test_a_gang_that_cannot_do_without_a_member_leaves_whole() -> None:
    world = pool(*gang("g", 4, whole=1, queue="b"), *ones("z", 4, queue="b", priority=1), gpus=2, nodes=4)
    world.add(pod("a", whole=2, queue="a"))
    world.settle()
    assert victims(world) == ["g-0", "g-1", "g-2", "g-3"]
    assert "a" in world.where


def test_members_beyond_the_minimum_go_first_and_alone() -> None:
    world = pool(*gang("g", 8, minimum=6, whole=1, queue="b"), queues=[TEAMS[0], {"name": "b"}])
    world.add(*ones("a", 2, queue="a"))
    world.settle()
    assert len(world.evicted) == 2
    world.add(pod("late", whole=1, queue="a"))
    world.settle()
    assert [name for name in world.where if name.startswith("g-")] == []


def test_a_gang_that_is_partly_covered_by_a_guarantee_leaves_whole_where_nobody_else_would_do() -> None:
    """Without it b uses less than its 2, but a promise that one large borrower could void would be worth nothing."""
    world = pool(*gang("g", 8, whole=1, queue="b"))
    world.add(pod("a", whole=1, queue="a"))
    world.settle()
    assert len(world.evicted) == 8
    assert "a" in world.where
    world = pool(*gang("g", 6, whole=1, queue="b"), *ones("late", 2, queue="b"))
    world.add(pod("a", whole=1, queue="a"))
    assert [name[:4] for name in victims(world.settle())] == ["late"]


def test_a_gang_makes_room_for_its_minimum_or_evicts_nobody() -> None:
    world = pool(*ones("b", 8, queue="b"), gpus=4, nodes=2, grace=2)
    world.add(*gang("big", 5, whole=1, queue="a"))
    assert world.settle().evicted == []
    world.add(*gang("fits", 4, whole=1, queue="a"))
    plan = world.step()
    assert len(plan.evict) == 4
    assert [len(claim.places) for claim in plan.claims] == [4]
    assert not world.step().place
    world.settle()
    assert sum(name.startswith("fits") for name in world.where) == 4
    assert len(world.evicted) == 4


@pytest.mark.parametrize(("size", "evicted"), [(1, ["b-0"]), (2, [])])
def test_a_gang_claims_a_guarantee_that_all_it_needs_stays_within(size: int, evicted: list[str]) -> None:
    """One GPU is promised, and the only victim leaves two."""
    queues = [{"name": "a", "guarantee": {"gpu": "1"}}, {"name": "b"}]
    world = pool(pod("b-0", whole=2, queue="b"), queues=queues, gpus=2)
    world.add(*gang("g", size, whole=1, queue="a"))
    world.settle()
    assert victims(world) == evicted


def test_a_gang_whose_victim_is_refused_starts_anew_with_others() -> None:
    world = pool(*ones("b", 8, queue="b"), gpus=4, nodes=2)
    world.add(*gang("g", 2, whole=2, queue="a"))
    plan = world.cycle.decide(world.now)
    world.cycle.eviction_failed(plan.evict[0])
    assert world.cycle.builder.claims.live() == []
    again = world.cycle.decide(world.now + 1)
    assert plan.evict[0].pod not in {evict.pod for evict in again.evict}
    assert len(again.evict) == 2  # the other three have been asked to leave already


def test_what_one_victim_leaves_serves_several_claimants() -> None:
    """One pod of 8 GPUs goes for four pods of one: nobody else has to."""
    world = pool(
        pod("wide", whole=8, queue="b"), *ones("b", 8, queue="b"), nodes=2, grace=2, queues=[TEAMS[0], {"name": "b"}]
    )
    for index in range(8):
        world.add(with_spec(world.pod(f"b{index}"), priority=1))
    world.add(*ones("a", 4, queue="a"))
    assert [evict.pod.name for evict in world.step().evict] == ["wide"]
    world.settle()
    assert victims(world) == ["wide"]
    assert sum(name.startswith("a") for name in world.where) == 4


def test_a_refusal_ends_every_claim_that_counts_on_the_victim() -> None:
    """One victim of 8 GPUs for four claimants: only the first asked for its eviction, and all of them wait for it."""
    world = pool(pod("wide", whole=8, queue="b"), queues=[TEAMS[0], {"name": "b"}])
    world.add(*ones("a", 4, queue="a"))
    [evict] = world.cycle.decide(world.now).evict
    assert len(world.cycle.builder.claims.live()) == 4
    world.cycle.eviction_failed(evict)
    assert world.cycle.builder.claims.live() == []
    assert world.cycle.decide(world.now + 1).evict == ()
    world.now += 60
    assert sum(name.startswith("a") for name in world.settle().where) == 4


def test_after_a_restart_the_claimant_waits_for_those_who_are_leaving_already() -> None:
    world = pool(*ones("b", 8, queue="b"), grace=5)
    world.add(pod("a", whole=2, queue="a"))
    world.step()
    again = World(world.nodes, list(world.live.values()), policy=world.policy, now=world.now)
    plan = again.step()
    assert plan.evict == ()
    assert [place.node for claim in plan.claims for place in claim.places] == ["n0"]


def test_a_claim_counts_for_its_queues_limit() -> None:
    """Two fit in the limit: the third may not have anybody evicted while the two wait for their places."""
    queues = [TEAMS[0] | {"limit": {"gpu": "2"}, "guarantee": {"gpu": "2"}}, TEAMS[1]]
    world = pool(*ones("b", 8, queue="b"), queues=queues, grace=3)
    world.add(*ones("a", 3, queue="a"))
    world.settle()
    assert len(world.evicted) == 2
    assert "QueueLimit" in {reason for _, reason in world.told}


def test_at_its_limit_a_queue_exchanges_low_for_high() -> None:
    world = pool(*ones("low", 2, queue="q"), queues=[{"name": "q", "limit": {"gpu": "2"}}])
    world.add(pod("high", whole=1, queue="q", priority=3))
    world.settle()
    assert len(world.evicted) == 1
    assert "high" in world.where
    assert len(world.where) == 2


@pytest.mark.parametrize(
    "total",
    [
        pytest.param({}, id="the limit of a model is the one in the way"),
        pytest.param({"gpu": "4"}, id="both limits are in the way"),
    ],
)
def test_at_its_limit_of_a_model_a_queue_exchanges_pods_on_that_model(
    total: dict[str, str],
) -> None:
    queue = {"name": "q", "limit": {"gpuModels": {"A100": "1", "T4": "2"}} | total}
    world = World([node("old", 2, "T4"), node("new", 2, "A100")], policy=policy(queues=[queue]))
    world.add(bound(pod("a0", whole=1, queue="q"), "new", {"main": [("0", 100)]}))
    world.add(bound(pod("t0", whole=2, queue="q"), "old", {"main": [("0", 100), ("1", 100)]}))
    world.add(pod("high", whole=2, queue="q", priority=3))
    assert world.settle().where == {"a0": "new", "high": "old"}
    assert [evict.pod.name for evict in world.evicted] == ["t0"]


def test_members_that_leave_with_their_gang_count_once_against_a_limit() -> None:
    queues = [{"name": "q", "limit": {"gpu": "4"}}, {"name": "child", "parent": "q"}]
    team = gang("g", 2, minimum=1, whole=1, queue="q")
    world = pool(*ones("child", 2, queue="child", priority=9), *team, queues=queues)
    world.add(pod("high", whole=3, queue="q", priority=9))
    world.settle()
    assert (world.evicted, world.waiting) == ([], ["high"])


def test_a_guarantee_of_one_model_is_taken_back_on_nodes_of_that_model() -> None:
    world = World(
        [node("old", 2, "T4"), node("new", 2, "A100")],
        policy=policy(queues=[{"name": "a", "guarantee": {"gpuModels": {"A100": "1"}}}, {"name": "b", "weight": 3}]),
    )
    for name in ("old", "new"):
        for index in range(2):
            world.add(bound(pod(f"{name}{index}", whole=1, queue="b"), name, {"main": [(str(index), 100)]}))
    world.add(*ones("a", 2, queue="a"))
    world.settle()
    assert len(world.evicted) == 1
    assert [where for name, where in world.where.items() if name.startswith("a")] == ["new"]


@pytest.mark.parametrize("younger", ["cpus", "gpus"])
def test_promised_cpus_are_counted_without_those_of_gpu_pods_that_leave_too(younger: str) -> None:
    """Both would leave ``a`` with 8 of its 13 CPUs, in whatever order they went."""
    queues = [{"name": "a", "guarantee": {"gpu": "1", "cpu": "13"}}, {"name": "b", "guarantee": {"gpu": "3"}}]
    world = World([node("n0", 8, cpu=16)], policy=policy(queues=queues))
    started = {"cpus": LONG_AGO, "gpus": LONG_AGO, younger: LONG_AGO + 60}
    world.add(
        *(bound(pod(f"high{one}", cpu=4, queue="a", priority=5), "n0", started=LONG_AGO) for one in range(2)),
        bound(pod("cpus", cpu=4, queue="a"), "n0", started=started["cpus"]),
        bound(pod("gpus", cpu=4, whole=2, queue="a"), "n0", {"main": [("0", 100), ("1", 100)]}, started["gpus"]),
        pod("claimant", cpu=6, whole=2, queue="b"),
    )
    assert (victims(world.settle()), world.waiting) == ([], ["claimant"])


def test_evictions_of_one_decision_are_bounded() -> None:
    world = pool(*ones("b", 8, queue="b"))
    world.cycle.builder.evictions = 3
    world.add(*ones("a", 4, queue="a"))
    assert len(world.step().evict) == 3
    world.settle()
    assert len(world.evicted) == 4
