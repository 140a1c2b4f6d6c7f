"""What a TrainingJob or InferenceService says of itself, where it has no pods that could be explained."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from tangram.cli.output import for_programs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tangram.api.objects import Pod
    from tangram.snapshot.recording import Stalled, Workload

_AT_REST = ("Suspended", "Complete", "Failed")
"""Phases in which a workload wants no GPUs."""
_STATES = {
    "": "has no status yet",
    "Pending": "is pending",
    "Admitted": "is starting",
    "Running": "is running",
    "Restarting": "is restarting",
    "Suspended": "is suspended",
    "Complete": "is complete",
    "Failed": "has failed",
    "Progressing": "is progressing",
    "Ready": "is ready",
    "Degraded": "is degraded",
    "Idle": "is idle",
}
_NO_STATUS = "no controller has reconciled it yet: is `tangram controller` running?"
_NO_WORDS = "a file has no messages: see kubectl describe"


def is_at_rest(workload: "Workload") -> bool:
    """Whether nothing of it is to run: pods that are left are no answer to why it does not."""
    return workload.suspended or workload.phase in _AT_REST


def show_workload(workload: "Workload") -> None:
    """How far it is, and what its owner can do, for a person."""
    state = _STATES.get(workload.phase, f"is {workload.phase}")
    if workload.suspended and workload.phase not in _AT_REST:
        state = "is being suspended"
    reason = f": {workload.reason}" if workload.reason and workload.reason != workload.phase else ""
    click.echo(f"{workload.kind.lower()} {workload.namespace}/{workload.name} {state}{reason}")
    click.echo(f"  {workload.message or (_NO_WORDS if workload.phase else _NO_STATUS)}")
    if workload.outdated and workload.phase:
        click.echo("  its spec has been changed since; the change has not been reconciled yet")
    if workload.suspended and workload.phase not in ("Complete", "Failed"):
        click.echo(f"  resume it with: tangram resume {workload.name} -n {workload.namespace}")


def workload_json(workload: "Workload", pods: int) -> dict[str, Any]:
    """The same for programs."""
    state = "suspended" if workload.suspended and workload.phase not in _AT_REST else workload.phase.lower()
    return {"state": state or "unobserved", "workload": for_programs(workload), "pods": pods}


def reported_json(workload: "Workload | None", stalled: "Stalled | None", pods: "Sequence[Pod]") -> dict[str, Any]:
    """What has been reported of a workload and of its pods, for programs."""
    return {
        "state": "reported",
        "workload": None if workload is None else for_programs(workload),
        "stalled": None if stalled is None else for_programs(stalled),
        "reasons": [
            {"reason": reason, "message": message, "pods": count} for (reason, message), count in _reasons(pods)
        ],
        "pods": len(pods),
    }


def show_reported(pods: "Sequence[Pod]") -> None:
    """Why pods are pending by what the scheduler has written on them, for a person."""
    placed = sum(bool(pod.spec.node_name) for pod in pods)
    if len(pods) > 1 or placed:
        click.echo(f"{placed}/{len(pods)} pods are scheduled")
    for (reason, message), count in _reasons(pods):
        name = f"{pods[0].metadata.namespace}/{pods[0].metadata.name}"
        click.echo(f"pod {name} is pending: {reason}" if len(pods) == 1 else f"{count} pending: {reason}")
        click.echo(f"  {message}")


def _reasons(pods: "Sequence[Pod]") -> "list[tuple[tuple[str, str], int]]":
    """(reason, sentence) of pending pods with their number, the most frequent first."""
    from tangram.snapshot.recording import reason_of

    unreported = "WaitingForScheduler", "the scheduler has not reported on the pod yet"
    found: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        if not pod.spec.node_name:
            said = (one for condition in pod.status.conditions if (one := reason_of(condition)))
            found[next(said, unreported)] += 1
    return found.most_common()
