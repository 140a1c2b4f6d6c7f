"""Processes of pods that are gone: the GPU is given out when they have left it, or have stayed too long to wait for."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.node.calls import Clock
from tests.node.kubelet import Rejected
from tests.node.machine import Machine, container, gpus, machine, pod
from tests.node.test_plugin import shares

from tangram.api.objects import DeviceShare
from tangram.node.gpus import Condition, Gpu, Health, Holding, Process, Reading
from tangram.node.leftovers import HOLD_SECONDS, Leftover, Leftovers, in_the_way
from tangram.node.processes import Processes

CONTAINER = "3f" * 32
GONE, HERE = "b41f2f7e-3a6e-4d8e-9a57-0c2f5b0d7c11", "00000000-3a6e-4d8e-9a57-0c2f5b0d7c11"
READING = Reading("GPU-0", memory_used_mib=30000, memory_free_mib=10960, processes=(Process(7, 30000),))


class Made(Processes):
    """Processes of our making, in a folder that looks like /proc."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.blind = ""

    def blindness(self) -> str:
        return self.blind

    def start(self, pid: int, pod_uid: str = "", *, name: str = "python", state: str = "S", threads: int = 1) -> None:
        folder = self.root / str(pid)
        for number in range(threads):
            (folder / "task" / str(pid + number)).mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_text(f"{pid} (a) name) {state} 1 2 3")
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cgroup").write_text(f"0::/kubepods/pod{pod_uid}/{CONTAINER}" if pod_uid else "0::/user.slice")

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "stat").unlink()


@pytest.fixture
def processes(tmp_path: Path) -> Made:
    return Made(tmp_path)


def holds(pod_uid: str, share: int = 100) -> Holding:
    return Holding(pod_uid, "default", "p", "main", "GPU-0", share)


def pids(found: dict[str, tuple[Leftover, ...]]) -> dict[str, list[int]]:
    return {uuid: [one.pid for one in them] for uuid, them in found.items()}


def test_a_process_of_a_pod_that_is_gone_is_one_until_it_ends(processes: Made) -> None:
    processes.start(7, GONE)
    leftovers = Leftovers(processes, Clock())
    assert pids(leftovers.find([READING], [holds(GONE)])) == {}
    assert pids(leftovers.find([READING], [holds(HERE)])) == {"GPU-0": [7]}
    processes.end(7)
    assert pids(leftovers.find([READING], [])) == {}


@pytest.mark.parametrize(("state", "threads", "there"), [("D", 1, True), ("Z", 1, False), ("Z", 3, True)])
def test_one_that_hangs_in_the_driver_is_there_and_one_that_waits_to_be_reaped_is_not(
    processes: Made, state: str, threads: int, there: bool
) -> None:
    processes.start(7, GONE, state=state, threads=threads)
    assert bool(Leftovers(processes, Clock()).find([READING], [])) == there


def test_one_that_stays_is_waited_for_two_minutes_and_no_longer(processes: Made) -> None:
    processes.start(7, GONE)
    clock = Clock()
    leftovers = Leftovers(processes, clock)
    leftovers.find([READING], [])
    clock.now += HOLD_SECONDS - 1
    assert leftovers.find([READING, replace(READING, uuid="GPU-1", processes=())], [])
    assert not leftovers.find([replace(READING, uuid="GPU-1", processes=())], [])  # a look at others changes nothing
    clock.now += 2
    assert not leftovers.find([READING], [])
    clock.now += 10 * HOLD_SECONDS
    assert not leftovers.find([READING], [])


def test_what_the_host_ran_before_the_agent_is_not_waited_for(processes: Made) -> None:
    processes.start(7)
    leftovers = Leftovers(processes, Clock())
    assert not leftovers.find([READING], [])
    processes.start(8)
    new = replace(READING, processes=(Process(7, 30000), Process(8, 1)))
    assert pids(leftovers.find([new], [])) == {"GPU-0": [8]}


def test_servers_of_mps_are_nobodys_leftovers(processes: Made) -> None:
    processes.start(7, HERE, name="nvidia-cuda-mps")
    assert not Leftovers(processes, Clock()).find([READING], [])


def test_nothing_is_said_where_it_cannot_be_known(processes: Made) -> None:
    """Without the host's process numbers, and while the watch does not show a pod that the kubelet lists."""
    processes.start(7, GONE)
    leftovers = Leftovers(processes, Clock())
    assert not leftovers.find([READING], [holds("")])
    processes.blind = "it does not share the host's PID namespace"
    assert not leftovers.find([READING], [])


GPU = gpus(1)[0]
THEM = (Leftover(7, 30000, GONE, 0.0),)


