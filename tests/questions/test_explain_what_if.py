"""Whether pods that are not there would fit: now, after evictions, later, never; and when they would start."""

import msgspec
import pytest
from msgspec.structs import replace
from tests.decide.test_existing_volumes import LATE, LOCAL, attached, disk
from tests.decide.test_existing_volumes import claim as claim_to_disk
from tests.decide.test_volumes import claim, on, using
from tests.worlds import START, World, bound, cluster, gang, leaving, node, pod, policy, recording, with_spec

from tangram.api import names
from tangram.api.objects import Condition, Metadata, Node, OwnerReference, Pod, PodStatus
from tangram.api.policy import HybridPolicy
from tangram.api.storage import CSINode, StorageClass
from tangram.questions.estimate import RUNS, SPREAD, estimate, factor
from tangram.questions.explain import explain
from tangram.questions.observe import cycle_of, run_to_rest
from tangram.questions.what_if import Fit, judge
from tangram.simulate import storage
from tangram.snapshot.queues.past_use import seconds
from tangram.snapshot.recording import Recording, Storage
from tangram.snapshot.requests.provisioning import SELECTED_NODE

ACCELERATED = policy(
    {"name": "gpu", "weight": 3, "nodeSelector": {"accelerator": "nvidia"}}, {"name": "cpu"}, fallback="preempt"
)
HOUR = 3600


def holding(name: str, where: str, count: int, *, first: int = 0, hours: str = "", ago: int = 0, **more: str) -> Pod:
    notes = {names.ESTIMATED_DURATION: hours} if hours else {}
    held = [(str(first + index), 100) for index in range(count)]
    return bound(pod(name, whole=count, annotations=notes, **more), where, {"main": held}, started=START - ago)


@pytest.mark.parametrize(
    ("nodes", "there", "added", "chosen", "fit"),
    [
        (cluster("1x4xA100"), [holding("a", "n0", 2)], [pod("w", whole=2)], None, Fit.NOW),
        (cluster("1x4xA100"), [holding("a", "n0", 2)], [pod("w", whole=3)], None, Fit.LATER),
        (cluster("1x4xA100"), [holding("a", "n0", 2)], [pod("w", whole=5)], None, Fit.NEVER),
        (cluster("2x4xA100"), [], gang("w", 2, whole=4), None, Fit.NOW),
        (cluster("2x4xA100"), [holding("a", "n0", 1)], gang("w", 2, whole=4), None, Fit.LATER),
        (cluster("2x4xA100"), [holding("a", "n0", 1)], gang("w", 2, minimum=1, whole=4), None, Fit.NOW),
        (cluster("2x4xA100"), [], gang("w", 3, whole=4), None, Fit.NEVER),
        (cluster("1x4xA100"), [], [pod("w0", whole=2), pod("w1", whole=3)], None, Fit.NEVER),
        ([node("n0", 2, labels={"accelerator": "nvidia"})], [holding("a", "n0", 2, klass="cpu")],
         [pod("w", whole=2)], ACCELERATED, Fit.AFTER_EVICTION),
        ([node("n0", 2, labels={"accelerator": "nvidia"})], [holding("a", "n0", 2, klass="gpu")],
         [pod("w", whole=2)], ACCELERATED, Fit.LATER),
    ],
)  # fmt: skip
def test_pods_fit_now_after_evictions_later_or_never(
    nodes: list[Node], there: list[Pod], added: list[Pod], chosen: HybridPolicy | None, fit: Fit
) -> None:
    found = judge(recording(START, nodes, there, chosen), tuple(added))
    assert found.fit is fit
    assert bool(found.evicted) == (fit is Fit.AFTER_EVICTION)
    assert bool(found.placed) == (fit is not Fit.NEVER or len(added) == 2)
    assert len(found.waiting) > 0 or fit in (Fit.NOW, Fit.AFTER_EVICTION)


def test_an_elastic_gang_fits_with_its_minimum_and_the_rest_waits() -> None:
    added = tuple(gang("w", 2, minimum=1, whole=4))
    found = judge(recording(START, cluster("2x4xA100"), [holding("a", "n0", 1)]), added)
    assert [place.pod.name for place in found.placed] == ["w-0"]
    assert [hold.pod.name for hold in found.waiting] == ["w-1"]


def test_evictions_are_named_with_whom_they_are_for() -> None:
    there = [holding("a", "n0", 1, klass="cpu"), holding("b", "n0", 1, first=1, klass="gpu")]
    nodes = [node("n0", 2, labels={"accelerator": "nvidia"})]
    found = judge(recording(START, nodes, there, ACCELERATED), (pod("w", whole=1),))
    assert [(one.pod.name, one.claimant.name) for one in found.evicted] == [("a", "w")]
    assert [place.node for place in found.placed] == ["n0"]


