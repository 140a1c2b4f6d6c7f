"""Pods get the GPUs that their records name: the agent against a kubelet on real sockets."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from tests.node.kubelet import Admitted, FakeKubelet, Rejected
from tests.node.machine import Machine, container, machine, pod, with_phase

from tangram.api.names import FRACTION_RESOURCE, GPU_RESOURCE
from tangram.api.objects import Pod
from tangram.cluster.backoff import Backoff
from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Health, Isolation
from tangram.node.injection import Injection
from tangram.node.inotify import FolderWatch
from tangram.node.report import status_of
from tangram.node.slots import FRACTIONS, shares_of, whole


def shares(admitted: Admitted, name: str = "main") -> dict[str, int]:
    """Hundredths by GPU that a container holds in the kubelet's books."""
    return dict(shares_of(d for ids in admitted.devices[name].values() for d in ids))


async def test_a_fraction_comes_from_the_gpu_of_the_record(folder: Path) -> None:
    async with machine(folder) as node:
        small = await node.start(pod("small", {"main": [("GPU-1", 30, 8192)]}))
        large = await node.start(pod("large", {"main": [("GPU-1", 70, 0)]}))
        other = await node.start(pod("other", {"main": [("GPU-0", 50)]}))

    assert [shares(small), shares(large), shares(other)] == [{"GPU-1": 30}, {"GPU-1": 70}, {"GPU-0": 50}]
    assert small.environment["main"]["NVIDIA_VISIBLE_DEVICES"] == "GPU-1"
    assert small.environment["main"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert small.environment["main"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    assert other.environment["main"]["NVIDIA_VISIBLE_DEVICES"] == "GPU-0"


async def test_two_hundred_hundredths_are_two_whole_gpus(folder: Path) -> None:
    async with machine(folder, count=3) as node:
        both = await node.start(pod("both", {"main": [("GPU-0", 100), ("GPU-2", 100)]}))

    assert shares(both) == {"GPU-0": 100, "GPU-2": 100}
    assert both.environment["main"]["NVIDIA_VISIBLE_DEVICES"] == "GPU-0,GPU-2"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in both.environment["main"]


async def test_a_record_from_before_the_inventory_names_gpus_by_index(folder: Path) -> None:
    async with machine(folder) as node:
        early = await node.start(pod("early", {"main": [("1", 30)]}))

    assert shares(early) == {"GPU-1": 30}


async def test_every_container_gets_its_own_part(folder: Path) -> None:
    several = pod("several", {"one": [("GPU-0", 20)], "two": [("GPU-1", 20)], "three": [("GPU-0", 60)]})
    async with machine(folder) as node:
        given = await node.start(several)

    assert [shares(given, name) for name in ("one", "two", "three")] == [{"GPU-0": 20}, {"GPU-1": 20}, {"GPU-0": 60}]


async def test_equal_sizes_on_different_gpus_are_not_mixed_up(folder: Path) -> None:
    """The kubelet admits in an order of its own; the record of the pod that it is admitting counts."""
    pods = [pod(f"p{n}", {"main": [(f"GPU-{n % 2}", 20)]}) for n in range(10)]
    async with machine(folder) as node:
        for one in pods:
            node.show(one)
        given = [await node.kubelet.admit(one) for one in reversed(pods)]

    assert [shares(one) for one in reversed(given)] == [{f"GPU-{n % 2}": 20} for n in range(10)]
    assert not node.agent.shared.counters.guesses


async def test_an_init_container_hands_its_part_on(folder: Path) -> None:
    """The kubelet takes the devices of finished init containers first, and asks for the rest."""
    record = {"init": [("GPU-1", 30)], "side": [("GPU-0", 10)], "main": [("GPU-1", 60)]}
    containers = [container("main", 60)]
    init = [container("side", 10, sidecar=True), container("init", 30)]
    async with machine(folder) as node:
        await node.start(pod("neighbour", {"main": [("GPU-1", 40)]}))
        given = await node.start(pod("chain", record, containers=containers, init=init))

    assert shares(given, "side") == {"GPU-0": 10}
    assert shares(given) == {"GPU-1": 60}
    assert given.devices["init"][FRACTION_RESOURCE] < given.devices["main"][FRACTION_RESOURCE]


async def test_devices_of_an_init_container_that_belong_elsewhere_are_refused(folder: Path) -> None:
    """The kubelet insists on reusing them, and that would put the container on a GPU that its record does not name."""
    record = {"init": [("GPU-1", 30)], "main": [("GPU-0", 20)]}
    split = pod("split", record, containers=[container("main", 20)], init=[container("init", 30)])
    async with machine(folder) as node:
        with pytest.raises(Rejected, match=r"main: its record names 20 % of GPU-0, but .* 20 of GPU-1"):
            await node.start(split)


async def test_an_init_container_alone(folder: Path) -> None:
    """The kubelet keeps its devices for as long as the pod lives, and never lists them."""
    prepared = pod("prepared", {"init": [("GPU-0", 80)]}, containers=[container("main")], init=[container("init", 80)])
    async with machine(folder) as node:
        await node.start(prepared)
        await node.start(pod("beside", {"main": [("GPU-0", 20)]}))
        with pytest.raises(Rejected, match="GPU-0 has 0 % free and the record names 10"):
            await node.start(pod("late", {"main": [("GPU-0", 10)]}))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (pod("p", containers=[container("main", 30)]), "it has no record of GPUs"),
        (
            pod("p", {"main": [("GPU-0", 30)]}, scheduler="default-scheduler"),
            "its schedulerName is 'default-scheduler'",
        ),
        (pod("p", {"main": [("GPU-0", 30)]}, node="elsewhere"), "it is bound to node 'elsewhere'"),
        (pod("p", "{", containers=[container("main", 30)]), "the annotation cannot be read"),
        (pod("p", {"main": [("GPU-0", 20)]}, containers=[container("main", 30)]), "is given 20 of GPU-0"),
        (pod("p", {"other": [("GPU-0", 30)]}, containers=[container("main", 30)]), "is given nothing"),
        (
            pod("p", {"main": [("GPU-0", 100), ("GPU-0", 100)]}, containers=[container("main", 200)]),
            "is given 100 of GPU-0 and 100 of GPU-0",
        ),
        (pod("p", containers=[container("main", 150)]), "it has no record"),
        (pod("p", {"main": [("GPU-7", 30)]}), "names GPU GPU-7, which is not here"),
        (pod("p", {"main": [("GPU-0", 30, 50_000)]}), "40960 MiB of memory free and the record names 50000"),
    ],
)
async def test_a_record_that_does_not_count_is_refused(folder: Path, given: Pod, sentence: str) -> None:
    async with machine(folder) as node:
        with pytest.raises(Rejected) as refused:
            await node.start(given)

    assert sentence in str(refused.value)
    assert "pod default/p, container main" in str(refused.value)


