"""Guarantees that cannot all be had at once: of the queues below another, more than it is guaranteed or limited to."""

from collections import defaultdict
from collections.abc import Sequence

from tangram.api.queue import Queue

_SHOWN = 4
_MILLI = 1000
_MIB_PER_GIB = 1024


def overcommitments(queues: Sequence[Queue]) -> list[str]:
    """A sentence for each queue and resource of which those below it are guaranteed more together than the queue itself
    is, where it is guaranteed any, or than its limit. All of it counts in full: the pool has it or not."""
    below: dict[str | None, list[Queue]] = defaultdict(list)
    for queue in queues:
        below[queue.parent].append(queue)
    found: list[str] = []
    for queue in queues:
        children = {child.name: _promised(child, below) for child in below[queue.name]}
        for resource in sorted({resource for amounts in children.values() for resource in amounts}):
            parts = {name: amounts[resource] for name, amounts in children.items() if amounts.get(resource)}
            found += _sentences(queue, resource, parts)
    return found


def _promised(queue: Queue, below: dict[str | None, list[Queue]]) -> dict[str, int]:
    """What a queue, or those below it together, are guaranteed, whichever is more."""
    out = dict(queue.guarantee.milli()) if queue.guarantee is not None else {}
    total: dict[str, int] = defaultdict(int)
    for child in below[queue.name]:
        for resource, amount in _promised(child, below).items():
            total[resource] += amount
    return {resource: max(out.get(resource, 0), total[resource]) for resource in out.keys() | total.keys()}


def _sentences(queue: Queue, resource: str, parts: dict[str, int]) -> list[str]:
    total = sum(parts.values())
    if not total:
        return []
    shown = ", ".join(f"{name} {_amount(resource, amount)}" for name, amount in list(parts.items())[:_SHOWN])
    more = f", and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    together = f" together ({shown}{more})" if len(parts) > 1 else ""
    children = "the queues below it" if len(parts) > 1 else f"queue {next(iter(parts))} below it"
    verb = "are" if len(parts) > 1 else "is"
    found = []
    for word, amounts in (("guaranteed", queue.guarantee), ("limited to", queue.limit)):
        own = amounts.milli().get(resource) if amounts is not None else None
        if own is not None and total > own:
            has = f"queue {queue.name} is {word} {_amount(resource, own)}"
            found.append(f"{has}, but {children} {verb} guaranteed {_amount(resource, total)}{together}")
    return found


def _amount(resource: str, amount: int) -> str:
    if resource == "memory":
        return f"{amount / _MIB_PER_GIB:g}Gi of memory"
    kind, _, model = resource.partition("/")
    return f"{amount / _MILLI:g} {model + ' ' if model else ''}{kind.upper()}{'' if amount == _MILLI else 's'}"
