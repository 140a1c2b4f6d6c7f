"""What machines with each GPU model look like: data, taken from the vendors' data sheets and common cloud machines."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tangram.errors import InvalidInput


@dataclass(frozen=True)
class GpuShape:
    """One GPU model and the share of a machine that comes with each GPU."""

    product: str
    """As NVIDIA GPU feature discovery writes it into ``nvidia.com/gpu.product``."""
    family: str
    compute: tuple[int, int]
    """CUDA compute capability."""
    memory_mib: int
    """Memory of one GPU as the driver reports it, in MiB."""
    cpu_milli: int
    """CPU of the machine for each of its GPUs, in thousandths of a core."""
    host_memory_mib: int
    """Memory of the machine for each of its GPUs, in MiB."""
    machine: str


def _gpu(product: str, family: str, compute: tuple[int, int], memory: int, host: tuple[int, int, str]) -> GpuShape:
    """``host``: cores and GiB of the machine for each of its GPUs, and its name."""
    cores, gib, machine = host
    return GpuShape(product, family, compute, memory, cores * 1000, gib * 1024, machine)


# G2 and G3 are the names that the public "openb" cluster trace gives to models which it does not disclose; their
# product strings, memory and machines here are assumptions of the right size, not facts.
SHAPES: Mapping[str, GpuShape] = MappingProxyType(
    {
        "A10": _gpu("NVIDIA-A10", "ampere", (8, 6), 23028, (16, 64, "g10-node")),
        "A100": _gpu("NVIDIA-A100-SXM4-80GB", "ampere", (8, 0), 81920, (12, 128, "dgx-a100")),
        "A100-40GB": _gpu("NVIDIA-A100-SXM4-40GB", "ampere", (8, 0), 40960, (12, 128, "dgx-a100")),
        "A30": _gpu("NVIDIA-A30", "ampere", (8, 0), 24576, (12, 64, "a30-node")),
        "B200": _gpu("NVIDIA-B200", "blackwell", (10, 0), 183359, (28, 256, "dgx-b200")),
        "G2": _gpu("NVIDIA-G2", "ampere", (8, 6), 23028, (12, 96, "g2-node")),
        "G3": _gpu("NVIDIA-G3", "ampere", (8, 0), 81920, (16, 128, "g3-node")),
        "H100": _gpu("NVIDIA-H100-80GB-HBM3", "hopper", (9, 0), 81559, (24, 256, "dgx-h100")),
        "H200": _gpu("NVIDIA-H200", "hopper", (9, 0), 143771, (24, 256, "dgx-h200")),
        "L4": _gpu("NVIDIA-L4", "ada-lovelace", (8, 9), 23034, (12, 48, "l4-node")),
        "L40S": _gpu("NVIDIA-L40S", "ada-lovelace", (8, 9), 46068, (16, 128, "l40s-node")),
        "P100": _gpu("Tesla-P100-PCIE-16GB", "pascal", (6, 0), 16280, (16, 64, "p100-node")),
        "T4": _gpu("Tesla-T4", "turing", (7, 5), 15360, (12, 48, "t4-node")),
        "V100": _gpu("Tesla-V100-SXM2-32GB", "volta", (7, 0), 32768, (12, 96, "dgx-1")),
        "V100M16": _gpu("Tesla-V100-SXM2-16GB", "volta", (7, 0), 16384, (12, 96, "dgx-1")),
        "V100M32": _gpu("Tesla-V100-SXM2-32GB", "volta", (7, 0), 32768, (12, 96, "dgx-1")),
    }
)


def shape_of(model: str, where: str) -> GpuShape:
    """The shape of a GPU model, in any letter case; ``where`` says in errors what asked for it.

    Raises ``InvalidInput`` for a model that is not in the table.
    """
    try:
        return SHAPES[model.upper()]
    except KeyError:
        raise InvalidInput(where, "model", model, ", ".join(SHAPES)) from None