async def test_a_record_of_any_length_is_refused_in_a_sentence_that_arrives(folder: Path) -> None:
    """An annotation may have 256 KiB; what the kubelet is told travels in a header that must be short."""
    async with machine(folder) as node:
        with pytest.raises(Rejected, match="pod default/p, container main: its record names GPU xxxx"):
            await node.start(pod("p", {"main": [("x" * 200_000, 30)]}))


async def test_what_would_overfill_a_gpu_is_refused_by_name(folder: Path) -> None:
    async with machine(folder) as node:
        await node.start(pod("first", {"main": [("GPU-0", 80)]}))
        with pytest.raises(Rejected, match=r"20 % free and the record names 30; held: default/first 80"):
            await node.start(pod("second", {"main": [("GPU-0", 30)]}))
        node.end(pod("first", {"main": [("GPU-0", 80)]}))
        again = await node.start(pod("third", {"main": [("GPU-0", 30)]}))

    assert shares(again) == {"GPU-0": 30}
    assert dict(node.agent.shared.counters.refusals) == {(FRACTION_RESOURCE, "Overfilled"): 1}


async def test_memory_is_not_promised_twice_unless_told(folder: Path) -> None:
    for percent, refused in ((100, True), (150, False)):
        async with machine(folder, memory_overcommit_percent=percent) as node:
            await node.start(pod("greedy", {"main": [("GPU-0", 30, 30_000)]}))
            second = node.start(pod("second", {"main": [("GPU-0", 30, 20_000)]}))
            if refused:
                with pytest.raises(Rejected, match="10960 MiB of memory free and the record names 20000"):
                    await second
            else:
                await second


