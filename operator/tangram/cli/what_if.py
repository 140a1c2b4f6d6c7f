"""``tangram what-if``: would it fit, before it is submitted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.cli.output import Answer, Form, emit, for_programs, form_option
from tangram.cli.worlds import (
    gpus,
    read_world,
    registry,
    settings_json,
    show_settings,
    start_text,
    table,
    world_options,
)

if TYPE_CHECKING:
    from tangram.api.objects import Pod
    from tangram.cli.wishes import Wishes
    from tangram.plan import Place
    from tangram.questions.estimate import Estimate
    from tangram.questions.explain import Explanation
    from tangram.questions.what_if import Verdict

_MOST_ROWS = 20
EXIT_CODES = {"now": 0, "after-eviction": 10, "later": 11, "never": 12}
"""Exit codes by answer; 1 is an error, 2 a wrong call."""


@click.command("what-if")
@click.option(
    "-f",
    "--filename",
    "files",
    type=click.Path(path_type=Path, allow_dash=True),
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML or JSON; - is the standard input; may be repeated.",
)
@click.option("-n", "--namespace", help="For objects that name none. [default: the kubeconfig's]")
@form_option
@click.option("--no-estimate", is_flag=True, help="Do not estimate when it starts (the slowest part on big clusters).")
@world_options
def what_if(
    files: tuple[Path, ...],
    namespace: str | None,
    output: Form,
    no_estimate: bool,
    file: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
) -> None:
    """Say whether objects would be scheduled if they were created now, where, and what they would preempt.

    Nothing is created.

    FILE holds Pods, TrainingJobs, InferenceServices, Jobs, Deployments, StatefulSets or ReplicaSets; a HybridPolicy in
    it is taken as in force. Objects that exist already are taken as replaced.

    Exit code: 0 fits now; 10 fits after preemption; 11 would be pending, but fits once running pods have ended;
    12 cannot be scheduled on this cluster; 1 error; 2 wrong usage.
    """
    from tangram.cli.wishes import read_wishes
    from tangram.questions.what_if import judge

    recorded, own = read_world(file, kubeconfig, context, scheduler_name)
    wishes = read_wishes(files, recorded, namespace or own)
    verdict = judge(wishes.world, wishes.pods, registry())
    why, start = None, None
    if verdict.fit.value in ("later", "never"):
        why = _why(verdict, wishes.pods)
        if verdict.fit.value == "later" and not no_estimate:
            start = _start(verdict, why)

    def plain() -> dict[str, Any]:
        return as_json(verdict, wishes.pods, why, start) | {
            "leftOut": wishes.notes,
            "settings": settings_json(recorded),
        }

    def show_it(wide: bool) -> None:
        show(verdict, wishes, why, start, wide)
        show_settings(recorded)

    names = [f"pod/{pod.metadata.name}" for pod in wishes.pods]
    emit(output, Answer(names, plain, show_it))
    sys.exit(EXIT_CODES[verdict.fit.value])


def _why(verdict: "Verdict", pods: "tuple[Pod, ...]") -> "Explanation":
    """Why the first of the pods that do not fit waits."""
    from tangram.questions.explain import explain

    assert verdict.world is not None
    waiting = {hold.pod.uid for hold in verdict.waiting}
    return explain(verdict.world, next((pod for pod in pods if pod.metadata.uid in waiting), pods[0]), registry())


def _start(verdict: "Verdict", why: "Explanation") -> "Estimate":
    from tangram.questions.estimate import estimate

    assert verdict.world is not None
    return estimate(verdict.world, {why.pod.uid}, registry())


def as_json(
    verdict: "Verdict", pods: "tuple[Pod, ...]", why: "Explanation | None", start: "Estimate | None"
) -> dict[str, Any]:
    """The answer for programs."""
    from tangram.cli.explain import as_json as explained

    return {
        "fits": verdict.fit.value,
        "notes": verdict.notes,
        "exitCode": EXIT_CODES[verdict.fit.value],
        "pods": [f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods],
        "places": [
            {"pod": str(place.pod), "node": place.node, "gpus": _devices(place)}
            for place in verdict.placed
            if verdict.fit.value in ("now", "after-eviction")
        ],
        "evicts": [{"pod": str(one.pod), "node": one.node, "for": str(one.claimant or "")} for one in verdict.evicted],
        "budgets": [
            {"budget": one.budget, "allowed": one.allowed, "pods": [str(pod) for pod in one.pods]}
            for one in verdict.budgets
        ],
        "waits": [{"pod": str(hold.pod), "reason": hold.reason, "message": hold.message} for hold in verdict.waiting],
        "explanation": None if why is None else explained(why, start, list(pods)),
        "start": None if start is None else for_programs(start),
    }


def show(
    verdict: "Verdict",
    wishes: "Wishes",
    why: "Explanation | None",
    start: "Estimate | None",
    wide: bool = False,
) -> None:
    """The answer for a person; ``wide``: with all pods."""
    from tangram.cli.explain import show_proposals

    pods = wishes.pods
    most = len(pods) if wide else _MOST_ROWS
    _show_headline(verdict, wishes, why)
    if verdict.evicted:
        click.echo("\nPreempted:")
        table(
            ("POD", "NODE", "FOR"), [(str(one.pod), one.node, str(one.claimant or "")) for one in verdict.evicted], "  "
        )
    for budget in verdict.budgets:
        click.echo(f"  Warning: {budget}")
    if verdict.placed and why is None:
        click.echo("\nScheduled:")
        rows = [(str(place.pod), place.node, _device_text(place)) for place in verdict.placed]
        table(("POD", "NODE", "GPUS"), rows, "  ", most=most)
    if verdict.waiting:
        click.echo("\nPending:")
        rows = [(str(one.pod), one.reason, one.message) for one in verdict.waiting]
        table(("POD", "REASON", "MESSAGE"), rows, "  ", most=most)
    if why is not None and why.state == "waits":
        show_proposals(why, wide)
    if start is not None:
        click.echo(f"\nStart: {start_text(start)}")


def _show_headline(verdict: "Verdict", wishes: "Wishes", why: "Explanation | None") -> None:
    pods, replaced = wishes.pods, wishes.replaced
    count = f"{len(pods)} pod{'s' if len(pods) > 1 else ''}"
    if why is None and len(verdict.placed) < len(pods):
        count = f"{len(verdict.placed)} of {count}"
    elif why is not None and 0 < len(verdict.waiting) < len(pods):
        count = f"{len(verdict.waiting)} of {count}"
    click.echo(_ANSWERS[verdict.fit.value].format(pods=count))
    for note in verdict.notes:
        click.echo(f"  Warning: {note}")
    for note in wishes.notes:
        click.echo(f"  Note: {note}")
    if replaced:
        click.echo(f"  (replacing {replaced} existing pod{'s' * (replaced > 1)})")


_ANSWERS = {
    "now": "Fits now: {pods} would start at once",
    "after-eviction": "Fits after preemption: {pods}",
    "later": "Would be pending: {pods}; fits once running pods have ended",
    "never": "Cannot be scheduled on this cluster, even empty: {pods}",
}


def _devices(place: "Place") -> list[dict[str, Any]]:
    return [
        {"container": container, "id": device.id, "milliGpu": device.milli}
        for container, devices in place.devices
        for device in devices
    ]


def _device_text(place: "Place") -> str:
    found = [f"{device.id} x {gpus(device.milli)}" for _, devices in place.devices for device in devices]
    return ", ".join(found) or "-"
