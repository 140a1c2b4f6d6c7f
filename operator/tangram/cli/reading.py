"""How the verbs that read single kinds of a cluster reach it, and what they say when it has not got them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tangram.cli.options import Command

if TYPE_CHECKING:
    from tangram.cluster.kubeconfig import Access
    from tangram.cluster.paths import Resource
    from tangram.cluster.rest import Client
    from tangram.scheduler.silence import PublishedLease

T = TypeVar("T")
Object = dict[str, Any]


def namespace_options(command: Command) -> Command:
    """Which namespaces are meant, as ``namespace`` and ``all_namespaces``."""
    one = click.option("-n", "--namespace", help="[default: the kubeconfig's]")
    every = click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces.")
    return one(every(command))


def ask(kubeconfig: Path | None, context: str | None, question: "Callable[[Client, Access], Awaitable[T]]") -> T:
    """Put a question to the cluster that the options name. Raises TangramError."""
    from tangram.cluster.kubeconfig import load_access
    from tangram.cluster.rest import ONCE, Client

    async def asked() -> T:
        access = load_access(kubeconfig, context)
        async with Client(access, user_agent="tangram-cli") as client:
            await client.request("GET", "/version", sending=ONCE)  # an unreachable server is one clear line, at once
            return await question(client, access)

    return asyncio.run(asked())


async def listed(client: "Client", resource: "Resource", namespace: str = "", **selectors: str) -> list[Object]:
    """All objects of a kind. Raises Missing where the kind is not installed, ClusterError where it may not be read."""
    from tangram import errors
    from tangram.cluster import objects

    try:
        return await objects.list_objects(client, resource, namespace, **selectors)
    except errors.NotFound:
        raise errors.Missing(
            f"the cluster has no {resource.plural}.{resource.group}: the CustomResourceDefinitions of tangram are not "
            "installed (`tangram crds` prints them)"
        ) from None


async def as_far_as_allowed(answer: Awaitable[T]) -> T | None:
    """The answer of the API server; None where the kind is not installed, or may not be read."""
    from tangram import errors

    try:
        return await answer
    except errors.ClusterError as error:
        if error.status in (403, 404):
            return None
        raise


async def published_leases(client: "Client") -> "list[PublishedLease]":
    """The Leases on which schedulers publish what they decide by; none where they may not be read."""
    from tangram.cluster import objects, paths
    from tangram.scheduler.silence import PublishedLease

    return await as_far_as_allowed(objects.list_as(client, paths.LEASES.collection(), PublishedLease)) or []


def full_name(resource: "Resource", name: str) -> str:
    """``trainingjob.GROUP/train``, as kubectl writes it."""
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}/{name}" if resource.group else f"{kind}/{name}"


def item_list(items: list[Object]) -> Object:
    """Objects as kubectl prints several of them."""
    return {"apiVersion": "v1", "kind": "List", "items": items}
