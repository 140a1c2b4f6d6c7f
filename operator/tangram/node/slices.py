"""MIG slices as devices: in mode ``mig`` a GPU that is cut is replaced by what it is cut into. Pure.

Slices are cut and given up by an administrator (or NVIDIA's MIG manager), never by the agent. The names of their models
are those of NVIDIA's feature discovery with its MIG strategy "single": ``<model>-MIG-1g.10gb``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tangram.node.gpus import Condition, Gpu, Health, Inventory, Isolation, Slice

_UNFIT_FOR_LABELS = re.compile(r"[^A-Za-z0-9.]+")
_LONGEST_LABEL = 63


def sliced(mode: Isolation, inventory: Inventory) -> Inventory:
    """The devices that are given out: in mode MIG the slices of GPUs that have some, else the GPUs themselves."""
    if mode is not Isolation.MIG:
        return inventory
    gpus = [device for gpu in inventory.gpus for device in ([_device(gpu, part) for part in gpu.slices] or [gpu])]
    return replace(inventory, gpus=tuple(gpus))


def held_back(mode: Isolation, gpus: Iterable[Gpu], seen: Mapping[str, Condition]) -> dict[str, Condition]:
    """Health as seen by the probe, and Degraded where MIG leaves nothing of a GPU to give out.

    CUDA runs nothing on a GPU with MIG enabled but in its slices (NVIDIA's MIG User Guide, "CUDA Device Enumeration").
    """
    found = dict(seen)
    for gpu in gpus:
        condition = seen.get(gpu.uuid, Condition(Health.HEALTHY))
        problem = _problem(mode, gpu)
        if problem and condition.health is Health.HEALTHY:
            found[gpu.uuid] = Condition(Health.DEGRADED, problem, condition.at_risk)
    return found


def _problem(mode: Isolation, gpu: Gpu) -> str:
    if gpu.mig and mode is not Isolation.MIG:
        return f"MIG is enabled on it, and its slices are given out in mode mig only; the node's is {mode.value}"
    if gpu.mig and not gpu.slices:
        return "MIG is enabled on it, and the driver shows no slices of it"
    return ""


def _device(gpu: Gpu, part: Slice) -> Gpu:
    kind = f"-MIG-{_UNFIT_FOR_LABELS.sub('.', part.profile).strip('.')[:24] or 'unknown'}"
    return replace(
        gpu,
        uuid=part.uuid,
        model=gpu.model[: _LONGEST_LABEL - len(kind)] + kind,
        memory_mib=part.memory_mib,
        minor_number=-1,
        links=(),
        mig=False,
        slices=(),
        parent=gpu.uuid,
    )
