"""``tangram explain``: why something waits, and what would let it start."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.cli.options import output_option
from tangram.cli.worlds import (
    find_pods,
    find_stalled,
    gpus,
    read_world,
    registry,
    settings_json,
    show_settings,
    span,
    start_text,
    table,
    world_options,
)

if TYPE_CHECKING:
    from tangram.api.objects import Pod
    from tangram.questions.estimate import Estimate
    from tangram.questions.explain import Explanation
    from tangram.snapshot.recording import Recording, Stalled

_REFUSED = "CreateRefused"
"""The controller's reason where the API server does not let it create pods."""
_LOOKED_AT = 4
"""Pods of a workload that are asked about until one is found that really has to wait."""


@click.command()
@click.argument("name", metavar="[KIND/]NAME")
@click.option("-n", "--namespace", help="[default: the kubeconfig's]")
@output_option
@click.option("--no-estimate", is_flag=True, help="Do not estimate when it starts (the slowest part on big clusters).")
@world_options
def explain(
    name: str,
    namespace: str | None,
    output: str,
    no_estimate: bool,
    file: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
) -> None:
    """Explain why a pod, TrainingJob or other workload is pending, and the smallest change that helps.

    Nothing is written to the cluster. Every proposed change has been tried with the scheduler's own code on a copy of
    the cluster state.
    """
    recorded, own = read_world(file, kubeconfig, context, scheduler_name)
    pods, stalled = _asked_about(recorded, name, namespace or own)
    if not pods and stalled is not None:
        _show_stalled(stalled, output)
        return
    found = explanation(recorded, pods)
    if stalled is not None and stalled.reason == _REFUSED:
        found = without_smaller_gang(found)
    start = None if no_estimate or not _is_open(found) else start_of(recorded, found)
    if output == "json":
        import json

        more = {"stalled": stalled_json(stalled), "settings": settings_json(recorded)}
        click.echo(json.dumps(as_json(found, start, pods) | more, indent=2))
    else:
        if stalled is not None:
            show_stalled(stalled)
            click.echo()
        show(found, start, pods, recorded.now)
        show_settings(recorded)


def _asked_about(recorded: "Recording", name: str, namespace: str) -> "tuple[list[Pod], Stalled | None]":
    """The pods that are meant, and what keeps their TrainingJob or InferenceService from having all its pods: some may
    be refused, and then none may be there. Raises InvalidInput, Missing."""
    from tangram.errors import Missing

    try:
        pods = find_pods(recorded, name, namespace)
    except Missing:
        stalled = find_stalled(recorded, name, namespace)
        if stalled is None:
            raise
        return [], stalled
    return pods, find_stalled(recorded, name, namespace, pods)


def _show_stalled(stalled: "Stalled", output: str) -> None:
    if output == "json":
        import json

        click.echo(json.dumps({"state": "stalled", "stalled": stalled_json(stalled), "pods": 0}, indent=2))
    else:
        show_stalled(stalled)
        click.echo("  it has no pods")


def show_stalled(stalled: "Stalled") -> None:
    """Why a workload has not all its pods, for a person."""
    click.echo(f"{stalled.kind.lower()} {stalled.namespace}/{stalled.name} is stalled: {stalled.reason}")
    click.echo(f"  {stalled.message or 'a file has no messages of conditions: see kubectl describe'}")


def stalled_json(stalled: "Stalled | None") -> dict[str, Any] | None:
    """The same for programs."""
    import msgspec

    return None if stalled is None else msgspec.to_builtins(stalled)


def explanation(recorded: "Recording", pods: "list[Pod]") -> "Explanation":
    """The explanation of the first of the pods that waits; of the first one when none does."""
    from tangram.questions.explain import explain as ask

    waiting = [pod for pod in pods if not pod.spec.node_name and not pod.metadata.deletion_timestamp]
    found = ask(recorded, (waiting or pods)[0], registry())
    for pod in waiting[1:_LOOKED_AT]:
        if found.state == "waits":
            break
        found = ask(recorded, pod, registry())
    return found


def without_smaller_gang(found: "Explanation") -> "Explanation":
    """The explanation of a pod whose gang is small because the API server refuses the others: the refusal is what to
    mend, and a gang that starts without them would hide it."""
    from dataclasses import replace

    return replace(found, proposals=tuple(one for one in found.proposals if one.change.kind != "fewer-members"))


def _is_open(found: "Explanation") -> bool:
    """Whether time may let the pod start, and a decision that knows what the scheduler knows can say when."""
    return found.state == "waits" and found.examined and not found.otherwise and not _closed(found)


def _closed(found: "Explanation") -> str:
    """When it starts, where the end of other pods does not change that; empty: it may."""
    late = "never (on this cluster it does not fit even if all other pods are gone)" if found.never else ""
    return _NOT_BY_OTHERS.get(found.reason, late)


def start_of(recorded: "Recording", found: "Explanation") -> "Estimate":
    """When the explained pod starts."""
    from tangram.questions.estimate import estimate

    return estimate(recorded, {found.pod.uid}, registry())


def as_json(found: "Explanation", start: "Estimate | None", pods: "list[Pod]") -> dict[str, Any]:
    """The explanation for programs; amounts of GPU are in milli-GPU, times in seconds."""
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(found)
    plain["pod"] = {"namespace": found.pod.namespace, "name": found.pod.name, "uid": found.pod.uid}
    plain["proposals"] = [
        {
            "kind": one.change.kind,
            "change": one.change.text,
            "cost": round(one.change.cost, 2),
            "evicts": [f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in one.change.removed],
            "places": [{"pod": str(place.pod), "node": place.node} for place in one.places],
        }
        for one in found.proposals
    ]
    plain["start"] = None if start is None else msgspec.to_builtins(start)
    plain["pods"] = len(pods)
    return plain


