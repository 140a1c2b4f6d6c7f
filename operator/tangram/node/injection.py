"""How GPUs get into a container: the answer to the kubelet's Allocate.

Three ways, because clusters differ: the variable that NVIDIA's container runtime reads, plain device files for runtimes
that know nothing of GPUs, and names of CDI, the Container Device Interface (github.com/cncf-tags).
"""

from enum import StrEnum
from pathlib import Path, PurePosixPath

from tangram.errors import NotReachable
from tangram.node.allocation import Grant
from tangram.node.gpus import Gpu, Isolation
from tangram.node.isolation import environment, environment_of_whole, mounts
from tangram.node.wire import deviceplugin_pb2 as wire

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
_NOTHING = "void"
"""For NVIDIA's runtime: add nothing, whatever the image asks for (``all`` is what most CUDA images say)."""
_CDI_KIND = "nvidia.com/gpu"
_SHARED_FILES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class Injection(StrEnum):
    """How a container's GPUs are named to its runtime."""

    ENV = "env"
    """``NVIDIA_VISIBLE_DEVICES`` with uuids: NVIDIA's container runtime does the rest."""
    DEVICE_NODES = "device-nodes"
    """The device files themselves: the driver's libraries must be in the image or mounted."""
    CDI = "cdi"
    """Names ``nvidia.com/gpu=<uuid>``: a CDI specification on the node does the rest."""


def answer(
    granted: Grant, isolation: Isolation, injection: Injection, mps_root: PurePosixPath, dev: Path
) -> wire.ContainerAllocateResponse:
    """Variables, mounts, device files and CDI names of one container.

    ``mps_root`` is the folder of the MPS daemons on the node, ``dev`` that of device files.
    Raises InvalidInput when the isolation contract does not allow the grant, NotReachable when a GPU has no device file
    that could be given.
    """
    response = wire.ContainerAllocateResponse()
    gpus = [gpu for gpu, _ in granted.parts]
    if len(granted.parts) == 1:
        gpu, share = granted.parts[0]
        response.envs.update(environment(isolation, gpu, share.share, share.memory_mib))
        for mount in mounts(isolation, gpu, share.share, mps_root):
            response.mounts.add(
                host_path=mount.host_path, container_path=mount.container_path, read_only=mount.read_only
            )
    else:
        response.envs.update(environment_of_whole(gpus))
    if injection is not Injection.ENV:
        response.envs[VISIBLE_DEVICES] = _NOTHING
    if injection is Injection.CDI:
        response.cdi_devices.extend(wire.CDIDevice(name=f"{_CDI_KIND}={gpu.uuid}") for gpu in gpus)
    if injection is Injection.DEVICE_NODES:
        for file in (*(_file_of(gpu, dev) for gpu in gpus), *(dev / name for name in _SHARED_FILES)):
            if file.exists():
                response.devices.add(container_path=f"/dev/{file.name}", host_path=str(file), permissions="rw")
    return response


def _file_of(gpu: Gpu, dev: Path) -> Path:
    """The device file of a GPU; a container without it would run, and find none."""
    file = dev / f"nvidia{gpu.minor_number}"
    if gpu.minor_number < 0 or not file.exists():
        why = f"{file} is missing" if gpu.minor_number >= 0 else "the driver does not report its number"
        raise NotReachable(f"GPU {gpu.uuid} has no device file here: {why}")
    return file
