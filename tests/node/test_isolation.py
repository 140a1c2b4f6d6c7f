"""What a container finds in its environment, by mode; and what is refused."""

from dataclasses import replace

import pytest

from tangram.errors import InvalidInput
from tangram.node.gpus import Gpu, Isolation
from tangram.node.isolation import (
    CONTRACTS,
    VARIABLES,
    Mount,
    environment,
    environment_of_whole,
    mounts,
    pipe_directory,
    possible,
    remark,
)

A100 = Gpu(uuid="GPU-a", index=0, model="A100", memory_mib=40960, compute_capability=(8, 0))
P100 = Gpu(uuid="GPU-p", index=1, model="P100", memory_mib=16384, compute_capability=(6, 0))
SLICE = Gpu(uuid="MIG-1", index=0, model="A100-MIG-1g.5gb", memory_mib=4864, compute_capability=(8, 0), parent="GPU-a")


def test_mps_holds_a_share_and_memory_in_proportion() -> None:
    assert environment(Isolation.MPS, A100, 30) == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-a",
        "TANGRAM_GPU_ISOLATION": "mps",
        "CUDA_MPS_PIPE_DIRECTORY": "/run/tangram/mps",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=12288M",
    }


def test_a_memory_limit_that_was_asked_for_stands_before_proportion() -> None:
    assert environment(Isolation.MPS, A100, 30, 8192)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"


def test_proportion_rounds_down_so_that_limits_never_sum_past_the_card() -> None:
    odd = Gpu(uuid="GPU-o", index=0, model="T4", memory_mib=15109, compute_capability=(7, 5))
    limits = [environment(Isolation.MPS, odd, 33)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] for _ in range(3)]
    assert sum(int(limit.removeprefix("0=").removesuffix("M")) for limit in limits) <= odd.memory_mib


def test_time_slices_name_the_device_and_promise_nothing() -> None:
    told = {"NVIDIA_VISIBLE_DEVICES": "GPU-a", "TANGRAM_GPU_ISOLATION": "time-slice"}
    assert environment(Isolation.TIME_SLICE, A100, 30) == told
    assert mounts(Isolation.TIME_SLICE, A100, 30) == ()


def test_a_card_before_volta_falls_back_to_time_slices_and_says_why() -> None:
    held, reason = possible(Isolation.MPS, P100)
    assert held is Isolation.TIME_SLICE
    assert reason == "MPS limits its clients from compute capability 7.0 on, and this GPU has 6.0"
    assert environment(Isolation.MPS, P100, 30)["TANGRAM_GPU_ISOLATION"] == "time-slice"
    assert mounts(Isolation.MPS, P100, 30) == ()
    assert possible(Isolation.MPS, A100) == (Isolation.MPS, "")


def test_a_card_that_does_not_tell_its_memory_falls_back_too() -> None:
    """No part of it could be held, and a limit of 0 MiB would be none that anybody can run in."""
    untold = replace(A100, memory_mib=0)
    held, reason = possible(Isolation.MPS, untold)
    assert (held, reason) == (
        Isolation.TIME_SLICE,
        "the driver does not report its memory, of which MPS would hold parts",
    )
    assert environment(Isolation.MPS, untold, 30)["TANGRAM_GPU_ISOLATION"] == "time-slice"


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (replace(A100, cuda=(11, 4)), "from CUDA 11.5 on, and the driver has 11.4"),
        (replace(A100, cuda=(10, 2)), "from CUDA 11.5 on, and the driver has 10.2"),
        (replace(A100, cuda=(12, 4), virtual=True), "it is a virtual GPU (vGPU)"),
    ],
)
def test_drivers_that_hold_no_memory_fall_back_too(gpu: Gpu, words: str) -> None:
    held, reason = possible(Isolation.MPS, gpu)
    assert held is Isolation.TIME_SLICE
    assert words in reason
    assert environment(Isolation.MPS, gpu, 30)["TANGRAM_GPU_ISOLATION"] == "time-slice"
    assert remark(Isolation.MPS, gpu) == reason


@pytest.mark.parametrize("cuda", [(0, 0), (11, 5), (11, 8), (12, 0), (13, 4)])
def test_drivers_from_cuda_11_5_on_and_those_that_do_not_tell_hold_memory(cuda: tuple[int, int]) -> None:
    assert possible(Isolation.MPS, replace(A100, cuda=cuda)) == (Isolation.MPS, "")


def test_where_cpu_and_gpu_share_their_memory_it_is_said_what_is_not_held() -> None:
    grace = replace(A100, cuda=(13, 0), coherent=True)
    assert possible(Isolation.MPS, grace) == (Isolation.MPS, "")
    assert "what programs allocate for the CPU may lie in the GPU's" in remark(Isolation.MPS, grace)
    assert (remark(Isolation.EXCLUSIVE, grace), remark(Isolation.MPS, A100)) == ("", "")


