"""What is exported of queues: what they use, are promised, may use, and would have by their weights."""

import pytest
from tests.worlds import World, bound, cluster, pod, policy

from tangram.api import names
from tangram.metrics.collector import queue_figures
from tangram.plan import Reason
from tangram.scheduler.queue_status import queue_uses

QUEUES = [
    {"name": "a", "guarantee": {"gpu": "4"}, "weight": 1},
    {"name": "b", "limit": {"gpu": "6"}, "weight": 3},
    {"name": "c", "parent": "a"},
]


def test_every_queue_tells_its_figures() -> None:
    world = World(cluster("1x8xA100"), policy=policy(queues=QUEUES))
    world.add(*[pod(f"c{index}", whole=1, queue="c", age=9) for index in range(2)])
    world.add(*[pod(f"b{index}", whole=1, queue="b", age=5) for index in range(9)])
    world.settle()

    figures = queue_figures(world.figures())

    used, share, pods = (figures[f"tangram_queue_{name}"] for name in ("used", "fair_share", "pods"))
    assert isinstance(used, dict)
    assert (used["a", "gpu"], used["b", "gpu"], used["c", "gpu"]) == (2, 6, 2)
    assert used["a", "memory"] == 2 << 30
    assert used["b", "cpu"] == 6
    assert figures["tangram_queue_guarantee"] == {("a", "gpu"): 4}
    assert figures["tangram_queue_limit"] == {("b", "gpu"): 6}
    assert isinstance(share, dict)
    assert (share["a", "gpu"], share["b", "gpu"]) == pytest.approx((2, 6))
    assert isinstance(pods, dict)
    assert (pods["b", "pending"], pods["b", "running"], pods["a", "running"]) == (3, 6, 2)


def test_pods_that_are_not_to_be_tried_for_now_or_as_they_are_written_are_pending_too() -> None:
    world = World(cluster("1x8xA100"), policy=policy(queues=QUEUES))
    world.add(pod("refused", whole=1, queue="c"), pod("fits", whole=1, queue="c"))
    world.add(pod("odd", whole=1, queue="c", annotations={names.GPU_ISOLATION: "?"}), pod("lost", whole=1, queue="zz"))
    for _ in range(3):  # the first pauses are short
        world.cycle.builder.back_off("uid-refused", Reason.BINDING_REFUSED, "a rule forbids it", world.now)
    world.step()

    figures = world.figures()

    pending = {one["name"]: one.get("pending", 0) for one in queue_uses(figures)}
    assert pending == {"a": 2, "b": 0, "c": 2, "default": 0}
    assert figures.pending == 3
    assert dict(world.told) == {"refused": "BindingRefused", "odd": "InvalidRequest", "lost": "QueueUnknown"}


def test_shares_are_as_even_by_weight_as_guarantees_allow() -> None:
    world = World(cluster("1x8xA100"), policy=policy(queues=QUEUES[:2]))
    for name in "ab":
        world.add(*[pod(f"{name}{index}", whole=1, queue=name) for index in range(20)])

    share = queue_figures(world.figures())["tangram_queue_fair_share"]

    assert isinstance(share, dict)
    assert share["a", "gpu"] == pytest.approx(4)
    assert share["b", "gpu"] == pytest.approx(4)


def test_a_fair_share_is_where_evictions_lead() -> None:
    queues = [{"name": "a", "weight": 3}, {"name": "b"}, {"name": "c", "guarantee": {"gpu": "2"}}]
    world = World(cluster("1x8xA100"), policy=policy(queues=queues))
    world.add(*[pod(f"b{index}", whole=1, queue="b", age=9) for index in range(8)])
    world.settle()
    for name, count in (("a", 3), ("c", 2)):
        world.add(*[pod(f"{name}{index}", whole=1, queue=name) for index in range(count)])
    share = queue_figures(world.figures())["tangram_queue_fair_share"]

    world.settle()

    used = queue_figures(world.figures())["tangram_queue_used"]
    assert isinstance(share, dict)
    assert isinstance(used, dict)
    for name, gpus in (("a", 3), ("b", 3), ("c", 2)):
        assert (used[name, "gpu"], share[name, "gpu"]) == pytest.approx((gpus, gpus))


def test_a_limit_further_down_leaves_the_rest_to_others() -> None:
    """a cannot use more than a1 may, however many pods wait there."""
    queues = [{"name": "a"}, {"name": "a1", "parent": "a", "limit": {"gpu": "1"}}, {"name": "b"}]
    world = World(cluster("1x8xA100"), policy=policy(queues=queues))
    for name in ("a1", "b"):
        world.add(*[pod(f"{name}{index}", whole=1, queue=name) for index in range(20)])

    share = queue_figures(world.figures())["tangram_queue_fair_share"]

    assert isinstance(share, dict)
    assert [share[name, "gpu"] for name in ("a", "a1", "b")] == pytest.approx([1, 1, 7])


def test_figures_are_of_one_moment_whatever_comes_after_them() -> None:
    classes = ({"name": "a", "weight": 1}, {"name": "b", "weight": 2})
    world = World(cluster("1x8xA100"), policy=policy(*classes, queues=[{"name": "one"}, {"name": "two"}]))
    world.cycle.keeps_figures = True
    world.add(pod("first", 30, queue="one", klass="a"))
    world.step()
    figures = world.cycle.figures
    assert figures is not None
    before = queue_uses(figures), queue_figures(figures)
    world.add(bound(pod("elsewhere", 30, queue="one", klass="a"), "n0", {"main": [("1", 30)]}))
    assert (queue_uses(figures), queue_figures(figures)) == before
    world.add(pod("second", 40, queue="two", klass="b"))
    world.add(*[pod(f"s{index}", index + 1, queue="two", klass="b", cpu=f"{index + 1}m") for index in range(40)])
    assert (queue_uses(figures), queue_figures(figures)) == before


def test_a_cycle_leaves_no_figures_where_nobody_reports() -> None:
    world = World(cluster("1x8xA100"))
    world.step()
    assert world.cycle.figures is None


def test_a_pod_whose_binding_is_not_confirmed_yet_does_not_run() -> None:
    world = World(cluster("1x8xA100"), policy=policy(queues=QUEUES))
    world.add(pod("c", whole=1, queue="c"))

    def counts() -> tuple[int, int]:
        found = {one["name"]: one for one in queue_uses(world.figures())}
        return found["c"].get("running", 0), found["a"].get("running", 0)

    [place] = world.cycle.decide(world.now).place
    assert counts() == (0, 0)
    world.cycle.place_ended(place, held=True)
    world.add(bound(world.pod("c"), "n0", {"main": [("0", 100)]}))
    assert counts() == (1, 1)
    world.delete("c")
    assert counts() == (0, 0)
