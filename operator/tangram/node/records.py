"""What this node's pods are to get: read from each pod's spec and from the record that the scheduler bound it with.

Everything here is untrusted. A record counts only when it says exactly what the pod asks for, when our scheduler was
asked to place the pod, and when the pod is on this node; else the pod's ``fault`` says what is wrong with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tangram import units
from tangram.api import names
from tangram.api.objects import Container, DeviceShare, Pod, read_gpus

TERMINAL_PHASES = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Want:
    """What one container asks for, and the GPUs that the record names for it."""

    container: str
    resource: str
    amount: int
    """Device ids of the resource, as the kubelet will ask for them."""
    shares: tuple[DeviceShare, ...] = ()
    passing: bool = False
    """An init container that ends before the next one starts: the kubelet gives its devices to the next ones, and does
    not list it among the containers that hold devices."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A pod that asks for GPUs; ``wants`` are in the order in which the kubelet asks for its containers' devices."""

    uid: str
    namespace: str
    name: str
    wants: tuple[Want, ...]
    fault: str = ""
    """Why it must get nothing; empty: it may have what its record names."""
    started: bool = False
    """The kubelet has admitted it already, now or before a restart."""
    leaving: bool = False
    created: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.name}"


def read_claimant(pod: Pod, resources: tuple[str, ...], node: str, scheduler: str) -> Claimant | None:
    """What the pod is to get of ``resources``; None when it asks for none of them or has come to its end."""
    if pod.status.phase in TERMINAL_PHASES:
        return None
    asked = list(_asked(pod, resources))
    if not asked:
        return None
    metadata = pod.metadata
    shares, fault = _trusted_record(pod, asked, node, scheduler)
    return Claimant(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        wants=tuple(
            Want(container.name, resource, amount, shares.get(container.name, ()), passing)
            for container, resource, amount, passing in asked
        ),
        fault=fault,
        started=pod.status.start_time is not None,
        leaving=metadata.deletion_timestamp is not None,
        created=metadata.creation_timestamp or "",
    )


def _asked(pod: Pod, resources: tuple[str, ...]) -> Iterator[tuple[Container, str, int, bool]]:
    """(container, resource, device ids, passing) in the kubelet's order: init containers, then the others."""
    for initial, containers in ((True, pod.spec.init_containers), (False, pod.spec.containers)):
        for container in containers:
            for resource in resources:
                try:
                    amount = units.quantity(container.resources.limits.get(resource, 0))
                except ValueError:  # the API server lets no such quantity pass
                    continue
                if amount:
                    yield container, resource, amount, initial and container.restart_policy != "Always"


def _trusted_record(
    pod: Pod, asked: list[tuple[Container, str, int, bool]], node: str, scheduler: str
) -> tuple[Mapping[str, tuple[DeviceShare, ...]], str]:
    """The record and an empty text, or no record and why there is none that counts."""
    if pod.spec.scheduler_name != scheduler:
        return {}, f"its schedulerName is {pod.spec.scheduler_name!r}; GPUs of this node are given out by {scheduler!r}"
    if pod.spec.node_name != node:
        return {}, f"it is bound to node {pod.spec.node_name!r}, this is {node!r}"
    text = pod.metadata.annotations.get(names.GPUS)
    if text is None:
        return (
            {},
            f"it has no record of GPUs (annotation {names.GPUS}): it was not placed by the scheduler {scheduler!r}",
        )
    try:
        record = read_gpus(text)
    except ValueError as error:
        return {}, f"annotation {names.GPUS}: {error}"
    for container, resource, amount, _ in asked:
        if problem := _disagreement(resource, amount, record.get(container.name, ())):
            return {}, f"annotation {names.GPUS}: container {container.name} {problem}"
    return record, ""


def _disagreement(resource: str, amount: int, shares: tuple[DeviceShare, ...]) -> str:
    """How a container's record differs from what it asks for; empty: it does not."""
    try:
        count, milli = units.gpu_share(amount) if resource == names.FRACTION_RESOURCE else (amount, units.MILLI_PER_GPU)
    except ValueError as error:
        return f"asks for {error}"
    each = milli * units.HUNDREDTHS_PER_GPU // units.MILLI_PER_GPU
    if len({share.id for share in shares}) == len(shares) == count and all(share.share == each for share in shares):
        return ""
    named = " and ".join(f"{share.share} of {share.id}" for share in shares) or "nothing"
    return f"asks for {amount} of {resource} and is given {named}"