def show(found: "Explanation", start: "Estimate | None", pods: "list[Pod]", now: int) -> None:
    """The explanation for a person."""
    from tangram.questions.edits import counted

    placed = sum(1 for pod in pods if pod.spec.node_name)
    click.echo(f"pod {found.pod} {_VERBS[found.state]}: {found.reason}")
    click.echo(f"  {found.message}")
    if found.otherwise:
        click.echo(f"  apart from that: {found.otherwise}")
    for one in (*found.notes, *found.budgets):
        click.echo(f"  Warning: {one}")
    if len(pods) > 1:
        click.echo(f"  {placed}/{len(pods)} pods of the workload are scheduled")
    if found.state == "placed":
        click.echo()
        table(("POD", "NODE"), [(pod.metadata.name, pod.spec.node_name or "-") for pod in pods], "  ")
    if found.state != "waits" or not found.examined:
        return
    if found.members > 1:
        others = counted(found.members - 1, "other pending pod")
        click.echo(f"  it must start together with {others} of its gang")
    if found.priority_class:
        click.echo(f"  its priority class is {found.priority_class}")
    if found.losses:
        click.echo("\nNodes by the first filter that rejects them:")
        table(("NODES", "FILTER", "MEANING"), [(str(one.nodes), "-" if one.code == "Scheduled" else one.code,
                                                one.sentence) for one in found.losses], "  ")  # fmt: skip
    _show_queue(found)
    _show_holders(found, now)
    show_proposals(found)
    if start is not None or _closed(found):
        click.echo(f"\nStart: {start_text(start) if start is not None else _closed(found)}")


_NOT_BY_OTHERS = {
    "ExceedsNodeCapacity": "never on this cluster (exceeds the capacity of every node)",
    "InvalidRequest": "never (the request is invalid)",
    "FieldNotSupported": "never (it asks for something that tangram does not do)",
    "QueueUnknown": "not while its queue does not exist",
    "QueueNotAllowed": "not while its namespace may not use its queue",
    "ClassUnknown": "not while its class does not exist",
    "ClassNotAllowed": "not while its namespace may not use its class",
    "QueueHeld": "not while its queue is held",
    "VolumeNotReady": "not before its volumes are there, which does not depend on other pods",
    "GangIncomplete": "not before the missing members of its gang have been created",
    "GangTimeout": "not before the missing members of its gang have been created",
}
"""Reasons that the end of other pods does not change."""


_VERBS = {
    "waits": "is pending",
    "fits": "can be scheduled",
    "placed": "is scheduled",
    "gated": "is gated",
    "leaving": "is terminating",
    "foreign": "belongs to another scheduler",
}


def _show_queue(found: "Explanation") -> None:
    from tangram.questions.edits import counted

    ahead = found.ahead
    if ahead.waiting:
        click.echo(f"\nQueue position: {ahead.pods + 1} of {ahead.waiting}" + (
            f"; ahead of it are requests for {counted(ahead.gpu_milli / 1000, 'GPU')}: "
            + ", ".join(f"{counted(pods, 'pod')} of queue {queue} ({counted(milli / 1000, 'GPU')})"
                        for queue, pods, milli in ahead.by_queue)
            if ahead.pods else ""))  # fmt: skip
    if found.queues:
        click.echo("\nQueues and classes (* of the pod):")
        rows = [
            ("*" if one.own else " ", one.name, gpus(one.gpu_milli), f"{one.share_percent:g}%", str(one.weight),
             gpus(one.guarantee_milli) if one.guarantee_milli else "-",
             "-" if one.limit_milli is None else gpus(one.limit_milli), str(one.waiting))
            for one in found.queues
        ]  # fmt: skip
        table(("", "QUEUE", "GPUS", "SHARE", "WEIGHT", "GUARANTEE", "LIMIT", "PENDING"), rows, "  ")


def _show_holders(found: "Explanation", now: int) -> None:
    if not found.holders:
        return
    from tangram.questions.edits import counted

    wanted = _amount(found.lacking, found.held)
    click.echo(
        f"\nHolders of what it needs: {counted(found.holders_total, 'pod')}{f' with {wanted}' if wanted else ''}"
    )
    more = found.lacking not in ("gpu", "pods")  # GPUs are shown in any case
    rows = [
        (str(one.pod), one.node, *((_amount(found.lacking, one.amount),) if more else ()), gpus(one.gpu_milli),
         one.queue or "-", one.workload or "-", span(max(0, now - one.since)) if one.since else "next")
        for one in found.holders
    ]  # fmt: skip
    table(("POD", "NODE", *(("HOLDS",) if more else ()), "GPUS", "QUEUE", "WORKLOAD", "AGE"), rows, "  ")
    if found.holders_total > len(found.holders):
        click.echo(f"  and {found.holders_total - len(found.holders)} more")


def _amount(lacking: str, amount: int) -> str:
    from tangram.questions.holders import Lacking

    return Lacking(lacking).said(amount)


def show_proposals(found: "Explanation") -> None:
    """The changes that help."""
    if not found.proposals:
        if found.reason not in _NOT_BY_OTHERS or found.reason == "ExceedsNodeCapacity":
            click.echo(f"\nNone of the changes that were tried helps by itself ({found.tried} were tried).")
        return
    click.echo("\nChanges that would let it start, the smallest first (each was tried with the scheduler's own code):")
    for number, one in enumerate(found.proposals, 1):
        nodes = sorted({place.node for place in one.places})
        where = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        click.echo(f"  {number}. {one.change.text}  -> {where}")
