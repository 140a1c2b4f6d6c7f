"""How GPUs get into a container: the answer to the kubelet's Allocate.

Three ways, because clusters differ: the variable that NVIDIA's container runtime reads, plain device files for runtimes
that know nothing of GPUs, and names of CDI, the Container Device Interface (github.com/cncf-tags).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from tangram.errors import NotReachable
from tangram.node import cdi
from tangram.node.allocation import Grant
from tangram.node.gpus import Gpu, Holding, Isolation
from tangram.node.isolation import MPS_ROOT, environment, environment_of_whole, mounts
from tangram.node.wire import deviceplugin_pb2 as wire
from tangram.units import HUNDREDTHS_PER_GPU

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
_NOTHING = "void"
"""For NVIDIA's runtime: add nothing, whatever the image asks for (``all`` is what most CUDA images say)."""
_SHARED_FILES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_WRITTEN_BY_OPERATOR = ("management.nvidia.com/gpu", "k8s.device-plugin.nvidia.com/gpu")
"""Kinds whose files are written by who also switches CDI on in the runtime."""


class Injection(StrEnum):
    """How a container's GPUs are named to its runtime."""

    AUTO = "auto"
    """As the node is set up; found out before anything is given out."""
    ENV = "env"
    """``NVIDIA_VISIBLE_DEVICES`` with uuids: NVIDIA's container runtime does the rest."""
    DEVICE_NODES = "device-nodes"
    """The device files themselves: the driver's libraries must be in the image or mounted."""
    CDI = "cdi"
    """Devices of a CDI specification of our own, made of NVIDIA's that is on the node."""


def chosen(runtime: str, source: cdi.Found | None) -> tuple[Injection, str]:
    """The way that works on a node, and why; ``runtime`` as the Node has it, such as ``containerd://2.1.4``.

    containerd has CDI on from 2.0 on, and in 1.7 where its configuration says so, as the GPU Operator's does; CRI-O has
    it on (containerd, ``docs/cri/config.md``; CRI-O 1.23). A runtime with CDI off ignores its names.
    """
    if source is None:
        return Injection.ENV, "there is no CDI specification of NVIDIA's on the node"
    name, _, version = runtime.partition("://")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if name == "cri-o" or (name == "containerd" and numbers >= (2, 0)):
        return Injection.CDI, f"{source.path} is there, and {runtime} knows CDI"
    if name == "containerd" and numbers >= (1, 7) and source.kind in _WRITTEN_BY_OPERATOR:
        return Injection.CDI, f"{source.path} is there, whose author switches CDI on in {runtime}"
    return Injection.ENV, f"{runtime or 'the runtime'} may not know CDI, or have it switched off"


@dataclass(slots=True)
class Injector:
    """Makes the answers of one node."""

    isolation: Isolation
    injection: Injection = Injection.ENV
    mps_root: PurePosixPath = MPS_ROOT
    """The folder of the MPS daemons on the node."""
    dev: Path = Path("/dev")
    """Where device files are."""
    cdi_folders: tuple[Path, ...] = cdi.FOLDERS
    """Where specifications are, and where ours is written: the last."""
    problem: str = field(default="", init=False)
    """Why no container would get its GPUs now; empty: they would."""
    _own: cdi.Folder = field(init=False)
    _prepared: tuple[object, ...] = field(default=(), init=False)
    """For which GPUs and specifications of others ours was written; it is written again when one of them changes."""

    def __post_init__(self) -> None:
        self._own = cdi.Folder(self.cdi_folders[-1])

    def prepare(self, gpus: Sequence[Gpu]) -> None:
        """Have ready what these GPUs' containers will need; ``problem`` says what is not."""
        if self.injection is not Injection.CDI or not gpus:
            self.problem = ""
            return
        wanted = (tuple((gpu.uuid, gpu.minor_number) for gpu in gpus), cdi.signature(self.cdi_folders))
        if wanted == self._prepared:
            return
        source = cdi.find(self.cdi_folders)
        folders = " or ".join(map(str, self.cdi_folders))
        try:
            if source is None:
                raise NotReachable(
                    f"no CDI specification of NVIDIA's is in {folders}: nvidia-ctk cdi generate writes one"
                )
            self._own.write("gpu", cdi.specification(gpus, source))
        except NotReachable as error:
            self.problem = str(error)
        else:
            self.problem, self._prepared = "", wanted

    def keep(self, holdings: Iterable[Holding]) -> None:
        """Remove what was written for parts of GPUs that nobody holds any more."""
        if self.injection is Injection.CDI:
            parts = {cdi.part_name(one.uuid, one.share, one.memory_mib) for one in holdings}
            self._own.keep(["gpu", *parts])

    def answer(self, granted: Grant) -> wire.ContainerAllocateResponse:
        """Variables, mounts, device files and CDI names of one container.

        Raises InvalidInput when the isolation contract does not allow the grant, NotReachable when a GPU cannot be
        given in this way.
        """
        response = wire.ContainerAllocateResponse()
        gpus = [gpu for gpu, _ in granted.parts]
        if len(granted.parts) == 1:
            gpu, share = granted.parts[0]
            response.envs.update(environment(self.isolation, gpu, share.share, share.memory_mib))
            for mount in mounts(self.isolation, gpu, share.share, self.mps_root):
                response.mounts.add(
                    host_path=mount.host_path, container_path=mount.container_path, read_only=mount.read_only
                )
        else:
            response.envs.update(environment_of_whole(gpus))
        if self.injection is not Injection.ENV:
            response.envs[VISIBLE_DEVICES] = _NOTHING
        if self.injection is Injection.CDI:
            response.cdi_devices.extend(wire.CDIDevice(name=name) for name in self._cdi_names(granted))
        if self.injection is Injection.DEVICE_NODES:
            for file in (*(_file_of(gpu, self.dev) for gpu in gpus), *(self.dev / name for name in _SHARED_FILES)):
                if file.exists():
                    response.devices.add(container_path=f"/dev/{file.name}", host_path=str(file), permissions="rw")
        return response

    def _cdi_names(self, granted: Grant) -> list[str]:
        """Devices of our specifications. A part of a GPU has its limits in one as well: what CDI sets is set last."""
        if self.problem:
            raise NotReachable(self.problem)
        names = [f"{cdi.KIND}={gpu.uuid}" for gpu, _ in granted.parts]
        gpu, share = granted.parts[0]
        if len(granted.parts) == 1 and share.share < HUNDREDTHS_PER_GPU:
            name = cdi.part_name(gpu.uuid, share.share, share.memory_mib)
            variables = environment(self.isolation, gpu, share.share, share.memory_mib)
            variables.pop(VISIBLE_DEVICES)
            self._own.write(name, cdi.part(name, variables))
            names.append(f"{cdi.PART_KIND}={name}")
        return names


def _file_of(gpu: Gpu, dev: Path) -> Path:
    """The device file of a GPU; a container without it would run, and find none."""
    file = dev / f"nvidia{gpu.minor_number}"
    if gpu.minor_number < 0 or not file.exists():
        why = f"{file} is missing" if gpu.minor_number >= 0 else "the driver does not report its number"
        raise NotReachable(f"GPU {gpu.uuid} has no device file here: {why}")
    return file
