"""The simulated world as a test double: what clusters do to a scheduler, and what the scheduler makes of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.budget import examples
from tests.simulate.samples import bound, node, pod, scheduled

from tangram.api import names
from tangram.api.objects import ClaimReference, Metadata, PodVolume
from tangram.api.policy import parse_policy
from tangram.errors import Conflict
from tangram.plan import Evict, Hold, Place, PodName
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.simulate import storage
from tangram.simulate.answers import Answer
from tangram.simulate.audit import misplaced, overfilled
from tangram.simulate.faults import Faults
from tangram.simulate.storage import Driver
from tangram.simulate.watching import Kind
from tangram.simulate.world import COLLECTED_AFTER, World
from tangram.snapshot.requests.provisioning import SELECTED_NODE


def test_a_pod_is_placed_when_its_time_comes():
    world = World([node("n")])
    loop = scheduled(world)
    world.submit(pod("a", gpus=8), at=10)
    loop.run(until=9)
    assert bound(world) == {}
    loop.run(until=10)
    assert bound(world) == {"a": "n"}
    assert world.clock.now == 10


def test_a_pod_that_completes_makes_room_for_one_that_waits():
    world = World([node("n")])
    loop = scheduled(world)
    world.submit(pod("first", gpus=8), duration=100)
    world.submit(pod("second", gpus=1), at=50)
    loop.run(until=99)
    assert bound(world) == {"first": "n"}
    assert [hold.reason for hold in loop.holds.values()] == ["InsufficientGpu"]
    loop.run(until=100)
    assert bound(world) == {"second": "n"}
    assert loop.holds == {}


def test_a_node_that_vanishes_takes_its_pods_and_a_new_one_takes_those_that_wait():
    world = World([node("old")])
    loop = scheduled(world)
    world.submit(pod("a", gpus=8))
    world.remove_node("old", at=5)
    world.submit(pod("b", gpus=8), at=6)
    world.put_node(node("new"), at=7)
    loop.run(until=6)
    assert bound(world) == {}
    assert [name for _, name in world.pods] == ["b"]
    loop.run(until=7)
    assert bound(world) == {"b": "new"}


def test_a_deleted_pod_holds_its_devices_until_its_grace_is_over():
    world = World([node("n")], grace=30)
    loop = scheduled(world)
    world.submit(pod("a", gpus=8))
    world.submit(pod("b", gpus=8), at=1)
    world.delete("default", "a", at=10)
    loop.run(until=39)
    assert bound(world) == {"a": "n"}
    loop.run(until=40)
    assert bound(world) == {"b": "n"}


def test_a_gang_is_placed_whole_or_not_at_all():
    world = World([node("n")])
    loop = scheduled(world)
    for index in range(3):
        world.submit(pod(f"g{index}", gpus=4, gang="g", minimum=3))
    loop.run(until=1)
    assert bound(world) == {}
    world.put_node(node("m"))
    loop.run(until=2)
    assert len(bound(world)) == 3


@pytest.mark.parametrize("answer", [Answer.CONFLICT, Answer.REFUSED, Answer.LOST])
def test_a_binding_that_did_not_take_effect_is_made_again(answer):
    faults = [answer]
    world = World([node("n", gpus=1)], fault=lambda _: faults.pop() if faults else None)
    loop = scheduled(world)
    world.submit(pod("a", share=60))
    loop.run_to_rest()
    assert bound(world) == {}
    loop.run(until=1)
    assert bound(world) == {"a": "n"}
    assert (loop.cycle.counters.placed, loop.cycle.counters.lost) == (2, 1)


def test_a_binding_whose_answer_is_lost_counts_once():
    world = World([node("n", gpus=1)], fault=lambda _: Answer.UNANSWERED)
    loop = scheduled(world)
    for name in ("a", "b"):
        world.submit(pod(name, share=50))
    world.submit(pod("c", share=10))
    loop.run(until=10)
    assert len(bound(world)) == 2
    assert loop.cycle.counters.lost == 0


def test_a_pod_that_is_deleted_under_the_schedulers_pen_leaves_nothing_behind():
    faults = [Answer.GONE]
    world = World([node("n", gpus=1)], fault=lambda _: faults.pop() if faults else None)
    loop = scheduled(world)
    world.submit(pod("a", gpus=1))
    loop.run(until=1)
    assert world.pods == {}
    world.submit(pod("b", gpus=1))
    loop.run(until=2)
    assert bound(world) == {"b": "n"}


def test_a_pod_created_again_under_its_name_is_not_bound_by_an_old_decision():
    world = World([node("n")])
    world.submit(pod("a"))
    old = PodName("default", "a", world.pods["default", "a"].metadata.uid)
    world.delete("default", "a")
    world.submit(pod("a"))
    assert world.bind(Place(old, "n")) is Answer.CONFLICT
    assert world.evict(Evict(old, "n", PodName("default", "b"), "")) is Answer.GONE
    with pytest.raises(Conflict):
        world.submit(pod("a"))


def test_fault_05_a_lagging_watch_makes_no_device_be_given_twice():
    world = World([node("n", gpus=1)], watch_delay=5)
    loop = scheduled(world)
    for second in range(8):
        world.submit(pod(f"p{second}", share=30), at=second)
    loop.run(until=40)
    assert len(bound(world)) == 3
    assert loop.cycle.counters.placed == 3


def test_a_binding_to_a_node_that_vanished_meanwhile_is_collected():
    world = World([node("n")], watch_delay=5)
    loop = scheduled(world)
    world.submit(pod("a"), at=1)
    world.remove_node("n", at=4)
    loop.run(until=COLLECTED_AFTER)
    assert len(world.pods) == 1
    loop.run(until=60)
    assert world.pods == {}
    world.put_node(node("n"))
    world.submit(pod("b", gpus=8))
    loop.run(until=70)
    assert bound(world) == {"b": "n"}


def test_what_is_made_again_at_once_does_not_run_into_a_node_that_is_gone_without_end():
    world = World([node("n")])
    loop = scheduled(world)
    world.submit(pod("a"))
    world.own("default", "a", 0, renames=True)
    loop.watch.lose([Kind.NODE])
    loop.run(until=5)
    world.remove_node("n")
    loop.run(until=200)
    assert loop.cycle.counters.placed == 6  # at the beginning, and from second 5 on every 40 seconds


def preempting(world):
    """A loop under a policy in which ``high`` may evict ``low`` on the nodes that it prefers."""
    loop = scheduled(world)
    spec = {
        "priorityClasses": [{"name": "high", "weight": 3, "nodeSelector": HIGH}, {"name": "low", "weight": 1}],
        "fallbackStrategy": "preempt",
    }
    policy = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": {"name": "p"}, "spec": spec}
    loop.cycle.builder.set_policy(parse_policy(policy))
    return loop


HIGH = {"nvidia.com/gpu.product": "A100"}


def of_class(name, priority_class, **options):
    plain = pod(name, **options)
    return replace(plain, metadata=replace(plain.metadata, labels={names.PRIORITY_CLASS: priority_class}))


def test_an_evicted_pod_takes_its_grace_and_its_place_then_goes_to_the_claimant():
    world = World([node("n")], grace=30)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=39)
    assert bound(world) == {"lower": "n"}
    assert world.pods["default", "lower"].metadata.deletion_timestamp
    loop.run(until=100)
    assert bound(world) == {"higher": "n"}
    assert loop.cycle.counters.evicted == 1


def test_an_eviction_whose_answer_is_lost_happens_once():
    world = World([node("n")], fault=lambda action: Answer.UNANSWERED if isinstance(action, Evict) else None)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=100)
    assert bound(world) == {"higher": "n"}
    assert loop.cycle.counters.evicted == 1


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.LOST])
def test_an_eviction_that_fails_moves_nobody(answer):
    world = World([node("n")], fault=lambda action: answer if isinstance(action, Evict) else None)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=100)
    assert bound(world) == {"lower": "n"}


def test_the_audit_sees_a_device_that_is_given_twice():
    """What finds no fault anywhere else must be able to find one."""
    first, second = World([node("n", gpus=1)]), World([node("n", gpus=1)])
    for world, name in ((first, "a"), (second, "b")):
        world.submit(pod(name, share=60))
        scheduled(world).run_to_rest()
        assert list(overfilled(world)) == []
    first.pods |= second.pods
    assert list(overfilled(first)) == [
        "node n has 100 of scheduling.example.com/gpu, its pods hold 120",
        "node n device 0 is given away 120 hundredths",
    ]


def name_of(world, name):
    return PodName("default", name, world.pods["default", name].metadata.uid)


class Diary:
    """What one watch shows, as sentences."""

    def __init__(self, world):
        self.lines = []
        self.watch = world.watch(self.note, self.note, {Kind.CLAIM: self.note})

    def note(self, old, new):
        verb = "gone" if new is None else "new" if old is None else "changed"
        self.lines.append(f"{verb} {(new or old).metadata.name}")

    def read(self):
        lines, self.lines = self.lines, []
        return lines


def test_a_lost_watch_shows_the_difference_once_it_is_listed_again():
    world = World([node("n")])
    for name in ("stays", "leaves", "comes-back"):
        world.submit(pod(name))
    diary = Diary(world)
    diary.read()
    diary.watch.lose()
    world.delete("default", "leaves")
    world.delete("default", "comes-back")
    world.submit(pod("comes-back"))
    world.submit(pod("fleeting"))
    world.delete("default", "fleeting")
    world.bind(Place(name_of(world, "stays"), "n"))
    assert diary.read() == []
    assert not diary.watch.current
    diary.watch.relist()
    assert diary.read() == ["gone leaves", "changed stays", "gone comes-back", "new comes-back"]
    assert diary.watch.current
    world.submit(pod("later"))
    assert diary.read() == ["new later"]


def test_what_is_under_way_when_a_watch_is_lost_is_not_shown_later():
    world = World([node("n")], watch_delay=5)
    diary = Diary(world)
    world.submit(pod("a"))
    diary.watch.lose([Kind.POD])
    world.delete("default", "a")
    diary.watch.relist()
    diary.read()
    world.run(until=20)
    assert diary.read() == []


def test_each_kind_is_late_by_its_own_delay_and_never_out_of_its_order():
    world = World()
    diary = Diary(world)
    diary.watch.lag(5, [Kind.POD])
    world.submit(pod("a"))
    diary.watch.lag(0, [Kind.POD])
    world.put_node(node("n"))
    world.delete("default", "a")
    assert diary.read() == ["new n"]
    world.run(until=5)
    assert diary.read() == ["new a", "gone a"]


def test_what_happens_in_the_second_in_which_earlier_changes_come_is_shown_after_them():
    world = World()
    diary = Diary(world)
    world.schedule(5, lambda: world.delete("default", "a"))
    diary.watch.lag(5, [Kind.POD])
    world.submit(pod("a"))
    diary.watch.lag(0, [Kind.POD])
    world.run(until=5)
    assert diary.read() == ["new a", "gone a"]
    assert diary.watch.current


def test_a_process_that_is_dead_is_shown_nothing():
    world = World()
    diary = Diary(world)
    diary.watch.stop()
    world.submit(pod("a"))
    assert diary.read() == []


def with_claim(name, claim):
    plain = pod(name)
    volumes = (PodVolume("data", ClaimReference(claim)),)
    return replace(plain, spec=replace(plain.spec, volumes=volumes))


@pytest.mark.parametrize(
    ("driver", "phases"),
    [
        (Driver(seconds=3), ["Pending", "Bound"]),
        (Driver(seconds=None), ["Pending", "Pending"]),
        (Driver(seconds=3, refusals=1), ["Pending", "Pending"]),
    ],
)
def test_a_volume_comes_late_or_never_or_its_node_is_given_back(driver, phases):
    world = World([node("n"), node("m")])
    world.put_class("disk", driver)
    world.put(Kind.CLAIM, ("default", "data"), storage.claim("default", "data", "disk"))
    assert world.choose_node(("default", "data"), "n") is Answer.DONE
    world.run(until=2)
    seen = [world.claims["default", "data"].status.phase]
    world.run(until=3)
    claim = world.claims["default", "data"]
    assert [*seen, claim.status.phase] == phases
    assert (SELECTED_NODE in claim.metadata.annotations) == (driver.refusals == 0)


def test_a_local_volume_is_bound_to_the_claim_that_is_written_on_it_and_free_again_once_its_last_pod_has_gone():
    world = World([node("n")])
    world.put_class("local", Driver(local=True))
    world.put(Kind.VOLUME, "d", storage.local_volume("d", "local", world.nodes["n"], "10Gi"))
    for name in ("data", "more"):
        world.put(Kind.CLAIM, ("default", name), storage.claim("default", name, "local", "5Gi"))
    world.submit(with_claim("first", "data"))
    assert world.choose_volume(("default", "data"), "d", "n") is Answer.DONE
    assert world.choose_volume(("default", "more"), "d", "n") is Answer.CONFLICT
    world.run(until=1)
    assert world.claims["default", "data"].spec.volume_name == "d"
    world.delete("default", "first")
    world.run(until=2)
    assert ("default", "data") not in world.claims
    assert world.choose_volume(("default", "more"), "d", "n") is Answer.DONE


def test_the_audit_sees_a_node_with_more_volumes_than_it_can_attach():
    world = World([node("n")])
    world.put_class("disk", Driver(seconds=1))
    world.put(Kind.DRIVERS, "n", storage.limits("n", 1))
    found = []
    for name in ("a", "b"):
        world.put(Kind.CLAIM, ("default", name), storage.claim("default", name, "disk"))
        world.choose_node(("default", name), "n")
        world.submit(with_claim(f"pod-{name}", name))
        world.run(until=world.clock.now + 1)
        world.bind(Place(PodName("default", f"pod-{name}", world.pods["default", f"pod-{name}"].metadata.uid), "n"))
        found.append([*misplaced(world)])
    assert found == [[], ["node n can have 1 volumes, its pods have ['pv-default-a', 'pv-default-b']"]]


def test_the_audit_sees_a_pod_that_cannot_reach_its_volume():
    world = World([node("n"), node("m")])
    world.put_class("disk", Driver(seconds=1))
    for name in ("made", "missing"):
        world.put(Kind.CLAIM, ("default", name), storage.claim("default", name, "disk"))
    world.choose_node(("default", "made"), "n")
    world.run(until=1)
    for name, claim, where in (("right", "made", "n"), ("wrong", "made", "m"), ("early", "missing", "n")):
        world.submit(with_claim(name, claim))
        world.bind(Place(name_of(world, name), where))
    assert list(misplaced(world)) == [
        "pod default/early runs, and its claim missing has no volume",
        "pod default/wrong runs on m, which cannot reach its volume pv-default-made",
    ]


@pytest.mark.parametrize(("renames", "again"), [(False, "a"), (True, "a-1")])
def test_an_owner_makes_its_pod_again_when_that_is_evicted_and_not_when_it_is_done(renames, again):
    world = World([node("n")])
    world.submit(pod("a"))
    first = name_of(world, "a")
    world.own("default", "a", 2, renames=renames)
    world.bind(Place(first, "n"))
    world.evict(Evict(first, "n", None, ""))
    assert world.pods == {}
    world.run(until=2)
    second = name_of(world, again)
    assert second.uid != first.uid
    assert not world.pods["default", again].spec.node_name
    world.bind(Place(second, "n"))
    world.end("default", again, linger=5)
    world.run(until=6)
    assert world.pods["default", again].status.phase == "Succeeded"
    world.run(until=100)
    assert world.pods == {}


def test_a_report_is_written_on_the_pod_or_is_lost():
    world = World([node("n")])
    world.fault = faults = Faults(world.clock)
    world.submit(pod("a"))
    hold = Hold(name_of(world, "a"), "InsufficientGpu", "no node has room", nominated_node="n")
    faults.reports["a"] = 5
    assert world.report(hold) is Answer.LOST
    world.run(until=5)
    assert world.report(hold) is Answer.DONE
    status = world.pods["default", "a"].status
    assert [one.message for one in status.conditions] == ["InsufficientGpu: no node has room"]
    assert status.nominated_node_name == "n"


def test_refusals_last_as_long_as_their_rule_and_accidents_meet_one_write_each():
    world = World([node("n")])
    world.fault = faults = Faults(world.clock, accidents=[Answer.LOST])
    for name in ("a", "b"):
        world.submit(pod(name))
    faults.refuse(["a"], until=5)
    faults.protect(["b"])
    assert world.bind(Place(name_of(world, "a"), "n")) is Answer.REFUSED
    assert world.bind(Place(name_of(world, "b"), "n")) is Answer.LOST
    assert world.bind(Place(name_of(world, "b"), "n")) is Answer.DONE
    assert world.evict(Evict(name_of(world, "b"), "n", None, "")) is Answer.REFUSED
    world.run(until=5)
    assert world.bind(Place(name_of(world, "a"), "n")) is Answer.DONE


def test_pods_of_another_scheduler_hold_what_nobody_recorded():
    world = World([node("n", gpus=1)])
    world.put(Kind.INVENTORY, "n", Inventory(Metadata("n"), InventoryStatus((DeviceEntry("GPU-x", 0),))))
    world.submit(pod("ours", share=60))
    scheduled(world).run_to_rest()
    foreign = pod("theirs", gpus=1)
    world.submit(replace(foreign, spec=replace(foreign.spec, scheduler_name="default-scheduler")))
    assert list(overfilled(world)) == []
    world.bind_elsewhere("default", "theirs", "n")
    assert list(overfilled(world)) == ["node n has 1 devices, 1 are given away and pods of others hold 1"]
    two = tuple(DeviceEntry(f"GPU-{number}", number, "Healthy") for number in range(2))
    world.put(Kind.INVENTORY, "n", Inventory(Metadata("n"), InventoryStatus(two)))  # its agent sees one more
    assert list(overfilled(world)) == []


def test_a_node_that_comes_back_in_another_row_is_not_taken_for_the_row_that_it_left():
    world = World([node("n0", gpus=4)])
    world.put_node(node("n1", gpus=4))
    loop = scheduled(world)
    world.submit(pod("a", gpus=1))
    loop.run_to_rest()
    for name in ("n1", "n0"):
        world.remove_node(name)
    loop.run_to_rest()
    world.put_node(node("n1", gpus=4))
    world.submit(pod("b", gpus=1))
    loop.run_to_rest()
    assert world.pods["default", "b"].spec.node_name == "n1"
    assert loop.cycle.counters.placed == 2


EVENT = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 30, 60]), st.integers(0, 20)),
    st.tuples(st.just("gang"), st.sampled_from([1, 2]), st.integers(2, 4), st.just(0)),
    st.tuples(st.just("delete"), st.integers(0, 30), st.just(0), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("add"), st.integers(0, 2), st.just(0), st.just(0)),
)
FAULTS = st.lists(st.sampled_from([None, None, *Answer.__members__.values()]), max_size=30)


@given(st.lists(EVENT, max_size=30), FAULTS, st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=examples(60), deadline=None)
def test_whatever_happens_nothing_is_overfilled_and_all_comes_to_rest(events, faults, watch_delay, grace):
    pending = [fault for fault in faults if fault is not Answer.DONE]
    world = World(
        [node("n0", gpus=4)],
        watch_delay=watch_delay,
        grace=grace,
        fault=lambda _: pending.pop() if pending else None,
    )
    loop = scheduled(world)
    for number, (kind, first, second, third) in enumerate(events):
        if kind == "submit":
            gpus, share = (first, 0) if first else (0, second)
            world.submit(pod(f"p{number}", gpus=gpus, share=share), number, third or None)
        elif kind == "gang":
            for index in range(second):
                member = pod(f"p{number}-{index}", gpus=first, gang=f"g{number}", minimum=second)
                world.submit(member, number)
        elif kind == "delete":
            world.delete("default", f"p{first}", number)
        elif kind == "lose":
            world.remove_node(f"n{first}", number)
        else:
            world.put_node(node(f"n{first}", gpus=4), number)
    loop.run(until=10_000)  # a gang in part has its timeout, and a refused pod evicts nobody for an hour
    settled = bound(world)
    assert world.next_moment() is None
    placed = loop.cycle.counters.placed
    for _ in range(5):
        assert not loop.turn().place
    assert bound(world) == settled
    assert loop.cycle.counters.placed == placed
