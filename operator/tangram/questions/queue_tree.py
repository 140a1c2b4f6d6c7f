"""The queues of the policy in force as a tree, with what the scheduler has reported of each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tangram import units
from tangram.errors import InvalidInput
from tangram.scheduler.policies import PolicyObject, PolicySource
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

_HOLDS = ("None", "Hold", "HoldAndDrain")
"""From the weakest to the strongest."""
Amounts = Mapping[str, int]
"""``cpu`` in milli-cores, ``memory`` in MiB, ``gpu`` in milli-GPU; what is not there is not limited or not promised."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue."""

    name: str
    depth: int
    """0: at the top."""
    parent: str
    weight: int
    hold: str
    """``Hold`` or ``HoldAndDrain`` where the policy holds it, or a queue above it, which holds it as well."""
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
        conditions = policy.get("status", {}).get("conditions", ())
        if any(one.get("type") == "Active" and one.get("status") == "True" for one in conditions):
            return policy
    source = PolicySource(lambda _: None)
    for policy in policies:
        source.take("added", None, msgspec.convert(policy, PolicyObject))
    source.take("synced", None, None)
    chosen = source.active.metadata.name if source.active is not None else None
    return next((one for one in policies if one["metadata"]["name"] == chosen), None)


def queue_rows(policy: Mapping[str, Any] | None) -> list[QueueRow]:
    """The queues, each before those below it, in the order in which the policy names them; the default queue, which
    is there without being named, last."""
    declared = {one["name"]: one for one in (policy or {}).get("spec", {}).get("queues", ())}
    reported = {one["name"]: one for one in (policy or {}).get("status", {}).get("queues", ())}
    below: dict[str, list[str]] = {}
    for name, queue in declared.items():
        below.setdefault(queue.get("parent") or "", []).append(name)
    found: list[QueueRow] = []

    def add(name: str, depth: int, hold: str = "None") -> None:
        queue = declared.get(name, {"name": name})
        hold = max(hold, queue.get("hold", "None"), key=_HOLDS.index)
        found.append(_row({**queue, "hold": hold}, reported.get(name), depth))
        for child in below.get(name, ()):
            add(child, depth + 1, hold)

    for name in below.get("", ()):
        add(name, 0)
    for name in (*reported, DEFAULT_QUEUE):
        if name not in {row.name for row in found}:
            add(name, 0)
    return found


def subtree(rows: list[QueueRow], name: str) -> list[QueueRow]:
    """A queue and all below it; nothing where there is no such queue."""
    start = next((place for place, row in enumerate(rows) if row.name == name), len(rows))
    found = rows[start : start + 1]
    for row in rows[start + 1 :]:
        if row.depth <= found[0].depth:
            break
        found.append(row)
    return found


def _row(queue: Mapping[str, Any], use: Mapping[str, Any] | None, depth: int) -> QueueRow:
    reported = use or {}
    return QueueRow(
        name=queue["name"],
        depth=depth,
        parent=queue.get("parent") or "",
        weight=queue.get("weight", 1),
        hold=queue["hold"],
        guarantee=_amounts(queue.get("guarantee")),
        limit=_amounts(queue.get("limit")),
        used=_amounts(reported.get("used")),
        fair_share=_amounts(reported.get("fairShare")),
        share_percent=reported.get("dominantSharePercent", 0),
        running=reported.get("running", 0),
        pending=reported.get("pending", 0),
        is_reported=use is not None,
    )


def _amounts(written: Mapping[str, Any] | None) -> Amounts:
    found = {}
    for name, read in _READERS.items():
        if written and name in written:
            try:
                found[name] = read(written[name])
            except InvalidInput:  # the API server lets no such amount in
                continue
    return found


def _gpu_milli(text: object) -> int:
    return units.quantity(text, 1, units.MILLI_PER_GPU)


_READERS: Mapping[str, Callable[[object], int]] = {
    "cpu": units.cpu_milli,
    "memory": units.memory_mib,
    "gpu": _gpu_milli,
}
