"""The shapes of watch streams and lists on the wire, and reading them when something in them is broken."""

from typing import Generic, TypeVar

import msgspec

from tangram.api.objects import Metadata

T = TypeVar("T")

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Event(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One line of a watch, its object read as ``T``."""

    type: str
    object: T


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch, its object left as text: bookmarks, errors, and objects that ``T`` cannot hold."""

    type: str
    object: msgspec.Raw


class ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """Metadata of a list or of a bookmark."""

    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")
    annotations: dict[str, str] = {}


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list."""

    metadata: ListMetadata
    items: list[T] | None = None
    """None is how Go writes an empty list at times."""


class Bookmark(msgspec.Struct, frozen=True):
    """The object of a bookmark: nothing but a version."""

    metadata: ListMetadata = ListMetadata()


class Identity(msgspec.Struct, frozen=True):
    """The least that says which object something is about."""

    metadata: Metadata


class _BareMetadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _BareIdentity(msgspec.Struct, frozen=True):
    metadata: _BareMetadata


_IDENTITY = msgspec.json.Decoder(Identity)
_BARE_IDENTITY = msgspec.json.Decoder(_BareIdentity)

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding raises: wrong shape or syntax, bytes that are not UTF-8, nesting deeper than the stack."""


def read_identity(raw: bytes | msgspec.Raw) -> Metadata | None:
    """As much of an object's metadata as can be read; None when not even the name can."""
    try:
        return _IDENTITY.decode(raw).metadata
    except DECODE_ERRORS:
        pass
    try:
        bare = _BARE_IDENTITY.decode(raw).metadata
    except DECODE_ERRORS:
        return None
    return Metadata(name=bare.name, namespace=bare.namespace, uid=bare.uid, resource_version=bare.resource_version)


class Lines:
    """Cuts pieces of a stream into lines of any length; an unfinished last line stays until it is finished."""

    def __init__(self) -> None:
        self._unfinished: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Add a piece and return the lines that it finishes, without their line ends."""
        head, newline, rest = piece.partition(b"\n")
        if not newline:
            self._unfinished.append(piece)
            return []
        # Joining only when a line ends keeps huge lines linear in their length.
        self._unfinished.append(head)
        lines = [b"".join(self._unfinished), *rest.split(b"\n")]
        last = lines.pop() if len(lines) > 1 else b""
        self._unfinished = [last] if last else []
        return [line for line in lines if line]
