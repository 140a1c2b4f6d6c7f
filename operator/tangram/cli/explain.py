"""``tangram explain``: why something waits, and what would let it start."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.api.names import GROUP
from tangram.cli.output import Answer, Form, emit, for_programs, form_option
from tangram.cli.own_status import is_at_rest, reported_json, show_reported, show_workload, workload_json
from tangram.cli.pending import show_pending
from tangram.cli.reading import namespace_options
from tangram.cli.worlds import (
    find_namespace,
    find_pods,
    find_stalled,
    find_workload,
    gpus,
    one_name,
    policy_json,
    read_reported,
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
    from tangram.snapshot.recording import Recording, Stalled, Workload

_REFUSED = "CreateRefused"
"""The controller's reason where the API server does not let it create pods."""
_LOOKED_AT = 4
"""Pods of a workload that are asked about until one is found that really has to wait."""
_SHOWN_NODES = 4
"""Names of nodes beside a change."""


@click.command()
@click.argument("words", metavar="[[KIND/]NAME]", nargs=-1)
@namespace_options
@form_option
@click.option("--no-estimate", is_flag=True, help="Do not estimate when it starts (the slowest part on big clusters).")
@world_options
def explain(
    words: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    output: Form,
    no_estimate: bool,
    file: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
) -> None:
    """Explain why a pod, TrainingJob or other workload is pending, and the smallest change that helps.

    Without a name, all workloads that are pending in the namespace, or with -A in all of them, one line each with the
    reason.

    Nothing is written to the cluster. Every proposed change has been tried with the scheduler's own code on a copy of
    the cluster state. A TrainingJob or InferenceService that has no pods is explained by its own status. Who may not
    read the pods of all namespaces gets what the controller and the scheduler have reported.
    """
    from tangram.errors import ClusterError
    from tangram.questions.pending import pending, pending_as_reported

    name = one_name(words)
    try:
        recorded, own = read_world(file, kubeconfig, context, scheduler_name)
    except ClusterError as error:
        if error.status != 403 or all_namespaces:
            raise
        click.echo(f"Note: {error}. This is what has been reported; nothing was worked out.", err=True)
        recorded, own = read_reported(kubeconfig, context, namespace, scheduler_name)
        if name is None:
            show_pending(pending_as_reported(recorded, own), recorded.now, output, own)
            return
        emit(output, _reported(_subject(recorded, name, own)))
        return
    if name is None:
        where = "" if all_namespaces else namespace or own
        show_pending(pending(recorded, where, registry()), recorded.now, output, where)
        return
    subject = _subject(recorded, name, find_namespace(recorded, name) if all_namespaces else namespace or own)
    if subject.is_only_status:
        emit(output, _by_status(subject))
        return
    found = explanation(recorded, subject.pods)
    if subject.stalled is not None and subject.stalled.reason == _REFUSED:
        found = without_smaller_gang(found)
    start = None if no_estimate or not _is_open(found) else start_of(recorded, found)
    emit(output, _worked_out(recorded, subject, found, start))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is asked about."""

    pods: "list[Pod]"
    stalled: "Stalled | None"
    """What keeps it from having all its pods: some may be refused, and then none may be there."""
    workload: "Workload | None"
    """Its own status; None of pods, and of what others make pods for."""

    @property
    def is_only_status(self) -> bool:
        """Whether its own status is the answer: no pod of it waits for a node."""
        at_rest = self.workload is not None and is_at_rest(self.workload)
        return not self.pods or (at_rest and not any(_waits(pod) for pod in self.pods))

    @property
    def names(self) -> list[str]:
        """For ``-o name``."""
        one = self.workload or (None if self.pods else self.stalled)
        if one is not None:
            return [f"{one.kind.lower()}.{GROUP}/{one.name}"]
        return [f"pod/{pod.metadata.name}" for pod in self.pods]


def _waits(pod: "Pod") -> bool:
    return not pod.spec.node_name and not pod.metadata.deletion_timestamp


def _subject(recorded: "Recording", name: str, namespace: str) -> _Subject:
    """What is meant in the namespace. Raises InvalidInput, Missing."""
    from tangram.errors import Missing

    workload = find_workload(recorded, name, namespace)
    try:
        pods = find_pods(recorded, name, namespace)
    except Missing:
        stalled = find_stalled(recorded, name, namespace)
        if stalled is None and workload is None:
            raise
        return _Subject([], stalled, workload)
    if any(pod.metadata.name == name.rpartition("/")[2] for pod in pods):
        workload = None  # a pod is meant
    return _Subject(pods, find_stalled(recorded, name, namespace, pods), workload)


def _by_status(subject: _Subject) -> Answer:
    from tangram.questions.edits import counted

    stalled, workload, pods = subject.stalled, subject.workload, len(subject.pods)

    def show_it(_wide: bool) -> None:
        if stalled is not None and (workload is None or not is_at_rest(workload)):
            show_stalled(stalled)
        elif workload is not None:
            show_workload(workload)
        click.echo(f"  {counted(pods, 'pod')} left" if pods else "  it has no pods")

    if stalled is not None:
        plain: dict[str, Any] = {"state": "stalled", "stalled": stalled_json(stalled), "pods": pods}
    else:
        assert workload is not None
        plain = workload_json(workload, pods)
    return Answer(subject.names, lambda: plain, show_it)


def _reported(subject: _Subject) -> Answer:
    def show_it(_wide: bool) -> None:
        if subject.stalled is not None:
            show_stalled(subject.stalled)
        elif subject.workload is not None:
            show_workload(subject.workload)
        show_reported(subject.pods)

    plain = reported_json(subject.workload, subject.stalled, subject.pods)
    return Answer(subject.names, lambda: plain, show_it)


def _worked_out(recorded: "Recording", subject: _Subject, found: "Explanation", start: "Estimate | None") -> Answer:
    stalled, workload, pods = subject.stalled, subject.workload, subject.pods

    def plain() -> dict[str, Any]:
        more = {"stalled": stalled_json(stalled), "settings": settings_json(recorded), "policy": policy_json(recorded)}
        return as_json(found, start, pods) | {"workload": for_programs(workload)} | more

    def show_it(wide: bool) -> None:
        if stalled is not None:
            show_stalled(stalled)
            click.echo()
        elif workload is not None and found.state != "waits":
            show_workload(workload)  # it has its places: what is wrong with it, if anything is, its own status says
            click.echo()
        show(found, start, pods, recorded.now, wide)
        show_settings(recorded)

    return Answer(subject.names, plain, show_it)


def show_stalled(stalled: "Stalled") -> None:
    """Why a workload has not all its pods, for a person."""
    click.echo(f"{stalled.kind.lower()} {stalled.namespace}/{stalled.name} is stalled: {stalled.reason}")
    click.echo(f"  {stalled.message or 'a file has no messages of conditions: see kubectl describe'}")


def stalled_json(stalled: "Stalled | None") -> dict[str, Any] | None:
    """The same for programs."""
    return None if stalled is None else for_programs(stalled)


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
    plain: dict[str, Any] = for_programs(found)
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
    plain["start"] = None if start is None else for_programs(start)
    plain["pods"] = len(pods)
    return plain


def show(found: "Explanation", start: "Estimate | None", pods: "list[Pod]", now: int, wide: bool = False) -> None:
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
    show_proposals(found, wide)
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


def show_proposals(found: "Explanation", wide: bool = False) -> None:
    """The changes that help; ``wide``: with all nodes."""
    if not found.proposals:
        if found.reason not in _NOT_BY_OTHERS or found.reason == "ExceedsNodeCapacity":
            click.echo(f"\nNone of the changes that were tried helps by itself ({found.tried} were tried).")
        return
    click.echo("\nChanges that would let it start, the smallest first (each was tried with the scheduler's own code):")
    for number, one in enumerate(found.proposals, 1):
        nodes = sorted({place.node for place in one.places})
        most = len(nodes) if wide else _SHOWN_NODES
        where = ", ".join(nodes[:most]) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")
        click.echo(f"  {number}. {one.change.text}  -> {where}")
