"""What can be read of a HybridPolicy that cannot be read as a whole.

Only a definition that is newer than the process, or one that was changed by hand, lets such a policy be stored: after a
rollback, say. Without a last good version in memory the choice is between no rules at all, which takes guarantees and
limits from everybody, and what is understood. What is not understood does not become looser by that: a queue of which
a field is lost starts nothing (``hold``), a class is gone whose selector is lost, and nobody who runs is evicted for a
queue or a class: queues have no guarantees, not even those that are understood, for whom they would take from may have
been protected by what is lost.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from tangram.api.policy import HybridPolicy, parse_policy
from tangram.api.queue import MOST_QUEUES
from tangram.errors import InvalidInput

_STEP = re.compile(r"\w+|\[(\d+)\]")
_MOST = 64
"""Faults that are looked past one by one; beyond that no queue is understood."""
_DEFAULT = "default"
"""The queue that is there whether it is listed or not."""
_STARTS_NOTHING = [{"name": _DEFAULT, "hold": "Hold"}]
_FOR_EVER = "999999d"


def read_what_can_be(obj: Mapping[str, Any]) -> tuple[HybridPolicy, tuple[str, ...]]:
    """The policy without what cannot be read of its spec, and the paths of that; none where all can be read.

    Raises InvalidInput where what is wrong is not in the spec.
    """
    left, lost = copy.deepcopy(dict(obj)), list[str]()
    for _ in range(_MOST):
        try:
            return parse_policy(_without_rights(left) if lost else left), tuple(lost)
        except InvalidInput as error:
            path = _without(left, error.field)
            if path is None:
                raise
            lost.append(path)
    return parse_policy(_without_rights(left | {"spec": {"queues": _STARTS_NOTHING}})), (*lost, "spec.queues")


def _without_rights(obj: dict[str, Any]) -> dict[str, Any]:
    """The policy by which nobody who runs is evicted: whom the lost parts would protect is not known."""
    spec = dict(obj["spec"])
    queues = spec.get("queues") or []
    if isinstance(queues, list):
        safe = {"reclaimable": False, "minRuntime": _FOR_EVER, "guarantee": {}}
        found = [one | safe if isinstance(one, dict) else one for one in queues]
        if (
            not any(isinstance(one, dict) and one.get("name") == _DEFAULT for one in queues)
            and len(found) < MOST_QUEUES
        ):
            found.append({"name": _DEFAULT, **safe})
        spec["queues"] = found
    if spec.get("fallbackStrategy") == "preempt":
        spec["fallbackStrategy"] = "best-effort"
    return obj | {"spec": spec}


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
        return _without_all(spec, steps[1])
    item = part[index]
    if len(steps) > 3 and isinstance(item, dict) and _can_lose(steps[1], steps[3]):
        item.pop(steps[3], None)
        if steps[1] == "queues":  # it could be its limit
            item["hold"] = "Hold"
        return f"spec.{steps[1]}[{item.get('name', index)}].{steps[3]}"
    name = item.get("name", index) if isinstance(item, dict) else index
    del part[index]
    return f"spec.{steps[1]}[{name}]"


def _can_lose(field: str, part: str) -> bool:
    """Whether an item of a list is still what it was, or can be made stricter, without a part of it."""
    return part != "name" and (field == "queues" or (field == "priorityClasses" and part != "namespaceSelector"))


def _without_all(spec: dict[str, Any], field: str) -> str | None:
    """Take a whole field out of the spec; without its queues nothing is started."""
    if field not in spec or (field == "queues" and spec[field] is _STARTS_NOTHING):
        return None
    if field == "queues":
        spec[field] = _STARTS_NOTHING
    else:
        del spec[field]
    return f"spec.{field}"
