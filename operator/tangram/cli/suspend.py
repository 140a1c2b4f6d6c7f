"""``tangram suspend`` and ``resume``: stop TrainingJobs, which release their GPUs, and let them go on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.api.names import GROUP
from tangram.cli.options import Command, cluster_options
from tangram.cli.output import Answer, Form, emit, form_option

if TYPE_CHECKING:
    from tangram.cluster.kubeconfig import Access
    from tangram.cluster.rest import Client

Object = dict[str, Any]
_KINDS = ("trainingjob", "trainingjobs", "tj", "tjob", f"trainingjob.{GROUP}")
_FINAL = ("Complete", "Failed")
_ATTEMPTS = 5
"""Times that an object is read again which others change at the same moment."""


def _arguments(command: Command) -> Command:
    jobs = click.argument("names", nargs=-1, required=True, metavar="[trainingjob/]NAME...")
    where = click.option("-n", "--namespace", help="[default: the kubeconfig's]")
    return jobs(where(form_option(cluster_options(command))))


@click.command()
@_arguments
def suspend(
    names: tuple[str, ...], namespace: str | None, output: Form, kubeconfig: Path | None, context: str | None
) -> None:
    """Stop TrainingJobs: their pods are deleted and their GPUs released; `tangram resume` starts them again.

    Sets spec.runPolicy.suspend, and says of each job what was done.
    """
    _set(names, namespace, output, (kubeconfig, context), suspended=True)


@click.command()
@_arguments
def resume(
    names: tuple[str, ...], namespace: str | None, output: Form, kubeconfig: Path | None, context: str | None
) -> None:
    """Start suspended TrainingJobs again: they wait for their GPUs as new ones do.

    Takes spec.runPolicy.suspend back, and says of each job what was done.
    """
    _set(names, namespace, output, (kubeconfig, context), suspended=False)


def _set(
    given: tuple[str, ...],
    namespace: str | None,
    output: Form,
    cluster: tuple[Path | None, str | None],
    suspended: bool,
) -> None:
    from tangram.cli.reading import ask, full_name, item_list
    from tangram.cluster.paths import TRAINING_JOBS

    jobs = [_name(text) for text in given]
    done: list[tuple[Object, bool]] = []

    def show(_wide: bool) -> None:
        word = "suspended" if suspended else "resumed"
        for job, is_new in done:
            said = word if is_new else f"unchanged ({'already suspended' if suspended else 'not suspended'})"
            click.echo(f"{full_name(TRAINING_JOBS, job['metadata']['name'])} {said}")

    def report() -> None:
        found = [job for job, _ in done]
        names = [full_name(TRAINING_JOBS, job["metadata"]["name"]) for job in found]
        emit(output, Answer(names, lambda: found[0] if len(found) == 1 else item_list(found), show))

    async def change(client: "Client", access: "Access") -> None:
        for name in jobs:
            done.append(await _change(client, name, namespace or access.namespace, suspended))  # noqa: PERF401

    try:
        ask(*cluster, change)
    finally:  # what is done is said, also where the next one fails
        if done:
            report()


def _name(text: str) -> str:
    """The name of the job. Raises InvalidInput for another kind."""
    from tangram.errors import InvalidInput
    from tangram.questions.suggest import did_you_mean

    kind, slash, name = text.rpartition("/")
    if slash and kind.lower() not in _KINDS:
        hint = did_you_mean(kind, _KINDS[:1])
        raise InvalidInput(f"{text!r}", "kind", kind, f"trainingjob, which alone can be suspended{hint}")
    return name


async def _change(client: "Client", name: str, namespace: str, suspended: bool) -> tuple[Object, bool]:
    """Let the job be suspended or not; the job then, and whether that is new. Raises TangramError."""
    from tangram import errors
    from tangram.cluster import objects
    from tangram.cluster.outcome import Result
    from tangram.cluster.paths import TRAINING_JOBS

    message = ""
    for _ in range(_ATTEMPTS):
        job = await objects.get(client, TRAINING_JOBS, name, namespace)
        if job is None:
            raise errors.Missing(await _not_found(client, name, namespace))
        if job["spec"].get("runPolicy", {}).get("suspend", False) is suspended:
            return job, False
        phase = job.get("status", {}).get("phase")
        if phase in _FINAL:
            verb = "suspended" if suspended else "resumed"
            raise errors.TangramError(f'trainingjob "{name}" has ended ({phase}): it cannot be {verb}')
        same = {"uid": job["metadata"]["uid"], "resourceVersion": job["metadata"]["resourceVersion"]}
        content = {"metadata": same, "spec": {"runPolicy": {"suspend": suspended}}}
        outcome = await objects.patch(client, TRAINING_JOBS.path(name, namespace), content)
        if outcome.done:
            return outcome.object(), True
        message = outcome.message
        if outcome.result not in (Result.CONFLICT, Result.GONE):  # else others were faster: judge what is there now
            break
    raise errors.TangramError(f'trainingjob "{name}": {message}')


async def _not_found(client: "Client", name: str, namespace: str) -> str:
    from tangram.cli.reading import listed
    from tangram.cluster.paths import TRAINING_JOBS
    from tangram.questions.suggest import did_you_mean

    known = [one["metadata"]["name"] for one in await listed(client, TRAINING_JOBS, namespace)]
    return f'trainingjob "{name}" not found in namespace {namespace}{did_you_mean(name, known)}'
