"""``tangram top``: who holds the GPUs, and how busy they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.cli.options import cluster_options
from tangram.cli.output import Answer, Form, emit, for_programs, form_option
from tangram.cli.reading import namespace_options

if TYPE_CHECKING:
    from tangram.cluster.kubeconfig import Access
    from tangram.cluster.rest import Client
    from tangram.questions.gpu_use import NodeUse, WorkloadUse

_MOST_NODES = 3
"""Names of nodes in a row."""


@click.command()
@click.argument("what", type=click.Choice(["nodes", "workloads"]), default="nodes", metavar="[nodes|workloads]")
@namespace_options
@form_option
@cluster_options
def top(
    what: str,
    namespace: str | None,
    all_namespaces: bool,
    output: Form,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Show the GPUs that nodes have given out, or that workloads hold, the most first.

    Numbers, utilization and memory are those that the node agents report (GPUNodes). Of nodes without an agent the
    number is what the kubelet offers, and what is given out what the scheduler has recorded on the pods.
    """
    from tangram.cli.reading import ask

    if what == "nodes":
        nodes = ask(kubeconfig, context, lambda client, _: _read_nodes(client))
        names = [f"node/{one.name}" for one in nodes]
        emit(output, Answer(names, lambda: nodes_json(nodes), lambda wide: show_nodes(nodes, wide)))
        return
    found = ask(kubeconfig, context, lambda client, access: _read_workloads(client, access, namespace, all_namespaces))
    if not found and output.is_table:
        click.echo("No workload holds a GPU.", err=True)
        return
    names = [f"{one.kind}/{one.name}" for one in found]
    emit(output, Answer(names, lambda: workloads_json(found), lambda wide: show_workloads(found, all_namespaces, wide)))


async def _read_nodes(client: "Client") -> "list[NodeUse]":
    from tangram.api.objects import Node, Pod
    from tangram.cli.reading import as_far_as_allowed
    from tangram.cluster import objects, paths
    from tangram.questions.gpu_use import GpuNode, node_uses

    nodes = await objects.list_as(client, paths.NODES.collection(), Node)
    reported = await as_far_as_allowed(objects.list_as(client, paths.GPU_NODES.collection(), GpuNode))
    return node_uses(
        nodes, reported or (), await as_far_as_allowed(objects.list_as(client, paths.PODS.collection(), Pod))
    )


async def _read_workloads(
    client: "Client", access: "Access", namespace: str | None, all_namespaces: bool
) -> "list[WorkloadUse]":
    from tangram.api.objects import Namespace, Pod
    from tangram.cli.reading import as_far_as_allowed
    from tangram.cluster import objects, paths
    from tangram.questions.gpu_use import GpuNode, workload_uses

    where = "" if all_namespaces else namespace or access.namespace
    pods = await objects.list_as(client, paths.PODS.collection(where), Pod)
    reported = await as_far_as_allowed(objects.list_as(client, paths.GPU_NODES.collection(), GpuNode))
    asked = {"fieldSelector": f"metadata.name={where}"} if where else {}
    known = await as_far_as_allowed(objects.list_as(client, paths.NAMESPACES.collection(), Namespace, asked))
    return workload_uses(pods, reported or (), known or ())


def nodes_json(nodes: "list[NodeUse]") -> dict[str, Any]:
    """The nodes for programs; amounts of GPU are in milli-GPU."""
    return {"items": [for_programs(one) for one in nodes]}


def workloads_json(found: "list[WorkloadUse]") -> dict[str, Any]:
    """The same of workloads."""
    return {"items": [for_programs(one) for one in found]}


def show_nodes(nodes: "list[NodeUse]", wide: bool) -> None:
    """A row for each node."""
    from tangram.cli.worlds import gpus, table

    head = (
        "NODE",
        "MODEL",
        "GPUS",
        "ALLOCATED",
        "ALLOCATED%",
        "UTILIZATION",
        "HEALTH",
        *(("PODS", "MEMORY") if wide else ()),
    )
    rows = []
    for one in nodes:
        allocated = one.allocated_milli
        part = None if allocated is None or not one.gpus else allocated / (10 * one.gpus)
        memory = None if one.memory_used_mib is None else f"{_gib(one.memory_used_mib)}/{_gib(one.memory_mib or 0)}"
        cells = (
            one.name,
            one.model or "-",
            str(one.gpus),
            "-" if allocated is None else gpus(allocated),
            _percent(part),
            _percent(one.utilization_percent),
            one.health or "-",
        )
        rows.append((*cells, "-" if one.pods is None else str(one.pods), memory or "-") if wide else cells)
    table(head, rows, most=len(rows))


def show_workloads(found: "list[WorkloadUse]", namespaces: bool, wide: bool) -> None:
    """A row for each workload."""
    from tangram.cli.worlds import gpus, table

    head = (*(("NAMESPACE",) if namespaces else ()), "WORKLOAD", "QUEUE", "GPUS", "PODS", "UTILIZATION", "NODES")
    rows = []
    for one in found:
        nodes = one.nodes if wide else one.nodes[:_MOST_NODES]
        more = f" and {len(one.nodes) - len(nodes)} more" if len(nodes) < len(one.nodes) else ""
        cells = (
            f"{one.kind}/{one.name}",
            one.queue,
            gpus(one.gpu_milli),
            str(one.pods),
            _percent(one.utilization_percent),
            ", ".join(nodes) + more,
        )
        rows.append((one.namespace, *cells) if namespaces else cells)
    table(head, rows, most=len(rows))


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.0f}%"


def _gib(mib: int) -> str:
    return f"{mib / 1024:.4g}Gi"
