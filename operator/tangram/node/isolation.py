"""The isolation contract: what each mode promises, and the variables and mounts that make a container keep to it.

Modes are NVIDIA's own; tangram puts no library of its own between a program and the driver. What a mode does not hold
is said in ``CONTRACTS`` and in docs/gpu-sharing.md, and each container reads its mode in ``TANGRAM_GPU_ISOLATION``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from tangram.errors import InvalidInput
from tangram.node.gpus import Gpu, Isolation
from tangram.units import HUNDREDTHS_PER_GPU

MPS_ROOT: Final = PurePosixPath("/run/tangram/mps")
"""Where the daemons of a node keep their pipes and logs, one folder for each GPU."""
CONTAINER_PIPES: Final = "/run/tangram/mps"
"""Where a container finds the pipe of its GPU's daemon."""
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_VOLTA = (7, 0)
_MEMORY_LIMITS = (11, 5)
"""Version of CUDA from which on MPS holds clients to a part of the memory (NVIDIA's MPS documentation,
"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a mode promises to the tenants of one GPU."""

    fractions: bool
    """Whether one GPU may have several tenants."""
    compute: bool
    """Whether a tenant is held to its part of the compute."""
    memory: bool
    """Whether a tenant is held to its part of the memory."""
    faults: bool
    """Whether a tenant's fatal fault leaves the others running."""
    meaning: str