async def test_a_sick_gpu_takes_nothing_new_and_keeps_what_it_has(folder: Path) -> None:
    async with machine(folder) as node:
        await node.start(pod("old", {"main": [("GPU-0", 30)]}))
        node.probe.sick = {"GPU-0": Condition(Health.DEGRADED, "it is hot")}
        await node.until(lambda: node.agent.devices.health(node.probe.found[0]).health is Health.DEGRADED)
        with pytest.raises(Rejected, match=r"GPU GPU-0 is Degraded \(it is hot\) and takes no new work"):
            await node.start(pod("new", {"main": [("GPU-0", 30)]}))
        assert len(node.kubelet.endpoints[FRACTION_RESOURCE].healthy) == 200

        node.probe.sick = {"GPU-0": Condition(Health.UNHEALTHY, "XID 79")}
        await node.kubelet.capacity(FRACTION_RESOURCE, 100)
        node.probe.sick = {}
        await node.kubelet.capacity(FRACTION_RESOURCE, 200)
        await node.start(pod("newer", {"main": [("GPU-0", 30)]}))


async def test_a_gpu_that_fell_off_keeps_its_ids_and_comes_back(folder: Path) -> None:
    async with machine(folder) as node:
        before = node.kubelet.endpoints[FRACTION_RESOURCE].healthy
        both, node.probe.found = node.probe.found, node.probe.found[1:]
        await node.kubelet.capacity(FRACTION_RESOURCE, 100)
        assert node.kubelet.endpoints[FRACTION_RESOURCE].unhealthy == {d for d in before if d.startswith("GPU-0")}
        node.probe.found = both
        await node.kubelet.capacity(FRACTION_RESOURCE, 200)
        assert node.kubelet.endpoints[FRACTION_RESOURCE].healthy == before


async def test_a_silent_driver_stops_new_work_only(folder: Path) -> None:
    async with machine(folder) as node:
        node.probe.fail = NotReachable("no driver")
        await node.until(lambda: node.agent.problems())
        with pytest.raises(Rejected, match="the driver does not answer: no driver"):
            await node.start(pod("new", {"main": [("GPU-0", 30)]}))
        assert node.agent.problems() == {"probe": "no driver"}
        node.probe.fail = None
        await node.until(lambda: not node.agent.problems())
        await node.start(pod("newer", {"main": [("GPU-0", 30)]}))


async def test_a_driver_that_hangs_is_a_silent_one(folder: Path) -> None:
    async with machine(folder) as node:
        node.probe.answers.clear()
        await node.until(lambda: node.agent.problems())
        with pytest.raises(Rejected, match=r"does not answer: it has not answered for 0\.3 s"):
            await node.start(pod("new", {"main": [("GPU-0", 30)]}))
        assert status_of(node.agent.facts("1"), None, "2026-11-21T12:00:00Z")["health"] == "Degraded"
        node.probe.answers.set()
        await node.until(lambda: not node.agent.problems())
        await node.start(pod("newer", {"main": [("GPU-0", 30)]}))


async def test_a_probe_that_breaks_is_told_and_stops_new_work(folder: Path) -> None:
    async with machine(folder) as node:
        node.probe.fail = KeyError("uuid")
        await node.until(lambda: node.agent.problems())
        with pytest.raises(Rejected, match="the driver does not answer: KeyError: 'uuid'"):
            await node.start(pod("new", {"main": [("GPU-0", 30)]}))
        node.probe.fail = None
        await node.until(lambda: node.agent.devices.health(node.probe.found[0]).health is Health.HEALTHY)


async def test_an_event_of_the_driver_is_looked_at_at_once_and_many_are_one(folder: Path) -> None:
    async with machine(folder, probe_interval=300.0, reading_interval=300.0) as node:
        checks, measurements = node.probe.checks, node.probe.measurements
        node.probe.sick["GPU-0"] = Condition(Health.UNHEALTHY, "XID 79")
        for _ in range(1000):
            node.probe.wake()
        await node.until(lambda: node.agent.devices.conditions["GPU-0"].health is Health.UNHEALTHY)
        assert node.probe.checks <= checks + 2
        assert node.probe.measurements == measurements == 1


async def test_a_gpu_that_is_lost_stays_so_while_the_driver_is_silent(folder: Path) -> None:
    """A GPU that falls off the bus often takes the driver with it; its pods are not told that it works again."""
    async with machine(folder) as node:
        node.probe.sick = {"GPU-0": Condition(Health.UNHEALTHY, "XID 79")}
        await node.kubelet.capacity(FRACTION_RESOURCE, 100)
        node.probe.fail = NotReachable("no driver")
        await node.until(lambda: node.agent.problems())
        first, second = (node.agent.devices.health(gpu) for gpu in node.probe.found)
        assert (first.health, first.reason, second.health) == (Health.UNHEALTHY, "XID 79", Health.DEGRADED)


