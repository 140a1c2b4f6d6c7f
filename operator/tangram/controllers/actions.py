"""What a reconcile asks for, as frozen values. Nothing here does anything: ``apply`` does, in the order given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tangram.cluster.paths import Resource, resource_of

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ref:
    """An object in the cluster; ``uid`` keeps one that was created again under the same name apart."""

    resource: Resource
    name: str
    namespace: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return (
            f"{self.resource.kind} {self.namespace}/{self.name}"
            if self.namespace
            else f"{self.resource.kind} {self.name}"
        )


@dataclass(frozen=True, slots=True)
class Create:
    """Create the object. That it exists already is success when it has the same controlling owner."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.manifest["metadata"]["name"])

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return str(self.manifest["kind"])

    @property
    def owner(self) -> Ref:
        """The object for which this one is made."""
        metadata = self.manifest["metadata"]
        owner = metadata["ownerReferences"][0]
        return Ref(resource_of(owner["apiVersion"], owner["kind"]), owner["name"], metadata["namespace"], owner["uid"])

    def __str__(self) -> str:
        return f"create {self.kind} {self.manifest['metadata'].get('namespace', '')}/{self.name}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this very object (its uid is a precondition); that it is gone already is success.

    ``resource_version`` is a further precondition: an object that has changed since it was judged is not deleted, but
    judged again.
    """

    ref: Ref
    reason: str = ""
    resource_version: str = ""

    def __str__(self) -> str:
        return f"delete {self.ref}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge ``content`` into the object."""

    ref: Ref
    content: Mapping[str, Any]

    def __str__(self) -> str:
        return f"patch {self.ref}"


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Merge ``change`` into the status; None removes a field.

    ``resource_version`` is a precondition: a status that was computed from an object that has changed since is not
    written, and what follows it in the list is not done.
    """

    ref: Ref
    change: Mapping[str, Any]
    resource_version: str = ""

    def __str__(self) -> str:
        return f"set status of {self.ref}: {', '.join(self.change)}"


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Record an Event about the object."""

    ref: Ref
    reason: str
    note: str
    warning: bool = False

    def __str__(self) -> str:
        return f"event on {self.ref}: {self.reason}: {self.note}"


@dataclass(frozen=True, slots=True)
class Requeue:
    """Reconcile again in so many seconds, whether anything has happened or not."""

    seconds: float

    def __str__(self) -> str:
        return f"requeue in {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the server itself before deciding: the decision hangs on something that is *not* there.

    A local copy may be a moment behind, and then what it lacks is not missing. The caller reads the objects afresh and
    reconciles again with ``fresh`` set.
    """

    def __str__(self) -> str:
        return "confirm what is missing"


Action = Create | Delete | Patch | SetStatus | RecordEvent | Requeue | Confirm