CONTRACTS: Final[Mapping[Isolation, Contract]] = {
    Isolation.MPS: Contract(
        fractions=True, compute=True, memory=True, faults=False,
        meaning="The MPS server of the GPU holds each client to its part of compute and memory, by cooperation: a "
        "container that is root can ask it for more.",
    ),
    Isolation.TIME_SLICE: Contract(
        fractions=True, compute=False, memory=False, faults=True,
        meaning="The driver lets tenants take turns. Shares are counted when pods are placed, and not held.",
    ),
    Isolation.EXCLUSIVE: Contract(
        fractions=False, compute=True, memory=True, faults=True,
        meaning="A GPU has one tenant. Fractions are refused.",
    ),
    Isolation.MIG: Contract(
        fractions=False, compute=True, memory=True, faults=True,
        meaning="A slice that the hardware keeps apart has one tenant. Fractions of slices are refused.",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a container's environment."""

    name: str
    modes: tuple[Isolation, ...]
    meaning: str


VARIABLES: Final[tuple[Variable, ...]] = (
    Variable("NVIDIA_VISIBLE_DEVICES", tuple(Isolation), "UUIDs of the GPUs or slices; NVIDIA's runtime opens these."),
    Variable("TANGRAM_GPU_ISOLATION", tuple(Isolation), "The mode that holds for this container."),
    Variable("CUDA_MPS_PIPE_DIRECTORY", (Isolation.MPS,), "Where the MPS daemon of the GPU listens."),
    Variable("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", (Isolation.MPS,), "The share: percent of the multiprocessors."),
    Variable(
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", (Isolation.MPS,),
        "The memory limit, for device 0: a daemon of one GPU knows no other.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the node inside a container."""

    host_path: str
    container_path: str
    read_only: bool = False


def possible(mode: Isolation, gpu: Gpu) -> tuple[Isolation, str]:
    """The mode that this GPU can be given out in, and the reason where it is not the one asked for.

    Limits on clients came to MPS with Volta (NVIDIA's MPS documentation, "Volta MPS Execution Resource Provisioning").
    """
    if gpu.mig or gpu.parent:
        return Isolation.MIG, "" if mode is Isolation.MIG else "MIG is enabled on it"
    if mode is Isolation.MIG:
        return Isolation.EXCLUSIVE, "MIG is not enabled on it"
    if mode is Isolation.MPS and (problem := _not_by_mps(gpu)):
        return Isolation.TIME_SLICE, problem
    return mode, ""


def _not_by_mps(gpu: Gpu) -> str:
    """Why MPS would not hold tenants of a GPU to their parts; empty: it does."""
    if gpu.compute_capability < _VOLTA:
        found = ".".join(map(str, gpu.compute_capability))
        return f"MPS limits its clients from compute capability 7.0 on, and this GPU has {found}"
    if (0, 0) < gpu.cuda < _MEMORY_LIMITS:
        return f"MPS limits the memory of its clients from CUDA 11.5 on, and the driver has {gpu.cuda[0]}.{gpu.cuda[1]}"
    if gpu.virtual:
        return "it is a virtual GPU (vGPU), and MPS is for GPUs that a machine has to itself"
    if not gpu.memory_mib:
        return "the driver does not report its memory, of which MPS would hold parts"
    return ""


def remark(mode: Isolation, gpu: Gpu) -> str:
    """What a user has to know of how tenants of a GPU are kept apart: why not as asked for, or what is not held."""
    held, reason = possible(mode, gpu)
    if held is Isolation.MPS and gpu.coherent:
        return (
            "CPU and GPU share their memory: what programs allocate for the CPU may lie in the GPU's, uncounted by MPS"
        )
    return reason


def memory_limit(gpu: Gpu, share: int, memory_mib: int = 0) -> int:
    """MiB that a tenant may take: what it asked for, else in proportion to its share, rounded down."""
    return memory_mib or gpu.memory_mib * share // HUNDREDTHS_PER_GPU


def environment(mode: Isolation, device: Gpu, share: int, memory_mib: int = 0) -> dict[str, str]:
    """What a container with a part of one GPU, all of it, or a MIG slice finds in its environment.

    ``share`` is in hundredths, ``memory_mib`` 0 means in proportion to it. A whole GPU has no other tenant, so it needs
    no daemon: its container reads ``exclusive`` in every mode, and that of a slice ``mig``. Raises InvalidInput when
    the contract of the mode does not allow this.
    """
    _check(mode, device, share, memory_mib)
    if share == HUNDREDTHS_PER_GPU:
        return environment_of_whole((device,))
    held, _ = possible(mode, device)
    variables = _visible((device.uuid,), held)
    if held is Isolation.MPS:
        variables["CUDA_MPS_PIPE_DIRECTORY"] = CONTAINER_PIPES
        variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(share)
        variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={memory_limit(device, share, memory_mib)}M"
    return variables


def environment_of_whole(gpus: Sequence[Gpu]) -> dict[str, str]:
    """What a container with whole GPUs or slices finds in its environment; no container has parts of several."""
    for gpu in gpus:
        _check(Isolation.EXCLUSIVE, gpu, HUNDREDTHS_PER_GPU, 0)
    held = Isolation.MIG if any(gpu.parent for gpu in gpus) else Isolation.EXCLUSIVE
    return _visible(tuple(gpu.uuid for gpu in gpus), held)


def mounts(mode: Isolation, device: Gpu, share: int, root: PurePosixPath = MPS_ROOT) -> tuple[Mount, ...]:
    """What of the node a container needs: the pipe of its GPU's daemon, and the shared memory that goes with it.

    Client and server of MPS meet in /dev/shm, and each GPU has one of its own. The pipe cannot be written: its sockets
    can be connected to all the same, and nobody can put another in their place (NVIDIA's toolkit mounts its default
    folder of MPS so: ``internal/discover/mounts.go`` and ``ipc.go`` of nvidia-container-toolkit).
    """
    if share == HUNDREDTHS_PER_GPU or possible(mode, device)[0] is not Isolation.MPS:
        return ()
    return (
        Mount(str(pipe_directory(device.uuid, root)), CONTAINER_PIPES, read_only=True),
        Mount(str(pipe_directory(device.uuid, root).parent / "shm"), "/dev/shm"),  # noqa: S108 - where CUDA looks
    )


def pipe_directory(uuid: str, root: PurePosixPath = MPS_ROOT) -> PurePosixPath:
    """Where the daemon of a GPU listens on the node; raises InvalidInput for a uuid that is no file name."""
    if not _UUID.fullmatch(uuid):
        raise InvalidInput("GPU", "uuid", uuid, "letters, digits and dashes")
    return root / uuid / "pipe"


def _visible(uuids: tuple[str, ...], held: Isolation) -> dict[str, str]:
    return {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids), "TANGRAM_GPU_ISOLATION": held.value}


def _check(mode: Isolation, device: Gpu, share: int, memory_mib: int) -> None:
    where = f"GPU {device.uuid}"
    if not _UUID.fullmatch(device.uuid):
        raise InvalidInput("GPU", "uuid", device.uuid, "letters, digits and dashes")
    if not 1 <= share <= HUNDREDTHS_PER_GPU:
        raise InvalidInput(where, "share", share, "1 to 100 percent")
    if device.mig:
        raise InvalidInput(where, "device", device.uuid, "one of its slices: MIG is enabled on the GPU")
    held, _ = possible(mode, device)
    if share < HUNDREDTHS_PER_GPU and not CONTRACTS[held].fractions:
        raise InvalidInput(where, "share", share, f"100: it is given out as a whole (isolation {held.value})")
    if not 0 <= memory_mib <= device.memory_mib:
        raise InvalidInput(where, "memory limit", memory_mib, f"0 to the {device.memory_mib} MiB that it has")
