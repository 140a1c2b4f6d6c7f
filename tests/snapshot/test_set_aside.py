"""Nothing that one object says ends the scheduler: it is set aside, named, and everything else goes on."""

from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest
from tests.fuzz.run import fuzz
from tests.worlds import START, World, bound, cluster, container, node, pod, policy, with_spec

from tangram.api.objects import Metadata, Pod
from tangram.api.storage import CSINode, DriverLimit, DriverOnNode, NodeDrivers
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import NodeDevice


@pytest.mark.slow
def test_a_thousand_odd_objects_raise_nothing_and_are_counted_within_bounds() -> None:
    found = fuzz(1_000, seed=11)
    assert not found.raised
    assert not found.illegal
    assert found.placed > 0


class TestSums:
    """What containers ask for together is checked as what each of them asks for."""

    def test_memory_of_containers_that_share_a_gpu(self) -> None:
        tenants = [container(f"c{number}", gpu=1) for number in range(16)]
        bomb = pod("bomb", gpu_memory="128Ti", init=[container("init", gpu=100)], containers=tenants)
        world = World(cluster("1x8xA100"), [bomb])
        world.step()
        assert world.reason("bomb") == "InvalidRequest"

    def test_devices_of_containers_that_have_their_own(self) -> None:
        world = World(cluster("1x8xA100"), [pod("many", containers=[container(f"c{n}", whole=1024) for n in range(3)])])
        world.step()
        assert world.reason("many") == "InvalidRequest"

    def test_cpus_that_no_sum_over_pods_could_hold(self) -> None:
        world = World(cluster("1x8xA100"), [pod("large", cpu=1 << 41)])
        world.step()
        assert world.reason("large") == "InvalidRequest"

    def test_memory_that_pods_say_they_hold_of_one_gpu(self) -> None:
        record = '{"main":[{"id":"0","share":1,"memoryMiB":99999999}]}'
        builder = Builder()
        builder.put_node(node("n0", 1, gpu_memory=99999999))
        for number in range(50):
            builder.put_pod(bound(pod(f"p{number}", gpu=1), "n0", record))
        assert builder.snapshot(START).nodes.device_memory_free[0, 0] == 0