async def test_a_binding_that_the_kubelet_saw_first_is_waited_for(folder: Path) -> None:
    late = pod("late", {"main": [("GPU-1", 40)]})
    async with machine(folder, patience=10.0) as node:
        admission = asyncio.create_task(node.kubelet.admit(late))
        await node.until(lambda: node.kubelet.lists)
        node.show(pod("unrelated", {"main": [("GPU-0", 40)]}))
        node.show(late)
        given = await admission

    assert shares(given) == {"GPU-1": 40}


async def test_a_pod_that_nobody_placed_here_is_refused_in_time(folder: Path) -> None:
    """Such as a static pod: its request names no record that the watch could show."""
    async with machine(folder) as node:
        with pytest.raises(
            Rejected, match=r"no pod that was placed on this node waits for 30 of scheduling.example.com"
        ):
            await node.kubelet.admit(pod("static", containers=[container("main", 30)]))


async def test_a_pod_made_again_under_its_name_gets_what_its_own_record_names(folder: Path) -> None:
    """Force-deleted and made again: the kubelet lists names only, and our watch may still show the old pod."""
    old = pod("twin", {"main": [("GPU-0", 30)]}, uid="old")
    new = pod("twin", {"main": [("GPU-1", 30)]}, uid="new")
    async with machine(folder, patience=10.0) as node:
        await node.start(old)
        node.kubelet.remove(old)
        admission = asyncio.create_task(node.kubelet.admit(new))
        seen = node.kubelet.lists
        await node.until(lambda: node.kubelet.lists > seen)
        node.hide(old)
        node.show(new)
        given = await admission

    assert shares(given) == {"GPU-1": 30}


async def test_a_kubelet_that_lost_its_notes_gets_the_same_answer(folder: Path) -> None:
    """Its checkpoint is gone, so it asks again for a pod that has started long ago."""
    one = pod("again", {"main": [("GPU-1", 30)]})
    async with machine(folder) as node:
        await node.start(one)
        node.kubelet.remove(one)
        given = await node.kubelet.admit(one)

    assert shares(given) == {"GPU-1": 30}


async def test_without_the_kubelets_list_pods_are_told_apart_by_size(folder: Path) -> None:
    async with machine(folder) as node:
        node.kubelet.list_error = grpc.StatusCode.UNAVAILABLE
        pods = [pod(f"p{size}", {"main": [(f"GPU-{n % 2}", size)]}) for n, size in enumerate((10, 20, 30))]
        for one in pods:
            node.show(one)
        given = [await node.start(one) for one in reversed(pods)]
        with pytest.raises(Rejected, match="GPU-0 has 60 % free and the record names 70"):
            await node.start(pod("big", {"main": [("GPU-0", 70)]}))
        await node.until(lambda: "holders" in node.agent.problems())

    assert [shares(one) for one in given] == [{"GPU-0": 30}, {"GPU-1": 20}, {"GPU-0": 10}]


async def test_a_rate_limit_of_the_kubelet_is_waited_out(folder: Path) -> None:
    async with machine(folder) as node:
        node.kubelet.list_error = grpc.StatusCode.RESOURCE_EXHAUSTED
        admission = asyncio.create_task(node.start(pod("p", {"main": [("GPU-1", 10)]})))
        seen = node.kubelet.lists
        await node.until(lambda: node.kubelet.lists > seen)
        node.kubelet.list_error = None
        assert shares(await admission) == {"GPU-1": 10}


async def test_ids_of_another_gpu_are_refused_at_the_last_moment(folder: Path) -> None:
    """The kubelet may go straight to Allocate with whatever it has."""
    async with machine(folder) as node:
        node.kubelet.skip_preference = True
        with pytest.raises(Rejected, match=r"names 30 % of GPU-1, but the kubelet has taken 30 of GPU-0"):
            await node.start(pod("p", {"main": [("GPU-1", 30)]}))
        given = await node.start(pod("q", {"main": [("GPU-0", 30)]}))

    assert shares(given) == {"GPU-0": 30}


