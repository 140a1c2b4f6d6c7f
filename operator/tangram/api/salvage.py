"""What can be read of a HybridPolicy that cannot be read as a whole.

Only a definition that is newer than the process, or one that was changed by hand, lets such a policy be stored: after a
rollback, say. Without a last good version in memory the choice is between no rules at all, which takes guarantees and
limits from everybody, and what is understood. What is not understood does not become looser by that: a queue of which
a field is lost starts nothing (``hold``), and a class that is lost is unknown to those who name it.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from tangram.api.policy import HybridPolicy, parse_policy
from tangram.errors import InvalidInput

_STEP = re.compile(r"\w+|\[(\d+)\]")
_MOST = 1024
"""Faults that are looked past; a policy has fewer fields that can be wrong."""


def read_what_can_be(obj: Mapping[str, Any]) -> tuple[HybridPolicy, tuple[str, ...]]:
    """The policy without what cannot be read of its spec, and the paths of that; none where all can be read.

    Raises InvalidInput where what is wrong is not in the spec.
    """
    left, lost = copy.deepcopy(dict(obj)), list[str]()
    for _ in range(_MOST):
        try:
            return parse_policy(left), tuple(lost)
        except InvalidInput as error:
            path = _without(left, error.field)
            if path is None:
                raise
            lost.append(path)
    return parse_policy(left | {"spec": {}}), ("spec",)


def _without(obj: dict[str, Any], field: str) -> str | None:
    """Take out of the spec what a fault is about, and say what that was; None: it is about nothing in the spec."""
    steps = [found.group(1) or found.group() for found in _STEP.finditer(field)]
    if not steps or steps[0] != "spec":
        return None
    spec = obj.get("spec")
    if not isinstance(spec, dict) or len(steps) == 1:
        obj["spec"] = {}
        return "spec" if spec != {} else None
    part = spec.get(steps[1])
    index = int(steps[2]) if len(steps) > 2 and steps[2].isdigit() else -1
    if not isinstance(part, list) or not 0 <= index < len(part):
        return None if spec.pop(steps[1], None) is None else f"spec.{steps[1]}"
    if steps[1] == "queues" and len(steps) > 3 and steps[3] != "name" and isinstance(part[index], dict):
        return _without_field(part[index], index, steps[3])
    name = part[index].get("name", index) if isinstance(part[index], dict) else index
    del part[index]
    return f"spec.{steps[1]}[{name}]"


def _without_field(queue: dict[str, Any], index: int, field: str) -> str:
    """Take a field out of a queue, which starts nothing from now on: it could be its limit."""
    queue.pop(field, None)
    queue["hold"] = "Hold"
    return f"spec.queues[{queue.get('name', index)}].{field}"
