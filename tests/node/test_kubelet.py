"""The agent on a real kubelet with real containers, placed by the real scheduler, on GPUs of the mock.

``TANGRAM_KUBELET_ROUNDS`` is the number of rounds with something broken in the middle.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.node.listing import list_held
from tests.node.rig import MEMORY_MIB, Rig, container, pod

from tangram.api import names
from tangram.node.slots import FRACTIONS
from tangram.sandbox.nvml import state

ROUNDS = int(os.environ.get("TANGRAM_KUBELET_ROUNDS", "3"))


@pytest.fixture
def there(real_rig: Rig) -> Iterator[Rig]:
    """The node, empty, whatever the test before did; and empty again."""
    yield real_rig
    for name, start in (("node", real_rig.start_agent), ("scheduler", real_rig.start_scheduler)):
        if name not in real_rig.processes or real_rig.processes[name].poll() is not None:
            start()
    real_rig.delete_all()
    real_rig.wait(lambda: real_rig.allocatable() == 200 and real_rig.all_healthy(), "all devices are healthy again")


def settled(there: Rig) -> bool:
    """Every pod that was placed runs, or has failed."""
    return all(
        one["status"]["phase"] in ("Running", "Failed") or "nodeName" not in one["spec"]
        for one in there.pods().values()
    )


def phases(there: Rig, phase: str) -> set[str]:
    return {name for name, one in there.pods().items() if one["status"]["phase"] == phase}


def listed(there: Rig, pods: set[str]) -> bool:
    """The kubelet says what these pods hold; of one that it has just rejected the API server does not know it yet."""
    return pods <= {name for name, _ in list_held(there.node.pod_resources)}


def why(there: Rig, name: str) -> str:
    return str(there.pods()[name]["status"].get("message", ""))


def test_fractions_start_with_their_gpu_their_percentage_and_their_memory(there: Rig) -> None:
    there.create(*(pod(f"p{n}", container("main", share)) for n, share in enumerate((30, 70, 50, 20))))
    there.wait(lambda: len(phases(there, "Running")) == 4, "four pods run")

    assert there.check_agreement() == 4
    environment = there.environments()["p0", "main"]
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert environment["TANGRAM_GPU_ISOLATION"] == "mps"
    assert environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={MEMORY_MIB * 30 // 100}M"


def test_memory_that_is_asked_for_is_the_limit(there: Rig) -> None:
    there.create(pod("p", container("main", 20), annotations={names.GPU_MEMORY: "12Gi"}))
    there.wait(lambda: phases(there, "Running") == {"p"}, "it runs")
    assert there.environments()["p", "main"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=12288M"


def test_thirty_at_once_fill_the_gpus_and_no_more(there: Rig) -> None:
    chance = random.Random(7)
    sizes = {f"p{n}": chance.choice((5, 10, 15, 20, 30, 40)) for n in range(30)}
    there.create(*(pod(name, container("main", size)) for name, size in sizes.items()))
    there.wait(lambda: len(phases(there, "Running")) >= 5 and settled(there), "what fits runs")

    def full() -> bool:
        free = [100 - sum(r["main"].get(there.uuid(gpu), 0) for r in records()) for gpu in range(2)]
        return all(sizes[name] > max(free) for name in phases(there, "Pending"))

    def records() -> list[dict[str, dict[str, int]]]:
        return [there.recorded(one) for one in there.pods().values() if one["status"]["phase"] == "Running"]

    there.wait(lambda: settled(there) and full(), "nothing that waits would fit")
    assert not phases(there, "Failed")
    assert there.check_agreement() == len(phases(there, "Running"))


def test_whole_gpus_several_containers_init_containers_and_sidecars(there: Rig) -> None:
    several = pod(
        "several",
        container("one", 20),
        container("two", 30),
        init=[container("side", 10, restartPolicy="Always"), container("init", 20, script="env")],
    )
    there.create(several)
    there.wait(lambda: phases(there, "Running") == {"several"}, "it runs")
    record = there.recorded(there.pods()["several"])
    held = list_held(there.node.pod_resources)
    environments = there.environments()

    assert there.check_agreement() == 2
    assert {inner: len(ids) for (_, inner), ids in held.items()} == {"side": 10, "one": 20, "two": 30}
    for inner in ("side", "init", "one", "two"):
        assert environments["several", inner]["NVIDIA_VISIBLE_DEVICES"] == next(iter(record[inner]))

    there.delete_all()
    there.create(pod("chain", container("one", 30), container("two", 20), init=[container("init", 45, script="env")]))
    there.wait(lambda: phases(there, "Running") == {"chain"}, "what the init container had is handed on")
    assert there.check_agreement() == 2

    there.delete_all()
    there.create(pod("both", container("main", 200)))
    there.wait(lambda: phases(there, "Running") == {"both"}, "it runs")
    assert there.check_agreement() == 1


def test_fault_23_a_pod_that_the_scheduler_did_not_place_is_told_so(there: Rig) -> None:
    there.create(pod("forced", container("main", 30), nodeName=there.node.name))
    there.wait(lambda: phases(there, "Failed") == {"forced"}, "it is refused")

    assert "pod default/forced, container main: it has no record of GPUs" in why(there, "forced")
    events = there.cluster.kubectl("get", "events", "--field-selector", "involvedObject.name=forced").stdout
    assert "it has no record of GPUs" in events


def test_a_static_pod_gets_no_gpu(there: Rig) -> None:
    """The kubelet makes no mirror of a static pod that it has not admitted: only the agent tells."""
    manifest = pod("static", container("main", 30))
    del manifest["spec"]["schedulerName"]
    file = there.node.manifests / "static.json"
    file.write_text(json.dumps(manifest))
    sentence = "no pod that was placed on this node waits for 30 of scheduling.example.com/gpu"
    try:
        there.wait(lambda: sentence in there.log("node"), "it is refused")
        assert not list_held(there.node.pod_resources)
    finally:
        file.unlink()


def test_fault_17_a_name_that_comes_back_gets_what_its_new_record_says(there: Rig) -> None:
    there.create(pod("filler", container("main", 60)))
    for size in (50, 40, 30, 70, 20, 60):
        there.create(pod("twin", container("main", size)))
        there.wait(lambda: "twin" in phases(there, "Running"), f"it runs with {size}")
        assert there.check_agreement() == 2
        assert there.environments()["twin", "main"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == str(size)
        there.cluster.kubectl("delete", "pod", "twin", "--force", "--grace-period=0")


def test_fault_11_a_lost_gpu_takes_nothing_and_comes_back(there: Rig) -> None:
    there.create(pod("stays", container("main", 100)), pod("other", container("main", 100)))
    there.wait(lambda: len(phases(there, "Running")) == 2, "both run")
    there.machine.gpus[1].error = "GPU_IS_LOST"
    there.tell()
    try:
        there.wait(lambda: there.allocatable() == 100, "its devices are unhealthy")
        assert len(phases(there, "Running")) == 2
    finally:
        there.machine.gpus[1].error = None
        there.tell()
    there.wait(lambda: there.allocatable() == 200, "its devices are back")
    assert there.check_agreement() == 2
    there.kill("node")  # a new agent does not know that the GPU was away, and gives it work at once
    there.start_agent()


def test_the_agent_ends_when_asked_and_knows_everything_when_it_is_back(there: Rig) -> None:
    there.create(pod("before", container("main", 60)), pod("before-too", container("main", 60)))
    there.wait(lambda: len(phases(there, "Running")) == 2, "both run")
    agent = there.processes.pop("node")
    agent.terminate()
    assert agent.wait(20) == 0
    assert not (there.node.device_plugins / FRACTIONS.socket).exists()
    there.start_agent()
    there.wait(lambda: there.allocatable() == 200, "it is registered again")
    there.create(*(pod(f"after{n}", container("main", 40)) for n in range(2)))
    there.wait(lambda: len(phases(there, "Running")) == 4, "all run")
    assert there.check_agreement() == 4


@contextmanager
def cut(there: Rig, slices: int) -> Iterator[None]:
    """The first GPU cut into MIG slices that the agent gives out."""
    before = there.machine.gpus[0]

    def become(gpu: state.MockGpu, *options: str) -> None:
        there.kill("node")
        there.machine.gpus[0] = gpu
        there.tell()
        there.start_agent(*options)

    become(state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb")] * slices), "--mode=mig")
    try:
        there.wait(lambda: there.allocatable() == 100 * (slices + 1) and there.all_healthy(), "the slices are known")
        yield
    finally:
        become(before)


def test_slices_are_given_out_whole_and_by_their_uuid(there: Rig) -> None:
    with cut(there, slices=4):
        there.create(pod("part", container("main", 50)))
        there.wait(lambda: there.waits_for("part") == "SharingNotAllowed", "a part of a slice is not placed")
        there.delete_all()
        there.create(*(pod(f"p{n}", container("main", 100)) for n in range(6)))
        there.wait(lambda: len(phases(there, "Running")) == 5, "five pods run")

        assert there.check_agreement() == 5
        found = [there.environments()[name, "main"] for name in phases(there, "Running")]
        visible = {one["NVIDIA_VISIBLE_DEVICES"]: one["TANGRAM_GPU_ISOLATION"] for one in found}
        assert visible.pop(there.uuid(1)) == "exclusive"
        assert len(visible) == 4
        assert all(uuid.startswith("MIG-") and mode == "mig" for uuid, mode in visible.items())
        assert len(phases(there, "Pending")) == 1
        there.delete_all()


def kill_kubelet(there: Rig) -> None:
    there.node.kill("kubelet")
    there.node.start("kubelet")


def kill_agent(there: Rig) -> None:
    there.kill("node")
    there.start_agent()


BREAKAGES: dict[str, Callable[[Rig], None]] = {
    "kubelet restarted": lambda there: there.node.restart("kubelet"),
    "agent killed": kill_agent,
    "kubelet killed": kill_kubelet,
    "socket removed": lambda there: (there.node.device_plugins / FRACTIONS.socket).unlink(missing_ok=True),
    "containerd restarted": lambda there: there.node.restart("containerd"),
}
"""What may break in the middle; "kubelet restarted" beside pods whose init containers held a GPU as well."""


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.timeout(300)
def test_whatever_breaks_in_the_middle_nothing_is_given_twice(there: Rig, seed: int) -> None:
    """Pods that the kubelet rejects while its plugin is away are made again, as their owners would do."""
    chance = random.Random(seed)
    name = list(BREAKAGES)[seed % len(BREAKAGES)]
    sizes = {f"p{n}": chance.choice((5, 10, 15, 20, 30, 40)) for n in range(20)}
    early, late = list(sizes)[:10], list(sizes)[10:]
    init = [container("init", 5, script="true")]
    there.create(*(pod(one, container("main", sizes[one]), init=init if n % 2 else []) for n, one in enumerate(early)))
    if chance.random() < 0.5:
        there.wait(lambda: bool(phases(there, "Running")), "the first runs")
    BREAKAGES[name](there)
    there.create(*(pod(one, container("main", sizes[one])) for one in late))
    there.wait(lambda: there.allocatable() == 200, "the kubelet knows the GPUs again")

    again = 0

    def all_that_fit_run() -> bool:
        nonlocal again
        for failed in phases(there, "Failed"):
            print(f"{name}: {failed} is made again: {why(there, failed)}")
            there.cluster.kubectl("delete", "pod", failed, "--force", "--grace-period=0")
            there.create(pod(failed, container("main", sizes[failed])))
            again += 1
        running = [there.recorded(one) for one in there.pods().values() if one["status"]["phase"] == "Running"]
        free = [100 - sum(record["main"].get(there.uuid(gpu), 0) for record in running) for gpu in range(2)]
        return settled(there) and all(sizes[one] > max(free) for one in phases(there, "Pending"))

    there.wait(all_that_fit_run, "what fits runs")
    compared = there.check_agreement()
    print(f"seed {seed}, {name}: {compared} containers agree, {again} pods made again")


@pytest.mark.parametrize("how", ["kubelet restarted", "kubelet killed"])
@pytest.mark.timeout(300)
def test_fault_09_a_kubelet_restart_and_running_pods_whose_init_containers_held_a_gpu(there: Rig, how: str) -> None:
    """To the kubelet that starts, an init container that has ended is one that asks anew: the pod is rejected unless
    the plugin's devices are there first (``devicesToAllocate`` in pkg/kubelet/cm/devicemanager/manager.go).

    The kubelet waits for nobody, so a machine that is full of other work may lose some. Nothing else may come of it."""
    sizes = {f"p{n}": 10 + n for n in range(6)}
    init = [container("init", 10, script="true")]
    lost = list[str]()
    for _ in range(ROUNDS):
        missing = sizes.keys() - there.pods().keys()
        if missing:
            there.create(*(pod(name, container("main", sizes[name]), init=init) for name in missing))
        there.wait(lambda: phases(there, "Running") == set(sizes), "all run")
        BREAKAGES[how](there)
        there.wait(lambda: there.allocatable() == 200 and there.node_ready(), "the kubelet knows the GPUs again")
        there.wait(lambda: listed(there, phases(there, "Running")), "the kubelet has gone through its pods")
        there.check_agreement()
        for name in phases(there, "Failed"):
            lost.append(why(there, name))
            there.cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0")
    print(f"{how}: {len(lost)} of {ROUNDS * len(sizes)} running pods were rejected")
    assert all("no healthy devices present" in reason for reason in lost), lost