class TestSetAside:
    """An exception while one object is taken in is that object's alone."""

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> World:
        """A world in which nothing can read a pod named ``odd``."""
        world = World(cluster("2x2xA100"))
        reader = world.cycle.builder._lifecycle._reader
        read = reader.read

        def raising(one: Pod) -> object:
            if one.metadata.name == "odd" and one.metadata.labels.get("fine") is None:
                raise OverflowError("too large")
            return read(one)

        monkeypatch.setattr(reader, "read", raising)
        return world

    def test_a_pod_that_waits_is_named_once_and_others_are_placed(self, broken: World) -> None:
        broken.add(pod("odd", whole=1), pod("good", whole=1))
        broken.add(with_spec(broken.pod("odd"), priority=1))
        [fault] = broken.cycle.take_faults()
        assert str(fault.about) == "Pod default/odd"
        assert "OverflowError: too large" in fault.sentence
        assert [place.pod.name for place in broken.step().place] == ["good"]

    def test_one_that_could_not_be_taken_in_because_of_others_is_tried_again_when_these_change(
        self, broken: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken.add(pod("odd", whole=1))
        assert broken.step().place == ()
        monkeypatch.undo()
        broken.cycle.builder.set_policy(policy())
        assert [place.pod.name for place in broken.step().place] == ["odd"]

    def test_a_bound_one_occupies_all_devices_of_its_node_until_it_changes(self, broken: World) -> None:
        odd = bound(pod("odd", whole=1), "n0", {"main": [("0", 100)]})
        broken.add(odd, *[pod(f"p{number}", whole=1) for number in range(4)])
        assert {place.node for place in broken.step().place} == {"n1"}
        fine = msgspec.structs.replace(odd.metadata, labels={"fine": "yes"})
        broken.add(msgspec.structs.replace(odd, metadata=fine))
        assert [place.node for place in broken.step().place] == ["n0"]

    def test_one_that_is_gone_is_forgotten(self, broken: World) -> None:
        broken.add(bound(pod("odd", whole=1), "n0"))
        broken.delete("odd")
        broken.add(*[pod(f"p{number}", whole=1) for number in range(4)])
        assert len(broken.step().place) == 4

    def test_a_node_is_absent_until_its_agent_says_what_can_be_read(self) -> None:
        world = World(cluster("1x2xA100"), [pod("a", whole=1)])
        world.cycle.builder.set_links("n0", ((0, 1 << 40), (1, 0)))
        world.cycle.builder.set_at_risk("n0", False)  # what else it says is no news
        world.cycle.builder.put_node(world.nodes[0])
        assert world.step().place == ()
        assert [str(fault.about) for fault in world.cycle.take_faults()] == ["GPUNode n0"]
        world.cycle.builder.set_links("n0", ((0, 1), (1, 0)))
        assert [place.node for place in world.step().place] == ["n0"]

    def test_a_node_that_cannot_be_taken_in_leaves_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        builder = Builder()
        put = builder.nodes.put

        def raising(one: object) -> bool:
            if one.metadata.name == "odd" and one.metadata.labels.get("fine") is None:  # type: ignore[attr-defined]
                put(one)  # type: ignore[arg-type]
                raise TypeError("odd")
            return put(one)  # type: ignore[arg-type]

        monkeypatch.setattr(builder.nodes, "put", raising)
        builder.put_node(node("odd", 2))
        builder.put_node(node("good", 2))
        assert sorted(builder.nodes.rows) == ["good"]
        builder.put_node(node("odd", 2, labels={"fine": "yes"}))
        assert sorted(builder.nodes.rows) == ["good", "odd"]

    def test_a_known_node_that_cannot_be_taken_in_any_more_is_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is claimed on it is given up."""
        world = World([node("n0", 1)], [pod("low", whole=1)], grace=9).settle()
        world.add(pod("high", whole=1, priority=9))
        world.step()
        builder = world.cycle.builder
        assert builder.claims.live()

        def raising(_: object) -> bool:
            raise TypeError("odd")

        monkeypatch.setattr(builder.nodes, "put", raising)
        builder.put_node(node("n0", 2))
        assert (builder.nodes.rows, builder.claims.live()) == ({}, [])

    def test_a_policy_that_cannot_be_followed_leaves_the_one_before_in_force(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(cluster("1x2xA100"), policy=policy(queues=[{"name": "team"}]))
        builder = world.cycle.builder
        follow = builder.shapes.set_policy

        def raising(found: object) -> None:
            if found is not world.policy:
                raise OverflowError("too large")
            follow(found)  # type: ignore[arg-type]

        monkeypatch.setattr(builder.shapes, "set_policy", raising)
        builder.set_policy(policy(queues=[{"name": "other"}]))
        assert "team" in builder.queues.known()
        world.add(pod("a", whole=1, queue="team"))
        assert len(world.step().place) == 1


def test_devices_that_agents_report_without_bounds_are_counted_within() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.set_inventory("n0", tuple(NodeDevice(str(number), True, 1 << 70) for number in range(5000)))
    assert builder.snapshot(START).nodes.device_count[0] == 1024


@pytest.mark.parametrize("kind", ["claim", "volume", "budget"])
def test_whatever_is_raised_about_a_storage_object_or_a_budget_names_it_and_ends_nothing(kind: str) -> None:
    """Nothing known raises there: the object stands for what nobody has thought of."""
    builder, odd = Builder(), SimpleNamespace()
    puts: dict[str, Callable[[], object]] = {
        "claim": lambda: builder.put_claim(("default", "odd"), odd),  # type: ignore[arg-type]
        "volume": lambda: builder.put_volume("odd", odd),  # type: ignore[arg-type]
        "budget": lambda: builder.put_budget(("default", "odd"), odd),  # type: ignore[arg-type]
    }
    puts[kind]()
    [fault] = builder.take_faults()
    assert fault.about.name == "odd"
    builder.snapshot(START)


def test_a_node_that_can_attach_more_volumes_than_can_be_counted_can_attach_as_many_as_there_are() -> None:
    world = World([node("n0", 1)])
    limits = DriverOnNode("d", DriverLimit(1 << 70))
    world.cycle.builder.put_drivers("n0", CSINode(Metadata("n0"), NodeDrivers((limits,))))
    world.add(pod("p", whole=1))
    assert [place.pod.name for place in world.step().place] == ["p"]