@pytest.mark.parametrize(
    ("gpu", "share", "reading", "held"),
    [
        (GPU, DeviceShare("GPU-0", 100), READING, True),
        (GPU, DeviceShare("GPU-0", 100), None, True),
        (GPU, DeviceShare("GPU-0", 20), READING, False),  # 8192 MiB of 10960 that are free
        (GPU, DeviceShare("GPU-0", 30), READING, True),
        (GPU, DeviceShare("GPU-0", 5, 12000), READING, True),
        (GPU, DeviceShare("GPU-0", 30), Reading("GPU-0"), False),  # nobody says what is free
        (replace(GPU, uuid="MIG-1", parent="GPU-0"), DeviceShare("MIG-1", 100), READING, False),
    ],
)
def test_a_whole_gpu_and_memory_that_is_not_free_have_to_wait(
    gpu: Gpu, share: DeviceShare, reading: Reading | None, held: bool
) -> None:
    assert bool(in_the_way(gpu, share, reading, THEM)) == held
    assert in_the_way(gpu, share, reading, ()) == ""


def test_placement_sees_a_gpu_that_takes_nothing_new(processes: Made) -> None:
    clock, sick = Clock(), Condition(Health.UNHEALTHY, "XID 79")
    leftovers = Leftovers(processes, clock)
    found = {"GPU-0": (Leftover(7, 30000, GONE, clock.now),), "GPU-1": (Leftover(8, 1, "", clock.now),)}
    conditions = {"GPU-0": Condition(Health.HEALTHY), "GPU-1": sick}
    assert leftovers.shown(conditions, gpus(2), found) == conditions  # an allocation may only just be known
    clock.now += 1
    shown = leftovers.shown(conditions, gpus(2), found)
    sentence = f"processes 7 of pod {GONE} have 30000 MiB of it, and nobody holds it for them"
    assert shown == {"GPU-0": Condition(Health.DEGRADED, f"StillInUse: {sentence}"), "GPU-1": sick}


async def read(node: Machine) -> None:
    """Wait for a reading that was begun after now."""
    measurements = node.probe.measurements
    await node.until(lambda: node.probe.measurements > measurements + 1 and node.agent.shared.readings)


async def test_fault_12_a_gpu_is_not_given_out_while_processes_of_a_deleted_pod_are_on_it(
    folder: Path, processes: Made
) -> None:
    """Deleted by force: the kubelet and the API server know it no more, and it hangs in the driver after an XID."""
    deleted = pod("deleted", {"main": [("GPU-0", 100)]}, uid=GONE)
    async with machine(folder, processes=processes, leftover_patience=0.3) as node:
        await node.start(deleted)
        processes.start(7, GONE, state="D")
        node.probe.read = (READING,)
        await read(node)
        node.kubelet.remove(deleted)
        node.hide(deleted)
        with pytest.raises(Rejected, match=rf"GPU-0 is still in use: processes 7 of pod {GONE} have 30000 MiB"):
            await node.start(pod("whole", {"main": [("GPU-0", 100)]}, uid=HERE))
        await node.until(lambda: node.agent.facts("1").conditions["GPU-0"].health is Health.DEGRADED)
        assert node.agent.facts("1").conditions["GPU-0"].reason.startswith("StillInUse")
        assert node.agent.facts("1").conditions["GPU-1"].health is Health.HEALTHY
        small = await node.start(pod("small", {"main": [("GPU-0", 20)]}))
        processes.end(7)
        await node.until(lambda: node.agent.facts("1").conditions["GPU-0"].health is Health.HEALTHY)

    assert shares(small) == {"GPU-0": 20}
    assert node.agent.shared.counters.refusals["scheduling.example.com/gpu", "StillInUse"] == 1


async def test_processes_that_end_within_moments_are_waited_for(folder: Path, processes: Made) -> None:
    """A pod that was preempted makes room for one that is placed at once: to refuse it would cost it its life."""
    victim = pod("victim", {"main": [("GPU-0", 100)]}, uid=GONE)
    async with machine(folder, processes=processes, leftover_patience=30.0) as node:
        await node.start(victim)
        processes.start(7, GONE)
        node.probe.read = (READING,)
        await read(node)
        node.end(victim)
        waiting = asyncio.create_task(node.start(pod("next", {"main": [("GPU-0", 100)]}, uid=HERE)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        processes.end(7)
        assert shares(await waiting) == {"GPU-0": 100}


async def test_a_pod_s_own_init_container_is_not_in_its_way(folder: Path, processes: Made) -> None:
    record = {"init": [("GPU-0", 100)], "main": [("GPU-0", 100)]}
    chain = pod("chain", record, containers=[container("main", 100)], init=[container("init", 100)], uid=GONE)
    async with machine(folder, processes=processes, leftover_patience=0.3) as node:
        processes.start(7, GONE)
        node.probe.read = (READING,)
        await read(node)
        assert shares(await node.start(chain)) == {"GPU-0": 100}