def test_what_belongs_to_a_node_and_what_others_placed_stays_on_the_emptied_pool() -> None:
    agent = holding("agent", "n0", 1)
    owner = OwnerReference("DaemonSet", "agent", "1", controller=True)
    agent = replace(agent, metadata=replace(agent.metadata, owner_references=(owner,)))
    other = holding("other", "n0", 1, first=1, scheduler="volcano")
    ours = holding("ours", "n0", 2, first=2)
    world = recording(START, cluster("1x4xA100"), [agent, other, ours])
    assert judge(world, (pod("w", whole=2),)).fit is Fit.LATER
    assert judge(world, (pod("w", whole=3),)).fit is Fit.NEVER


def test_those_who_wait_already_may_come_first() -> None:
    world = recording(START, cluster("1x4xA100"), [pod("first", whole=4, age=99)])
    assert judge(world, (pod("w", whole=1),)).fit is Fit.LATER
    assert judge(world, (pod("w", whole=1, priority=9),)).fit is Fit.NOW


def test_what_a_victim_leaves_is_for_whom_it_was_evicted_as_in_the_scheduler() -> None:
    """``hi`` has k2 evicted by its priority and keeps the place, though the queue of ``w`` comes first on free ones."""
    queues = policy(queues=[{"name": "a", "guarantee": {"gpu": "4"}}, {"name": "b"}])
    nodes = [*(node(f"n{index}", 2) for index in range(4)), *(node(f"s{index}", 1) for index in range(3))]
    there = [holding(f"k{index}", f"n{index}", 2, queue="b") for index in range(4)]
    there += [holding(f"t{index}", f"s{index}", 1, queue="b") for index in range(3)]
    before = [
        pod("w0", whole=2, queue="a", age=9),
        pod("w1", whole=2, queue="a", age=9),
        pod("hi", whole=2, queue="b", priority=1000, age=9),
    ]
    wanted = pod("w", whole=2, queue="a")
    world = World(nodes, policy=queues)
    world.add(*there, *before, wanted)
    for _ in range(4):
        world.settle()
    assert {"w0", "w1", "hi"} <= world.where.keys()
    assert "w" not in world.where

    assert judge(recording(START, nodes, [*there, *before], queues), (wanted,)).fit is Fit.LATER


def test_pods_that_are_placed_in_a_forecast_run_and_use_what_they_have() -> None:
    queues = policy(queues=[{"name": "a"}, {"name": "b"}])
    cycle = cycle_of(recording(START, cluster("1x4xA100"), [pod("w", whole=4, queue="a")], queues))

    assert [place.node for place in run_to_rest(cycle, START).placed.values()] == ["n0"]
    later = cycle.builder.snapshot(START + 100).queues

    assert seconds(later, later.names.index("a"))["recent_gpu_seconds"] == pytest.approx(400, rel=0.01)


# When it starts.


def test_the_median_is_the_estimate_itself_and_p90_is_later() -> None:
    world = recording(START, cluster("1x2xA100"), [holding("a", "n0", 2, hours="2h", ago=HOUR), pod("w", whole=2)])
    found = estimate(world, {"uid-w"})
    assert found.p50 == HOUR
    assert found.p90 is not None
    assert found.p90 > HOUR
    assert (found.known, found.holding, found.why) == (1, 1, "")


def test_those_ahead_start_first_and_run_as_long_as_they_say() -> None:
    ahead = pod("ahead", whole=2, age=99, annotations={names.ESTIMATED_DURATION: "5h"})
    world = recording(START, cluster("1x2xA100"), [holding("a", "n0", 2, hours="1h"), ahead, pod("w", whole=2)])
    found = estimate(world, {"uid-w"})
    assert found.p50 is not None
    assert 4 * HOUR < found.p50 < 8 * HOUR
    assert estimate(world, {"uid-ahead"}).p50 == HOUR


def test_a_gang_starts_when_all_of_it_fits() -> None:
    pods = [holding("a", "n0", 4, hours="1h"), holding("b", "n1", 4, hours="10h"), *gang("w", 2, whole=4)]
    found = estimate(recording(START, cluster("2x4xA100"), pods), {"uid-w-0"})
    assert found.p50 is not None
    assert found.p50 > 5 * HOUR


def test_a_pod_that_overran_or_was_deleted_still_ends() -> None:
    world = recording(START, cluster("1x2xA100"), [holding("a", "n0", 2, hours="1h", ago=9 * HOUR), pod("w", whole=2)])
    assert estimate(world, {"uid-w"}).p50 == HOUR // 10
    world = recording(START, cluster("1x2xA100"), [leaving(holding("a", "n0", 2)), pod("w", whole=2)])
    assert estimate(world, {"uid-w"}).p50 == 1


def test_no_number_where_nobody_says_how_long_he_runs() -> None:
    world = recording(START, cluster("1x2xA100"), [holding("a", "n0", 2), pod("w", whole=2)])
    found = estimate(world, {"uid-w"})
    assert (found.p50, found.p90, found.known, found.holding) == (None, None, 0, 1)
    assert "estimated-duration" in found.why
    pods = [holding("a", "n0", 1, hours="1h"), holding("b", "n0", 1, first=1, hours="soon"), pod("w", whole=2)]
    found = estimate(recording(START, cluster("1x2xA100"), pods), {"uid-w"})
    assert found.p50 is None
    assert "1 of 2 pods with GPUs declare none" in found.why


