"""Our own objects as their watch has shown them last, and what may be decided from such a copy.

The rules of this file:

- A copy may be late. It is never older than what this process itself has read or written of the object, as far as it
  knows: its own writes are answered with the whole object, which is the next copy. Who does not know how a write ended
  forgets the copy, and then the object is read.
- From a copy follows what hurts nobody when it is late: that there is nothing to do, or a status that is written
  against the copy's version, which the server refuses when it is not the last one; what stands behind that status in
  a list of actions is not done then. Whatever else is to be created, patched or deleted is decided from the object as
  the server has it now.
- Pods are created and deleted by what the server says of all of an owner's pods: the process that led before may have
  made some that our watch does not show yet.
- Versions of objects are numbers that grow, as long as the server's storage is not restored from a backup. Of a server
  whose versions are none there are no copies.
- Invalidation: what is shown below the copy's version, or at it with another uid, is either late or of a storage that
  was restored from a backup, which nobody can tell here: the copy is not used any more, and the object is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tangram.cluster.mirror import number_of
from tangram.cluster.paths import PODS, Resource
from tangram.controllers.actions import Action, Create, Delete, Patch, SetStatus

Key = tuple[str, str]
"""(namespace, name)."""
Object = dict[str, Any]

_EFFECTS = Create | Delete | Patch


class _Copy(NamedTuple):
    version: int
    uid: str
    text: bytes | None
    """None: in doubt. The version stays, so that nothing older takes its place before the object has been read."""


class Copies:
    """The copies, by kind and name; as text, because thousands of them lie idle."""

    def __init__(self) -> None:
        self._known: dict[tuple[Resource, Key], _Copy] = {}

    def __len__(self) -> int:
        return len(self._known)

    def put(self, kind: Resource, key: Key, item: Mapping[str, Any]) -> None:
        """The object was so, at its version. Shown below the version that is known, it puts the copy in doubt."""
        metadata = item.get("metadata") or {}
        version, uid = number_of(str(metadata.get("resourceVersion", ""))), str(metadata.get("uid", ""))
        known = self._known.get((kind, key))
        if not version:
            return
        if known is None or version > known.version:
            kept = {name: value for name, value in metadata.items() if name != "managedFields"}  # half of the text
            self._known[kind, key] = _Copy(version, uid, msgspec.json.encode({**item, "metadata": kept}))
        elif version < known.version or uid != known.uid:
            self._known[kind, key] = known._replace(text=None)

    def gone(self, kind: Resource, key: Key, item: Mapping[str, Any]) -> None:
        """The object was deleted at its version. One below the version that is known puts the copy in doubt."""
        version = number_of(str((item.get("metadata") or {}).get("resourceVersion", "")))
        known = self._known.get((kind, key))
        if known is None:
            return
        if version and version < known.version:
            self._known[kind, key] = known._replace(text=None)
        else:
            self.forget(kind, key)

    def forget(self, kind: Resource, key: Key) -> None:
        """Nothing is known of the object any more."""
        self._known.pop((kind, key), None)

    def is_same_spec(self, kind: Resource, key: Key, item: Mapping[str, Any]) -> bool:
        """Whether the object differs from its copy in the status at most. Without a copy that is not known."""
        copy = self.get(kind, key)
        return copy is not None and _written(copy) == _written(item)

    def get(self, kind: Resource, key: Key) -> Object | None:
        """The copy; None when there is none, or it is in doubt: then the object is to be read."""
        known = self._known.get((kind, key))
        return None if known is None or known.text is None else msgspec.json.decode(known.text)


def _written(item: Mapping[str, Any]) -> list[object]:
    """What others write of an object: the generation counts the changes of its spec."""
    metadata = item.get("metadata") or {}
    return [metadata.get(name) for name in ("uid", "generation", "labels", "annotations", "deletionTimestamp")]


def touches_pods(actions: Sequence[Action]) -> bool:
    """Whether pods are to be created or deleted: how many, and which, hangs on all of them, also on those that a late
    copy does not show."""
    return any(
        (isinstance(action, Create) and action.kind == PODS.kind)
        or (isinstance(action, Delete) and action.ref.resource is PODS)
        for action in actions
    )


def may_follow_from_a_copy(actions: Sequence[Action]) -> bool:
    """Whether these actions do no harm when the object that they were decided from was not the last one."""
    for action in actions:
        if isinstance(action, SetStatus):
            return bool(action.resource_version)
        if isinstance(action, _EFFECTS):
            return False
    return True
