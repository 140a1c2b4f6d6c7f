"""Our own objects as their watch has shown them last, and what may be decided from such a copy.

The rules of this file:

- A copy may be late. It is never older than what this process itself has read or written of the object, as far as it
  knows: its own writes are answered with the whole object, which is the next copy. Who does not know how a write ended
  forgets the copy, and then the object is read.
- From a copy follows what hurts nobody when it is late: that there is nothing to do, or a status that is written
  against the copy's version, which the server refuses when it is not the last one; what stands behind that status in
  a list of actions is not done then. Whatever else is to be created, patched or deleted is decided from the object as
  the server has it now.
- Versions of objects are numbers that grow. Of a server whose versions are none there are no copies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tangram.cluster.mirror import number_of
from tangram.cluster.paths import Resource
from tangram.controllers.actions import Action, Create, Delete, Patch, SetStatus

Key = tuple[str, str]
"""(namespace, name)."""
Object = dict[str, Any]

_EFFECTS = Create | Delete | Patch


class Copies:
    """The copies, by kind and name; as text, because thousands of them lie idle."""

    def __init__(self) -> None:
        self._known: dict[tuple[Resource, Key], tuple[int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def put(self, kind: Resource, key: Key, item: Mapping[str, Any]) -> None:
        """The object was so, at its version; nothing happens when a later one is known."""
        metadata = item.get("metadata") or {}
        version = number_of(str(metadata.get("resourceVersion", "")))
        if version and version > self._version(kind, key):
            kept = {name: value for name, value in metadata.items() if name != "managedFields"}  # half of the text
            self._known[kind, key] = version, msgspec.json.encode({**item, "metadata": kept})

    def gone(self, kind: Resource, key: Key, item: Mapping[str, Any]) -> None:
        """The object was deleted at its version."""
        version = number_of(str((item.get("metadata") or {}).get("resourceVersion", "")))
        if not version or version >= self._version(kind, key):
            self.forget(kind, key)

    def forget(self, kind: Resource, key: Key) -> None:
        """Nothing is known of the object any more."""
        self._known.pop((kind, key), None)

    def get(self, kind: Resource, key: Key) -> Object | None:
        """The copy; None when there is none."""
        known = self._known.get((kind, key))
        return None if known is None else msgspec.json.decode(known[1])

    def _version(self, kind: Resource, key: Key) -> int:
        known = self._known.get((kind, key))
        return 0 if known is None else known[0]


def may_follow_from_a_copy(actions: Sequence[Action]) -> bool:
    """Whether these actions do no harm when the object that they were decided from was not the last one."""
    for action in actions:
        if isinstance(action, SetStatus):
            return bool(action.resource_version)
        if isinstance(action, _EFFECTS):
            return False
    return True
