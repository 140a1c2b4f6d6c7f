"""What a pod asks for and the same pod asking for something else: pure edits of projections, and amounts as text."""

from typing import Any

from msgspec.structs import replace

from tangram import units
from tangram.api import names
from tangram.api.objects import Container, Pod
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
    """(container, amount) of the container that asks for most of a resource; amount 0: none does."""
    found = [("", 0)]
    for container in pod.spec.containers:
        wanted = {**container.resources.limits, **container.resources.requests}
        try:
            found.append((container.name, resource_units(resource, wanted.get(resource, 0))))
        except ValueError:
            continue
    return max(found, key=lambda one: one[1])


def asking(pod: Pod, container: str, resource: str, wanted: dict[str, Any]) -> Pod:
    """The pod with other amounts in one container, which gives ``resource`` up."""

    def edited(one: Container) -> Container:
        if one.name != container:
            return one
        sides = {
            side: {name: amount for name, amount in getattr(one.resources, side).items() if name != resource}
            for side in ("requests", "limits")
        }
        limits = sides["limits"] | wanted if resource in one.resources.limits else sides["limits"]
        return replace(one, resources=replace(one.resources, requests=sides["requests"] | wanted, limits=limits))

    return replace(pod, spec=replace(pod.spec, containers=tuple(edited(one) for one in pod.spec.containers)))


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