async def test_a_topology_manager_that_insists_on_another_numa_node_is_refused(folder: Path) -> None:
    async with machine(folder, numa_topology=True) as node:
        node.kubelet.affinity[FRACTION_RESOURCE] = {0}
        with pytest.raises(Rejected, match="has free 100 of GPU-0"):
            await node.start(pod("p", {"main": [("GPU-1", 30)]}))
        await node.start(pod("q", {"main": [("GPU-0", 30)]}))


async def test_a_node_of_whole_gpus_refuses_fractions(folder: Path) -> None:
    async with machine(folder, isolation=Isolation.EXCLUSIVE) as node:
        with pytest.raises(Rejected, match="is given out as a whole only, and the record names 30"):
            await node.start(pod("p", {"main": [("GPU-0", 30)]}))
        given = await node.start(pod("q", {"main": [("GPU-0", 100)]}))

    assert given.environment["main"]["TANGRAM_GPU_ISOLATION"] == "exclusive"


async def test_both_resources_share_the_same_gpus(folder: Path) -> None:
    resources = (FRACTIONS, whole(GPU_RESOURCE))
    async with machine(folder, resources=resources) as node:
        one = await node.start(pod("one", {"main": [("GPU-1", 100)]}, containers=[container("main", whole=1)]))
        with pytest.raises(Rejected, match="GPU-1 has 0 % free"):
            await node.start(pod("two", {"main": [("GPU-1", 30)]}))
        await node.start(pod("three", {"main": [("GPU-0", 30)]}))
        with pytest.raises(Rejected, match="GPU-0 has 70 % free and the record names 100"):
            await node.start(pod("four", {"main": [("GPU-0", 100)]}, containers=[container("main", whole=1)]))

    assert shares(one) == {"GPU-1": 100}
    assert one.environment["main"]["NVIDIA_VISIBLE_DEVICES"] == "GPU-1"


async def test_a_gpu_that_another_plugin_gave_out_takes_no_fraction(folder: Path) -> None:
    """NVIDIA's own plugin on the same node: its ids are uuids too."""
    async with machine(folder) as node:
        foreign = pod("foreign", containers=[container("main", whole=1)], scheduler="default-scheduler")
        (await node.kubelet.admit(foreign)).devices["main"] = {GPU_RESOURCE: {"GPU-1"}}
        with pytest.raises(Rejected, match=r"GPU-1 has 0 % free .* held: default/foreign 100"):
            await node.start(pod("p", {"main": [("GPU-1", 30)]}))


def specified(folder: Path) -> None:
    """NVIDIA's toolkit has written what it knows of the driver."""
    (folder / "cdi").mkdir()
    edits = {"mounts": [{"hostPath": "/usr/lib/libcuda.so.1", "containerPath": "/usr/lib/libcuda.so.1"}]}
    content = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "containerEdits": edits, "devices": []}
    (folder / "cdi" / "nvidia.json").write_text(json.dumps(content))


@pytest.mark.parametrize("injection", [Injection.ENV, Injection.DEVICE_NODES, Injection.CDI])
async def test_ways_into_the_container(folder: Path, injection: Injection) -> None:
    specified(folder)
    async with machine(folder, injection=injection) as node:
        given = await node.start(pod("p", {"main": [("GPU-1", 30)]}))

    visible = given.environment["main"]["NVIDIA_VISIBLE_DEVICES"]
    assert visible == ("GPU-1" if injection is Injection.ENV else "void")
    files = ["nvidia1", "nvidiactl"] if injection is Injection.DEVICE_NODES else []
    assert [Path(file).name for file in given.files["main"]] == files


async def test_nothing_is_registered_that_no_container_could_get(folder: Path) -> None:
    kubelet = FakeKubelet(folder)
    await kubelet.start()

    async def toolkit() -> None:
        await asyncio.sleep(0.5)
        assert kubelet.registrations == 0
        specified(folder)

    writing = asyncio.create_task(toolkit())
    async with machine(folder, injection=Injection.CDI, kubelet=kubelet) as node:
        await writing
        await node.start(pod("p", {"main": [("GPU-1", 30)]}))
    await kubelet.stop()


async def test_a_container_is_not_started_without_the_file_of_its_gpu(folder: Path) -> None:
    """As in an agent that was not given the files itself: the container would run, and find no GPU."""
    async with machine(folder, injection=Injection.DEVICE_NODES) as node:
        (folder / "dev" / "nvidia1").unlink()
        with pytest.raises(Rejected, match=r"GPU GPU-1 has no device file here: .*/dev/nvidia1 is missing"):
            await node.start(pod("p", {"main": [("GPU-1", 30)]}))


