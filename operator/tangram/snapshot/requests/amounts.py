"""How much of each resource a pod counts for on its node, by kube-scheduler's rules (its ``PodRequests``).

Containers add up, sidecars with what runs after them, init containers count by the largest (KEP-753). What a pod asks
for as a whole, of CPU, memory and huge pages, stands in place of that sum (KEP-2837). While a pod is resized in place
the larger counts of what it asks for, what is set aside for it and what it runs with (KEP-1287); what it asks for in
vain does not.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

from tangram import units
from tangram.api.objects import Container, ContainerStatus, Pod, Resources

Quantities: TypeAlias = Mapping[str, object]
"""Resource -> quantity, as written."""

_LARGEST_AMOUNT = 1 << 50
"""Nothing real is larger, in any unit; the sum over all pods of a node still fits 64 bits."""
_LARGEST_SHARED = 1 << 40
"""Nor is anything larger of what queues share, in milli-cores and MiB; the sum over all pods still fits 64 bits."""
_MOST_TEXTS = 4096
"""Quantities that are remembered: pods of one kind say the same ones."""
_SHARED = ("cpu", "memory")
_HUGE_PAGES = "hugepages-"


def resource_units(name: str, value: object, *, round_up: bool = True) -> int:
    """A quantity of a resource in its unit: milli-cores, MiB, or single units. Raises ValueError."""
    return _read_text(name, str(value), round_up)


@lru_cache(_MOST_TEXTS)
def _read_text(name: str, value: str, round_up: bool) -> int:
    if name == "cpu":
        amount = units.cpu_milli(value, round_up=round_up)
    elif name in ("memory", "ephemeral-storage") or name.startswith("hugepages-"):
        amount = units.memory_mib(value, round_up=round_up)
    else:
        amount = units.quantity(value, round_up=round_up)
    if amount > _largest(name):
        raise ValueError(f"{value!r} is larger than anything real")
    return amount


def container_request(container: Container) -> dict[str, int]:
    """What a container asks for, by its limits where it does not say. Raises ValueError."""
    return _amounts(f"container {container.name}", {**container.resources.limits, **container.resources.requests})


def amounts_key(pod: Pod) -> tuple[object, ...]:
    """What decides the amounts besides the containers and the overhead; nothing for nearly every pod."""
    status = pod.status
    if pod.spec.resources is None and not (status.container_statuses or status.init_container_statuses):
        return ()
    resized = status.container_statuses, status.init_container_statuses, status.resources, status.allocated_resources
    return pod.spec.resources, resized, _is_infeasible(pod)


def pod_amounts(pod: Pod) -> dict[str, int]:
    """Resource -> how much the pod counts for. Raises ValueError with a sentence."""
    total = _of_containers(pod)
    if pod.spec.resources is not None:
        total |= _as_a_whole(pod, pod.spec.resources)
    _add(total, _amounts("overhead", pod.spec.overhead))
    total["pods"] = 1
    for name, value in total.items():
        if value > _largest(name):
            raise ValueError(f"{name}: the containers together ask for more than anything real")
    return {name: value for name, value in total.items() if value}


def _of_containers(pod: Pod) -> dict[str, int]:
    """Sum and maximum over containers."""
    status = pod.status
    known = {one.name: one for one in (*status.container_statuses, *status.init_container_statuses)}
    total: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(total, _counted(pod, container, known))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            _add(sidecars, _counted(pod, container, known))
            stage = dict(sidecars)
        else:
            stage = dict(sidecars)
            _add(stage, container_request(container))
        peak = _larger(peak, stage)
    _add(total, sidecars)
    return _larger(total, peak)


def _counted(pod: Pod, container: Container, known: Mapping[str, ContainerStatus]) -> dict[str, int]:
    """What a container counts for that runs as long as its pod."""
    asked, status = container_request(container), known.get(container.name)
    if status is None or status.resources is None:
        return asked
    where = f"container {container.name}"
    held = _larger(_amounts(where, status.resources.requests), _amounts(where, status.allocated_resources))
    return held if _is_infeasible(pod) else _larger(asked, held)


def _as_a_whole(pod: Pod, resources: Resources) -> dict[str, int]:
    """What the pod as a whole asks for, of the resources for which that counts."""
    asked = _amounts("resources of the pod", _with_defaults(pod, resources))
    status = pod.status
    if status.resources is not None and resources.requests:
        where = "resources of the pod"
        held = _larger(_amounts(where, status.resources.requests), _amounts(where, status.allocated_resources))
        counted = held if _is_infeasible(pod) else _larger(asked, held)
        asked = {name: counted.get(name, 0) for name in asked}
    return {name: value for name, value in asked.items() if name in _SHARED or name.startswith(_HUGE_PAGES)}


def _with_defaults(pod: Pod, resources: Resources) -> Quantities:
    """The requests as the API server completes them: by the limits, of what no container asks for."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    said = {name for one in containers for name in (*one.resources.requests, *one.resources.limits)}
    return {name: value for name, value in resources.limits.items() if name not in said} | resources.requests


def _is_infeasible(pod: Pod) -> bool:
    """Whether what the pod asks for will not be given to it on its node."""
    pending = [one for one in pod.status.conditions if one.type == "PodResizePending"]
    return bool(pending) and pending[0].reason == "Infeasible"


def _amounts(where: str, quantities: Quantities) -> dict[str, int]:
    """Resource -> amount in its unit. Raises ValueError naming where, resource and value."""
    found = {}
    for name, value in quantities.items():
        try:
            found[name] = resource_units(name, value)
        except ValueError as error:
            raise ValueError(f"{where}: {name}: {error}; allowed: a quantity such as 2, 500m or 8Gi") from None
    return found


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _larger(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _largest(resource: str) -> int:
    return _LARGEST_SHARED if resource in _SHARED else _LARGEST_AMOUNT
