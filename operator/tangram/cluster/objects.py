"""Reading and writing any kind of object, for controllers and commands; the scheduler's own writes are in ``writers``.

Reads raise ``tangram.errors``; writes return an ``Outcome``. Objects are plain dictionaries as on the wire.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from tangram import errors
from tangram.api.objects import Metadata
from tangram.cluster.outcome import Outcome, outcome
from tangram.cluster.paths import Resource, resource_of
from tangram.cluster.rest import APPLY_PATCH, COMPRESSED, JSON_PATCH, MERGE_PATCH, Client, Sending
from tangram.cluster.wire import DECODE_ERRORS, Page, read_identity

FIELD_MANAGER = "tangram"

_PAGE_SIZE = "500"
_PAGE = msgspec.json.Decoder(Page[msgspec.Raw])
_EVERYTHING: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")
Object = dict[str, Any]


def resource_for(manifest: Mapping[str, Any]) -> Resource:
    """The resource that a manifest belongs to. Raises InvalidInput for a kind that tangram does not know."""
    return resource_of(str(manifest.get("apiVersion", "")), str(manifest.get("kind", "")))


async def get(client: Client, resource: Resource, name: str, namespace: str = "") -> Object | None:
    """One object, or None when it does not exist."""
    return await get_as(client, resource, name, namespace, kind=Object)


async def get_as(client: Client, resource: Resource, name: str, namespace: str = "", *, kind: type[T]) -> T | None:
    """One object decoded as ``kind`` (a msgspec struct), or None when it does not exist."""
    try:
        return msgspec.json.decode(await client.request("GET", resource.path(name, namespace)), type=kind)
    except errors.NotFound:
        return None


async def list_objects(
    client: Client,
    resource: Resource,
    namespace: str = "",
    *,
    label_selector: str = "",
    field_selector: str = "",
) -> list[Object]:
    """All objects of a collection, read in pages. Raises Gone when it changed too much while the pages were read."""
    selectors = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": _PAGE_SIZE}
    params = {name: text for name, text in selectors.items() if text}
    found: list[Object] = []
    while True:
        body = await client.request("GET", resource.collection(namespace), params=params, sending=COMPRESSED)
        page = msgspec.json.decode(body)
        found.extend(page.get("items") or ())
        token = page.get("metadata", {}).get("continue")
        if not token:
            return found
        params["continue"] = token


async def list_as(
    client: Client,
    path: str,
    kind: type[T],
    selectors: Mapping[str, str] = _EVERYTHING,
    on_odd: Callable[[msgspec.Raw, Metadata], None] | None = None,
) -> list[T]:
    """All objects of the collection at ``path`` that the selectors name, decoded as ``kind`` (a msgspec struct); those
    that cannot be go to ``on_odd`` and are else left out. Raises ClusterError."""
    params = {"limit": _PAGE_SIZE} | dict(selectors)
    decoder, found = msgspec.json.Decoder(kind), list[T]()
    while True:
        body = await client.request("GET", path, params=params, sending=COMPRESSED)
        page = _PAGE.decode(body)
        for raw in page.items or ():
            try:
                found.append(decoder.decode(raw))
            except DECODE_ERRORS:
                metadata = read_identity(raw)
                if on_odd is not None and metadata is not None:
                    on_odd(raw, metadata)
        if not page.metadata.continue_token:
            return found
        params["continue"] = page.metadata.continue_token


async def create(client: Client, manifest: Object, *, strict: bool = False) -> Outcome:
    """Create the object; ``conflict`` when the name is taken. The outcome has the server's warnings about it.

    ``strict``: a field that the server does not know is ``refused``; by default it is dropped with a warning.

    With a fixed name the request is repeated when its answer is lost, so ``conflict`` may also mean that an earlier
    attempt of this very call worked: compare before blaming somebody else.
    """
    metadata = manifest.get("metadata", {})
    path = resource_for(manifest).collection(metadata.get("namespace", ""))
    params = {"fieldManager": FIELD_MANAGER} | ({"fieldValidation": "Strict"} if strict else {})
    warnings: list[str] = []
    sending = Sending(guarded=bool(metadata.get("name")), on_warning=warnings.append)
    body = msgspec.json.encode(manifest)
    ended = await outcome(client.request("POST", path, body=body, params=params, sending=sending))
    return dataclasses.replace(ended, warnings=tuple(dict.fromkeys(warnings)))  # an attempt may be repeated


async def replace(client: Client, manifest: Object, *, subresource: str = "") -> Outcome:
    """Write the whole object; its ``metadata.resourceVersion``, where given, is a precondition (``conflict``)."""
    body = msgspec.json.encode(manifest)
    path = _path_of(manifest, subresource)
    return await outcome(client.request("PUT", path, body=body, params={"fieldManager": FIELD_MANAGER}))


async def apply(
    client: Client, manifest: Object, *, force: bool = True, manager: str = FIELD_MANAGER, subresource: str = ""
) -> Outcome:
    """Server-side apply: the fields of the manifest become true and ours; those we named before and no longer do go.

    ``force`` takes fields over from other managers; without it a field of theirs is a ``conflict``.
    """
    params = {"fieldManager": manager, "force": "true" if force else "false"}
    body = msgspec.json.encode(manifest)
    path = _path_of(manifest, subresource)
    request = client.request("PATCH", path, body=body, params=params, sending=Sending(APPLY_PATCH, guarded=True))
    return await outcome(request)


async def patch(client: Client, path: str, content: Object | list[Object]) -> Outcome:
    """Patch the object, or subresource, at ``path``: a dictionary is a merge patch, a list is a JSON patch."""
    merge = isinstance(content, dict)
    request = client.request(
        "PATCH",
        path,
        body=msgspec.json.encode(content),
        sending=Sending(MERGE_PATCH if merge else JSON_PATCH, guarded=merge),
        params={"fieldManager": FIELD_MANAGER},  # a JSON patch may add to a list: done twice it would be there twice
    )
    return await outcome(request)


async def delete(
    client: Client, path: str, *, uid: str = "", resource_version: str = "", grace_seconds: int | None = None
) -> Outcome:
    """Delete the object at ``path``, and in the background what it owns.

    ``gone`` when it does not exist, ``conflict`` when the one there has another ``uid`` or ``resource_version``.
    """
    options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    conditions = {"uid": uid, "resourceVersion": resource_version}
    if uid or resource_version:
        options["preconditions"] = {key: value for key, value in conditions.items() if value}
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    # Without a uid a late repetition could delete what somebody has created in the meantime.
    return await outcome(
        client.request("DELETE", path, body=msgspec.json.encode(options), sending=Sending(guarded=bool(uid)))
    )


def _path_of(manifest: Object, subresource: str) -> str:
    metadata = manifest.get("metadata", {})
    return resource_for(manifest).path(metadata.get("name", ""), metadata.get("namespace", ""), subresource)