async def test_holdings_are_what_the_kubelet_lists(folder: Path) -> None:
    async with machine(folder) as node:
        await node.start(pod("a", {"main": [("GPU-1", 30, 2048)]}))
        await node.until(lambda: node.agent.holdings)
        (holding,) = node.agent.holdings
        assert (holding.pod_uid, holding.uuid, holding.share, holding.memory_mib) == ("uid-a", "GPU-1", 30, 2048)
        node.end(pod("a"))
        await node.until(lambda: not node.agent.holdings)


@pytest.mark.slow  # waits whether it is said twice
async def test_a_container_on_another_gpu_than_its_record_is_told_once(folder: Path) -> None:
    async with machine(folder) as node:
        one = pod("astray", {"main": [("GPU-1", 2)]})
        node.kubelet.pods["uid-astray"] = Admitted(one, {"main": {FRACTION_RESOURCE: {"GPU-0::00", "GPU-0::01"}}})
        node.show(with_phase(one, "Running"))
        await node.until(lambda: node.agent.mismatches)
        told = status_of(node.agent.facts("1"), None, "2026-11-21T12:00:00Z")["conditions"]
        assert {one["type"]: one["message"] for one in told}["RecordsAgree"] == (
            "pod default/astray, container main holds 2 of GPU-0; its record: 2 of GPU-1"
        )
        assert [found.text for found in node.notebook.mismatches] == [
            "pod default/astray, container main holds 2 of GPU-0; its record: 2 of GPU-1"
        ]
        node.end(one)
        await node.until(lambda: not node.agent.mismatches)
        assert node.agent.shared.counters.mismatches == 1


@pytest.mark.slow  # waits whether it is said
async def test_what_a_late_watch_makes_of_a_new_pod_is_no_mismatch(folder: Path) -> None:
    old, new = pod("twin", {"main": [("GPU-0", 1)]}, uid="old"), pod("twin", {"main": [("GPU-1", 1)]}, uid="new")
    async with machine(folder) as node:
        node.show(with_phase(old, "Running"))
        node.kubelet.pods["new"] = Admitted(new, {"main": {FRACTION_RESOURCE: {"GPU-1::00"}}})
        seen = node.kubelet.lists
        await node.until(lambda: node.kubelet.lists > seen)
        node.hide(old)
        node.show(with_phase(new, "Running"))
        seen = node.kubelet.lists
        await node.until(lambda: node.kubelet.lists > seen + 1)

    assert not node.notebook.mismatches


async def registered(node: Machine, times: int) -> None:
    await node.until(lambda: node.kubelet.registrations >= times)
    await node.kubelet.capacity(FRACTION_RESOURCE, 200)


async def test_a_restarted_kubelet_finds_the_same_devices(folder: Path) -> None:
    async with machine(folder) as node:
        await node.start(pod("before", {"main": [("GPU-0", 60)]}))
        before = node.kubelet.endpoints[FRACTION_RESOURCE].healthy
        for times in (2, 3):
            await node.kubelet.restart()
            await registered(node, times)
            assert node.kubelet.endpoints[FRACTION_RESOURCE].healthy == before
        with pytest.raises(Rejected, match="GPU-0 has 40 % free"):
            await node.start(pod("much", {"main": [("GPU-0", 50)]}))
        await node.start(pod("after", {"main": [("GPU-0", 40)]}))
        await node.until(lambda: not node.agent.problems())


async def test_fault_09_a_kubelet_that_starts_knows_the_devices_at_once(folder: Path) -> None:
    """Not at the next look at its folder, which is far away: it admits again the pods that run, waiting for nobody."""
    async with machine(folder, socket_interval=300.0) as node:
        for _ in range(3):
            await node.kubelet.restart()
            await node.kubelet.capacity(FRACTION_RESOURCE, 200)


async def test_a_kubelet_that_starts_is_found_without_inotify_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(folder: Path) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("tangram.node.inotify._watched", none_left)
    async with machine(folder) as node:
        await node.kubelet.restart()
        await node.kubelet.capacity(FRACTION_RESOURCE, 200)
    assert "cannot be watched: Too many open files" in caplog.text


