"""The queues of the policy in force as a tree, with what the scheduler has reported of each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tangram import units
from tangram.scheduler.policies import PolicyObject, PolicySource, said_in_force
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

_HOLDS = ("None", "Hold", "HoldAndDrain")
"""From the weakest to the strongest."""
Amounts = Mapping[str, int]
"""``cpu`` in milli-cores, ``memory`` in MiB, ``gpu`` and ``gpu/MODEL`` in milli-GPU; what is not there is not limited
or not promised."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue."""

    name: str
    depth: int
    """0: at the top."""
    parent: str
    weight: int
    hold: str
    """``Hold`` or ``HoldAndDrain`` where the policy holds it, or a queue above it, which holds it as well; a word that
    is not known here as it is written."""
    guarantee: Amounts
    limit: Amounts
    used: Amounts
    fair_share: Amounts
    share_percent: int
    running: int
    pending: int
    is_reported: bool
    """Whether the scheduler has reported it; else what it uses is not known, and 0 here."""


def policy_in_force(policies: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The policy that the controller says is in force; where it has not said anything, by the scheduler's own rule."""
    policies = list(policies)
    for policy in policies:
        conditions = _mappings(_mapping(policy.get("status")).get("conditions"))
        if any(one.get("type") == "Active" and one.get("status") == "True" for one in conditions):
            return policy
    known = {found.metadata.name: policy for policy in policies if (found := _read(policy)) is not None}
    source = PolicySource(lambda _: None)
    for policy in known.values():
        source.take("added", None, _read(policy))
    source.take("synced", None, None)
    return known.get(source.active.metadata.name) if source.active is not None else None


def other_version(policy: Mapping[str, Any] | None) -> str:
    """By which version of the policy the scheduler decides; empty where that is the one shown, all of it."""
    found = None if policy is None else _read(policy)
    said = None if found is None else said_in_force([found])
    if found is None or said is None:
        return ""
    name, stored, (_, decides, message) = found.metadata.name, found.metadata.generation, said
    why = f": {message}" if message else ""
    if decides != stored:
        return f"the scheduler decides by generation {decides} of policy {name}, and this is generation {stored}{why}"
    return f"policy {name}{why}" if why else ""


def queue_rows(policy: Mapping[str, Any] | None) -> list[QueueRow]:
    """The queues, each before those below it, in the order in which the policy names them; then those that are not
    declared: such as the default queue, which is there without being named.

    A policy may have been stored by another version: a queue whose parent does not exist stands at the top, and what
    cannot be read counts as not written.
    """
    declared = _by_name(_mapping(_mapping(policy).get("spec")).get("queues"))
    reported = _by_name(_mapping(_mapping(policy).get("status")).get("queues"))
    below: dict[str, list[str]] = {}
    for name, queue in declared.items():
        parent = _text(queue.get("parent"))
        below.setdefault(parent if parent in declared else "", []).append(name)
    found: dict[str, QueueRow] = {}

    # Last those that a circle of parents keeps from the top. A stack: how deep queues stand is for the policy to say.
    tops = (*below.get("", ()), *reported, DEFAULT_QUEUE, *declared)
    left = [(name, 0, "None") for name in reversed(tops)]
    while left:
        name, depth, above = left.pop()
        if name in found:
            continue
        queue = declared.get(name, {})
        hold = max(above, _text(queue.get("hold")) or "None", key=_strength)
        found[name] = _row(name, {**queue, "hold": hold}, reported.get(name), depth)
        left += [(child, depth + 1, hold) for child in reversed(below.get(name, ()))]
    return list(found.values())


def _read(policy: Mapping[str, Any]) -> PolicyObject | None:
    try:
        return msgspec.convert(policy, PolicyObject)
    except msgspec.ValidationError:  # its form is another version's
        return None


def _strength(hold: str) -> int:
    """A hold that is not known here is one, and the strongest: it is shown as it is written."""
    return _HOLDS.index(hold) if hold in _HOLDS else len(_HOLDS)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def _by_name(value: object) -> dict[str, Mapping[str, Any]]:
    """The first entry of each name."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in _mappings(value):
        if name := _text(one.get("name")):
            found.setdefault(name, one)
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object, otherwise: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def subtree(rows: list[QueueRow], name: str) -> list[QueueRow]:
    """A queue and all below it; nothing where there is no such queue."""
    start = next((place for place, row in enumerate(rows) if row.name == name), len(rows))
    found = rows[start : start + 1]
    for row in rows[start + 1 :]:
        if row.depth <= found[0].depth:
            break
        found.append(row)
    return found


def _row(name: str, queue: Mapping[str, Any], use: Mapping[str, Any] | None, depth: int) -> QueueRow:
    reported = use or {}
    return QueueRow(
        name=name,
        depth=depth,
        parent=_text(queue.get("parent")),
        weight=_count(queue.get("weight"), 1),
        hold=queue["hold"],
        guarantee=_amounts(queue.get("guarantee")),
        limit=_amounts(queue.get("limit")),
        used=_amounts(reported.get("used")),
        fair_share=_amounts(reported.get("fairShare")),
        share_percent=_count(reported.get("dominantSharePercent")),
        running=_count(reported.get("running")),
        pending=_count(reported.get("pending")),
        is_reported=use is not None,
    )


def _amounts(written: object) -> Amounts:
    amounts = _mapping(written)
    wanted = [(name, amounts[name], read) for name, read in _READERS.items() if name in amounts]
    wanted += [(f"gpu/{model}", amount, _gpu_milli) for model, amount in _mapping(amounts.get("gpuModels")).items()]
    found = {}
    for name, amount, read in wanted:
        try:
            found[name] = read(amount)
        except ValueError:  # the API server lets no such amount in
            continue
    return found


def _gpu_milli(text: object) -> int:
    return units.quantity(text, 1, units.MILLI_PER_GPU)


_READERS: Mapping[str, Callable[[object], int]] = {
    "cpu": units.cpu_milli,
    "memory": units.memory_mib,
    "gpu": _gpu_milli,
}
