"""GPUs that containers and replicas ask for."""

from collections.abc import Iterable, Mapping
from typing import Any

from tangram.api import names
from tangram.api.common import GpuRequest
from tangram.api.objects import Resources
from tangram.units import MILLI_PER_GPU, gpu_share, quantity

_WHOLE_RESOURCES = tuple(vendor.resource for vendor in names.VENDORS)


def milli_of(amounts: Iterable[Resources]) -> int:
    """GPUs that containers ask for, in milli-GPU; amounts that cannot be read count as nothing."""
    total = 0
    for resources in amounts:
        asked = {**resources.requests, **resources.limits}
        try:
            total += sum(quantity(asked.get(name, 0)) for name in _WHOLE_RESOURCES) * MILLI_PER_GPU
            devices, each = gpu_share(asked.get(names.FRACTION_RESOURCE, 0))
            total += devices * each
        except ValueError:
            continue
    return total


def held_milli(containers: Iterable[Resources], init_containers: Iterable[tuple[Resources, bool]]) -> int:
    """GPUs that a pod holds from its binding to its end, in milli-GPU: what its containers ask for together, or one of
    the steps before them if that is more. Of each init container it is given whether it runs beside the others.

    A kubelet gives nothing back before the pod ends (Kubernetes, "Resource sharing within containers")."""
    beside, most = 0, 0
    for resources, stays in init_containers:
        asked = milli_of([resources])
        most = max(most, beside + asked)
        beside += asked if stays else 0
    return max(most, beside + milli_of(containers))


def replica_milli(template: Mapping[str, Any], gpus: GpuRequest | None) -> int:
    """GPUs of one replica in milli-GPU."""
    if gpus is not None:
        return gpus.milli()
    return milli_of(
        Resources(container_amounts(container, "requests"), container_amounts(container, "limits"))
        for container in template["spec"]["containers"]
    )


def container_amounts(container: Mapping[str, Any], side: str) -> dict[str, str | int | float]:
    """Requests or limits of a container as written; empty where it has none."""
    return dict((container.get("resources") or {}).get(side) or {})


def gpu_text(milli: int) -> str:
    """GPUs for a person: 8, 2.5, 0.30."""
    if milli % MILLI_PER_GPU == 0:
        return str(milli // MILLI_PER_GPU)
    return f"{milli / MILLI_PER_GPU:.2f}"