async def test_a_folder_that_is_not_there_cannot_be_watched_and_that_is_said(folder: Path) -> None:
    with FolderWatch(folder / "missing", lambda: None) as watch:
        assert watch.problem.endswith("missing cannot be watched: No such file or directory")


async def test_a_socket_that_is_removed_is_made_again(folder: Path) -> None:
    async with machine(folder) as node:
        (node.kubelet.plugins / FRACTIONS.socket).unlink()
        await registered(node, 2)
        await node.start(pod("after", {"main": [("GPU-0", 40)]}))


async def test_a_kubelet_that_stops_listening_is_registered_with_again(folder: Path) -> None:
    async with machine(folder) as node:
        for task in node.kubelet._streams:
            task.cancel()
        await registered(node, 2)


async def test_no_kubelet_is_a_problem_until_it_is_there(folder: Path) -> None:
    """And no longer, however long it was away: pods that come before its devices do are refused."""
    async with machine(folder, pauses=lambda: Backoff(3600, 3600)) as node:
        await node.kubelet.stop()
        await node.until(lambda: "registration of scheduling.example.com/gpu" in node.agent.problems())
        await node.kubelet.start()
        await registered(node, 2)
        await node.until(lambda: not node.agent.problems())


async def test_a_new_agent_knows_what_the_old_one_gave(folder: Path) -> None:
    """Nothing is kept on disk: the pods and the kubelet's list say it all."""
    prepared = pod("prepared", {"init": [("GPU-1", 80)]}, containers=[container("main")], init=[container("init", 80)])
    held = pod("held", {"main": [("GPU-0", 60)]})
    async with machine(folder) as first:
        await first.start(held)
        await first.start(prepared)
        await first.stop()
        shown = [with_phase(one, "Running") for one in (held, prepared)]
        async with machine(folder, kubelet=first.kubelet, pods=shown) as second:
            with pytest.raises(Rejected, match="GPU-0 has 40 % free"):
                await second.start(pod("much", {"main": [("GPU-0", 50)]}))
            with pytest.raises(Rejected, match="GPU-1 has 20 % free"):
                await second.start(pod("more", {"main": [("GPU-1", 50)]}))
            await second.start(pod("fits", {"main": [("GPU-0", 40)]}))


async def test_the_kubelet_hears_of_devices_once_the_scheduler_can_know_them(folder: Path) -> None:
    """After a restart into another mode the GPUNode still names the old devices: pods placed on them are refused."""
    async with machine(folder) as first:
        before, reported = first.kubelet.registrations, asyncio.Event()
        await first.stop()
        second = asyncio.create_task(machine(folder, kubelet=first.kubelet, reported=reported).__aenter__())
        await asyncio.wait([second], timeout=0.3)
        assert first.kubelet.registrations == before
        reported.set()
        await (await second).stop()
    assert first.kubelet.registrations == before + 1


async def test_pods_start_also_where_nothing_can_be_reported(folder: Path) -> None:
    async with machine(folder, reported=asyncio.Event(), report_patience=0.1) as node:
        assert node.kubelet.registrations == 1


async def test_a_second_agent_waits_for_the_first_to_end(folder: Path) -> None:
    async with machine(folder) as first:
        serving = first.kubelet.registrations
        second = asyncio.create_task(machine(folder, kubelet=first.kubelet).__aenter__())
        await asyncio.wait([second], timeout=0.3)
        assert first.kubelet.registrations == serving
        await first.stop()
        await (await second).stop()
    assert first.kubelet.registrations == serving + 1


async def test_a_second_agent_leaves_daemons_and_the_gpu_node_to_the_first(folder: Path) -> None:
    """What it would do of its own accord undoes what the first one does."""
    began = asyncio.Event()

    async def part() -> None:
        began.set()
        await asyncio.Event().wait()

    async with machine(folder) as first:
        second = first.another_agent()
        running = asyncio.create_task(second.run({"report": part}))
        await first.until(lambda: second.problems().get("alone") == "another agent serves this node")
        assert not began.is_set()
        await first.stop()
        await asyncio.wait_for(began.wait(), 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_socket_is_gone_when_the_agent_has_ended(folder: Path) -> None:
    async with machine(folder) as node:
        assert (node.kubelet.plugins / FRACTIONS.socket).exists()
    assert not (node.kubelet.plugins / FRACTIONS.socket).exists()
