"""What a pod asks for and the same pod asking for something else: pure edits of projections, and amounts as text."""

from typing import Any

from msgspec.structs import replace

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod, Resources
from tangram.snapshot.requests.amounts import resource_units
from tangram.snapshot.requests.request import VENDOR_RESOURCES


def gpu_ask(pod: Pod) -> tuple[str, str, int] | None:
    """(container, resource, amount) of the container that asks for most GPU."""
    found: list[tuple[int, str, str, int]] = []
    for container in pod.spec.containers:
        wanted = {**container.resources.limits, **container.resources.requests}
        for resource in (*sorted(VENDOR_RESOURCES), names.FRACTION_RESOURCE):
            try:
                amount = units.quantity(wanted.get(resource, 0))
            except ValueError:
                continue
            scale = 1 if resource == names.FRACTION_RESOURCE else units.HUNDREDTHS_PER_GPU
            if amount:
                found.append((amount * scale, container.name, resource, amount))
    return max(found)[1:] if found else None


def largest_ask(pod: Pod, resource: str) -> tuple[str, int]:
    """(container, amount) of the container that asks for most of a resource; amount 0: none does. Where the pod as a
    whole asks for it, that is what counts, and the name is empty."""
    whole = pod.spec.resources
    if whole is not None and resource in whole.requests:
        return "", _units(resource, whole.requests[resource])
    found = [("", 0)]
    for container in pod.spec.containers:
        wanted = {**container.resources.limits, **container.resources.requests}
        found.append((container.name, _units(resource, wanted.get(resource, 0))))
    return max(found, key=lambda one: one[1])


def least_ask(pod: Pod, container: str, resource: str) -> int:
    """The least that can be asked for there: 1, and as a whole no less than the containers do together."""
    asked = (_units(resource, one.resources.requests.get(resource, 0)) for one in pod.spec.containers)
    return 1 if container else max(1, sum(asked))


def _units(resource: str, amount: Any) -> int:
    """The amount in the resource's unit; 0: it cannot be read."""
    try:
        return resource_units(resource, amount)
    except ValueError:
        return 0


def asking(pod: Pod, container: str, resource: str, wanted: dict[str, Any]) -> Pod:
    """The pod with other amounts in one container, or as a whole where no name is given, which gives ``resource``
    up."""

    def edited(one: Resources) -> Resources:
        sides = {
            side: {name: amount for name, amount in getattr(one, side).items() if name != resource}
            for side in ("requests", "limits")
        }
        limits = sides["limits"] | wanted if resource in one.limits else sides["limits"]
        return replace(one, requests=sides["requests"] | wanted, limits=limits)

    if not container and pod.spec.resources is not None:
        return replace(pod, spec=replace(pod.spec, resources=edited(pod.spec.resources)))
    containers = (
        replace(one, resources=edited(one.resources)) if one.name == container else one for one in pod.spec.containers
    )
    return replace(pod, spec=replace(pod.spec, containers=tuple(containers)))


def annotated(pod: Pod, key: str, value: str) -> Pod:
    """The pod with another annotation."""
    return replace(pod, metadata=replace(pod.metadata, annotations={**pod.metadata.annotations, key: value}))


def gpus_text(hundredths: int) -> str:
    """An amount of GPU for a person, from hundredths."""
    if hundredths < units.HUNDREDTHS_PER_GPU:
        return f"{hundredths / units.HUNDREDTHS_PER_GPU:.2f} of a GPU"
    return f"{hundredths / units.HUNDREDTHS_PER_GPU:g} GPU{'s' if hundredths > units.HUNDREDTHS_PER_GPU else ''}"


def memory_text(mib: int) -> str:
    """An amount of memory for a person, from MiB."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def counted(count: float, word: str) -> str:
    """``1 pod``, ``2 pods``, ``0.5 GPUs``."""
    return f"{count:g} {word}{'' if count == 1 else 's'}"