@pytest.mark.parametrize("mode", [Isolation.MPS, Isolation.TIME_SLICE, Isolation.EXCLUSIVE])
def test_a_whole_gpu_has_no_other_tenant_and_no_daemon(mode: Isolation) -> None:
    told = {"NVIDIA_VISIBLE_DEVICES": "GPU-a", "TANGRAM_GPU_ISOLATION": "exclusive"}
    assert environment(mode, A100, 100) == told
    assert mounts(mode, A100, 100) == ()


def test_several_gpus_are_whole_ones_in_their_order() -> None:
    assert environment_of_whole((P100, A100)) == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-p,GPU-a",
        "TANGRAM_GPU_ISOLATION": "exclusive",
    }


def test_a_mig_slice_is_named_by_its_own_uuid() -> None:
    told = {"NVIDIA_VISIBLE_DEVICES": "MIG-1", "TANGRAM_GPU_ISOLATION": "mig"}
    assert environment(Isolation.MIG, SLICE, 100) == told
    assert mounts(Isolation.MIG, SLICE, 100) == ()
    assert environment_of_whole((SLICE, replace(SLICE, uuid="MIG-2")))["NVIDIA_VISIBLE_DEVICES"] == "MIG-1,MIG-2"


def test_the_mode_that_holds_follows_what_the_gpu_is() -> None:
    assert possible(Isolation.MIG, SLICE) == (Isolation.MIG, "")
    assert possible(Isolation.MIG, A100) == (Isolation.EXCLUSIVE, "MIG is not enabled on it")
    assert possible(Isolation.MPS, replace(A100, mig=True)) == (Isolation.MIG, "MIG is enabled on it")
    assert environment(Isolation.MIG, A100, 100)["TANGRAM_GPU_ISOLATION"] == "exclusive"


def test_the_daemon_s_pipe_and_its_shared_memory_are_mounted() -> None:
    assert mounts(Isolation.MPS, A100, 30) == (
        Mount("/run/tangram/mps/GPU-a/pipe", "/run/tangram/mps", read_only=True),
        Mount("/run/tangram/mps/GPU-a/shm", "/dev/shm"),
    )


@pytest.mark.parametrize(
    ("mode", "device", "share", "memory", "told"),
    [
        (
            Isolation.EXCLUSIVE,
            A100,
            30,
            0,
            "GPU GPU-a: share: 30 is not allowed; allowed: 100: it is given out as a whole (isolation exclusive)",
        ),
        (Isolation.MIG, SLICE, 50, 0, "GPU MIG-1: share: 50"),
        (
            Isolation.MPS,
            SLICE,
            50,
            0,
            "GPU MIG-1: share: 50 is not allowed; allowed: 100: it is given out as a whole (isolation mig)",
        ),
        (Isolation.MPS, A100, 0, 0, "share: 0 is not allowed; allowed: 1 to 100 percent"),
        (Isolation.MPS, A100, 101, 0, "share: 101"),
        (Isolation.MPS, A100, -1, 0, "share: -1"),
        (Isolation.MPS, A100, 30, 40961, "memory limit: 40961 is not allowed; allowed: 0 to the 40960 MiB"),
        (Isolation.MPS, A100, 30, -1, "memory limit: -1"),
        (Isolation.MIG, A100, 50, 0, "GPU GPU-a: share: 50"),
        (Isolation.MIG, replace(A100, mig=True), 100, 0, "one of its slices"),
        (Isolation.MPS, replace(A100, mig=True), 100, 0, "one of its slices"),
        (Isolation.MPS, Gpu(uuid="../etc", index=0, model="A100", memory_mib=1), 100, 0, "uuid: '../etc'"),
        (Isolation.MPS, Gpu(uuid="a,all", index=0, model="A100", memory_mib=1), 100, 0, "uuid: 'a,all'"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused_by_name(
    mode: Isolation, device: Gpu, share: int, memory: int, told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        environment(mode, device, share, memory)
    assert told in str(refused.value)


def test_a_uuid_cannot_lead_out_of_the_daemons_folder() -> None:
    with pytest.raises(InvalidInput, match="uuid"):
        pipe_directory("../../etc")


def test_the_tables_cover_every_mode_and_every_variable() -> None:
    assert set(CONTRACTS) == set(Isolation)
    for mode, device, share in (
        (Isolation.MPS, A100, 30),
        (Isolation.TIME_SLICE, A100, 30),
        (Isolation.EXCLUSIVE, A100, 100),
        (Isolation.MIG, SLICE, 100),
    ):
        assert set(environment(mode, device, share)) == {one.name for one in VARIABLES if mode in one.modes}
