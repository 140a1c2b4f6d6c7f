"""Label clauses and taints over nodes, worked out once per (clause, node) into boolean rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from tangram.api import names
from tangram.api.objects import Node, Requirement, Taint, Toleration
from tangram.snapshot.arrays import Bool

_KEEPS_AWAY = ("NoSchedule", "NoExecute")
DISLIKED = "PreferNoSchedule"
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
AT_RISK = Taint(names.AT_RISK, DISLIKED)
"""As if it stood on the Node where a device is likely to fail soon."""
VULNERABLE: Mapping[str, tuple[Taint, ...]] = MappingProxyType(
    {
        "Use": (),
        "Avoid": (Taint(names.VULNERABLE, DISLIKED),),
        "Exclude": (Taint(names.VULNERABLE, "NoSchedule"),),
    }
)
"""As if these stood on the Node whose container software has known holes, by what the policy says of such nodes."""
UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "NoSchedule")


def clause_holds(clause: Requirement, node: Node, *, is_field: bool) -> bool:
    """Whether one clause of a node selector holds on the node, by kube-scheduler's rules."""
    if is_field:
        return value_matches(clause, node.metadata.name if clause.key == "metadata.name" else None)
    return value_matches(clause, node.metadata.labels.get(clause.key))


def value_matches(clause: Requirement, value: str | None) -> bool:
    """Whether a value, None when there is none, satisfies the clause."""
    match clause.operator:
        case "In":
            return value is not None and value in clause.values
        case "NotIn":
            return value is None or value not in clause.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            have, want = _integer(value), _integer(clause.values[0] if len(clause.values) == 1 else None)
            if have is None or want is None:
                return False
            return have > want if clause.operator == "Gt" else have < want
    return False


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether the toleration takes the taint away, by kube-scheduler's rules."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in ("", "Equal") and bool(toleration.key) and toleration.value == taint.value


def taints_of(node: Node) -> list[Taint]:
    """Taints that keep pods away, the cordon included."""
    found = [taint for taint in node.spec.taints if taint.effect in _KEEPS_AWAY]
    return [*found, UNSCHEDULABLE] if node.spec.unschedulable and UNSCHEDULABLE not in found else found


@dataclass(slots=True)
class TruthTable:
    """Boolean rows over node rows: one row per interned key, grown by doubling."""

    rows: dict[tuple[object, ...], int] = field(default_factory=dict)
    values: Bool = field(default_factory=lambda: np.zeros((0, 0), bool))
    free: list[int] = field(default_factory=list)
    """Rows below the highest one that no key has."""

    def row_of(self, key: tuple[object, ...]) -> tuple[int, bool]:
        """The key's row, and whether it is new (its values are then all False until the caller fills them)."""
        row = self.rows.get(key)
        if row is not None:
            return row, False
        row = self.free.pop() if self.free else len(self.rows)
        self.rows[key] = row
        if row >= self.values.shape[0]:
            grown = np.zeros((max(8, row * 2), self.values.shape[1]), bool)
            grown[:row] = self.values[:row]
            self.values = grown
        return row, True

    def retain(self, used: set[int]) -> None:
        """Forget the keys of all other rows."""
        for key, row in list(self.rows.items()):
            if row not in used:
                del self.rows[key]
                self.values[row] = False
                self.free.append(row)

    def widen(self, nodes: int) -> None:
        """Make room for ``nodes`` node rows."""
        grown = np.zeros((self.values.shape[0], nodes), bool)
        grown[:, : self.values.shape[1]] = self.values
        self.values = grown