def test_every_pod_meets_every_quantile_once_and_half_of_them_are_below_one() -> None:
    for uid in ("a", "b", "c"):
        met = sorted(factor(uid, run) for run in range(RUNS))
        assert len(set(met)) == RUNS
        assert met[RUNS // 2] == pytest.approx(1)
        assert met[0] == pytest.approx(1 / met[-1])
    assert 0 < SPREAD < 1
    assert factor("a", None) == 1


class TestOfVolumesThatAreMadeOnceANodeIsChosen:
    """The forecast has them made, as a driver does."""

    def recorded(self, *pods: Pod, node_of_claim: str = "") -> Recording:
        notes = {SELECTED_NODE: node_of_claim} if node_of_claim else {}
        late = claim("data", phase="Pending", kind="late", **notes)
        return recording(
            START, cluster("2x4xA100"), pods, storage=Storage((late,), (), (storage.delayed_class("late"),))
        )

    def test_a_pod_with_one_fits_now(self) -> None:
        found = judge(self.recorded(), (using(pod("w", whole=2), on("data")),))
        assert found.fit is Fit.NOW
        assert [place.pod.name for place in found.placed] == ["w"]

    def test_so_does_a_gang_that_shares_it(self) -> None:
        found = judge(self.recorded(), tuple(using(one, on("data")) for one in gang("w", 2, whole=2)))
        assert found.fit is Fit.NOW
        assert len({place.node for place in found.placed}) == 1

    @pytest.mark.parametrize("chosen", ["", "n1"])
    def test_and_who_waits_for_one_is_said_to_fit_once_it_is_there(self, chosen: str) -> None:
        waits = using(pod("w", whole=2), on("data"))
        recorded = self.recorded(waits, node_of_claim=chosen)
        found = explain(recorded, waits)
        assert found.state == "fits"
        assert found.message.endswith("once its volumes, or those of its gang, have been made")
        assert chosen in found.message

    def test_and_it_is_estimated_when_it_starts(self) -> None:
        there = [holding("a", "n0", 4, hours="1h"), holding("b", "n1", 4, hours="2h")]
        waits = using(pod("w", whole=2), on("data"))
        assert estimate(self.recorded(*there, waits), [waits.metadata.uid]).p50 is not None


def test_explain_knows_what_a_node_can_attach_and_claims_for_one_pod_at_a_time() -> None:
    (v_disk, v_claim), (w_disk, w_claim) = attached("v"), attached("w")
    drivers = {"drivers": [{"name": "disks.example.com", "allocatable": {"count": 1}}]}
    full = msgspec.convert({"metadata": {"name": "n0"}, "spec": drivers}, CSINode)
    old, new = bound(using(pod("old"), on("v")), "n0"), using(pod("new"), on("w"))
    there = Storage((v_claim, w_claim), (v_disk, w_disk), drivers=(full,))
    limited = recording(START, cluster("1x4xA100"), [old, new], storage=there)
    assert explain(limited, new).reason == "InsufficientResource"
    sole = replace(w_claim, spec=replace(w_claim.spec, access_modes=("ReadWriteOncePod",)))
    user, second = bound(using(pod("user"), on("w")), "n0"), using(pod("second"), on("w"))
    taken = recording(START, cluster("1x4xA100"), [user, second], storage=Storage((sole,), (w_disk,)))
    assert explain(taken, second).reason == "VolumeInUse"


def test_explain_says_that_the_only_local_volume_is_for_who_comes_first() -> None:
    first, second = using(pod("first", age=9), on("c")), using(pod("second"), on("d"))
    claims = claim_to_disk("c"), claim_to_disk("d")
    there = Storage(claims, (disk("v", "n0"),), (msgspec.convert(LOCAL | LATE, StorageClass),))
    one = recording(START, cluster("1x4xA100"), [first, second], storage=there)
    assert explain(one, first).state == "fits"
    found = explain(one, second)
    assert (found.state, found.reason) == ("waits", "VolumeNotReady")
    assert "no free volume suits it" in found.message


def test_explain_knows_whose_place_is_held_for_a_volume() -> None:
    """``high`` comes first, and would fit only where another process holds a place for ``waits``."""
    claimed = claim("c", "", "Pending", "late", **{SELECTED_NODE: "n0"})
    late = StorageClass(Metadata("late"), "WaitForFirstConsumer")
    held = "its place on n0 is held until its volumes are there"
    told = Condition("PodScheduled", "False", "Unschedulable", f"VolumeNotReady: {held}")
    waits = using(pod("waits", whole=4), on("c"))
    waits = replace(waits, status=PodStatus(conditions=(told,)))
    high = with_spec(pod("high", whole=4, priority=9), preemption_policy="Never")
    there = recording(START, cluster("1x4xA100"), [waits, high], storage=Storage((claimed,), (), (late,)))
    assert explain(there, high).reason == "InsufficientGpu"
    assert (explain(there, waits).reason, explain(there, waits).message) == ("VolumeNotReady", held)
