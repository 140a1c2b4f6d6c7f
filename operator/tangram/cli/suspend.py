"""``tangram suspend`` and ``resume``: stop TrainingJobs, which release their GPUs, and let them go on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.api.names import GROUP
from tangram.cli.options import Command, cluster_options
from tangram.cli.output import Answer, Form, emit, form_option
from tangram.errors import InvalidInput, Missing, NotReachable, TangramError

if TYPE_CHECKING:
    from tangram.cluster.rest import Client

Object = dict[str, Any]
_KINDS = ("trainingjob", "trainingjobs", "tj", "tjob")
"""Each also as ``KIND.GROUP``, as kubectl takes them."""
_FINAL = ("Complete", "Failed")
_ATTEMPTS = 5
"""Times that an object is read again which others change at the same moment."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What has become of the jobs so far."""

    jobs: list[tuple[Object, bool]] = field(default_factory=list)
    """Those that are as they should be, and whether that is new."""
    failures: list[str] = field(default_factory=list)


class _Ended(TangramError):
    """The job has ended."""


@dataclass(frozen=True, slots=True)
class _Which:
    """The jobs that are meant."""

    names: tuple[str, ...]
    selector: str
    """Of labels; empty: none, which is no way to say all."""
    everything: bool
    """All of the namespace."""
    namespace: str | None

    def __post_init__(self) -> None:
        if bool(self.names) + bool(self.selector) + self.everything != 1:
            raise click.UsageError("allowed is exactly one of: names of TrainingJobs, -l SELECTOR, --all")


def _arguments(command: Command) -> Command:
    jobs = click.argument("names", nargs=-1, metavar="[[trainingjob/]NAME...]")
    where = click.option("-n", "--namespace", help="[default: the kubeconfig's]")
    labels = click.option("-l", "--selector", help="TrainingJobs with these labels, such as team=vision,env!=prod.")
    every = click.option("--all", "everything", is_flag=True, help="All TrainingJobs of the namespace.")
    return jobs(where(labels(every(form_option(cluster_options(command))))))


def _which(names: tuple[str, ...], namespace: str | None, selector: str | None, everything: bool) -> _Which:
    """Raises UsageError where nothing is chosen, or in several ways; a selector of which nothing is left, as of a
    variable that is not set, is an error whatever else is given."""
    if selector is not None and not selector.strip():
        raise click.UsageError("-l is empty, which chooses nothing; name TrainingJobs, or give -l SELECTOR or --all")
    return _Which(tuple(map(_name, names)), (selector or "").strip(), everything, namespace)


@click.command()
@_arguments
def suspend(
    names: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    everything: bool,
    output: Form,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Stop TrainingJobs: their pods are deleted and their GPUs released; `tangram resume` starts them again.

    Sets spec.runPolicy.suspend, and says of each job what was done. Jobs chosen by -l or --all that have ended are left
    alone. One that cannot be changed is an error, and the others are changed all the same.
    """
    _set(_which(names, namespace, selector, everything), output, (kubeconfig, context), suspended=True)


@click.command()
@_arguments
def resume(
    names: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    everything: bool,
    output: Form,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Start suspended TrainingJobs again: they wait for their GPUs as new ones do.

    Takes spec.runPolicy.suspend back, and says of each job what was done. Jobs chosen by -l or --all that have ended
    are left alone. One that cannot be changed is an error, and the others are changed all the same.
    """
    _set(_which(names, namespace, selector, everything), output, (kubeconfig, context), suspended=False)


def _set(which: _Which, output: Form, cluster: tuple[Path | None, str | None], suspended: bool) -> None:
    from tangram.cli.ending import print_error
    from tangram.cli.reading import ask, full_name, item_list
    from tangram.cluster.paths import TRAINING_JOBS

    done = _Done()

    def show(_wide: bool) -> None:
        word = "suspended" if suspended else "resumed"
        for job, is_new in done.jobs:
            said = word if is_new else f"unchanged ({'already suspended' if suspended else 'not suspended'})"
            click.echo(f"{full_name(TRAINING_JOBS, job['metadata']['name'])} {said}")

    def report() -> None:
        found = [job for job, _ in done.jobs]
        names = [full_name(TRAINING_JOBS, job["metadata"]["name"]) for job in found]
        emit(output, Answer(names, lambda: found[0] if len(found) == 1 else item_list(found), show))

    try:
        ask(*cluster, lambda client, access: _change_all(client, which, access.namespace, suspended, done))
        if not done.jobs and not done.failures and output.is_table:
            click.echo("No TrainingJob that has not ended is chosen.", err=True)
    finally:  # what is done is said, also where the server answers no more
        if done.jobs:
            report()
        for failure in done.failures:
            print_error(failure)
    if done.failures:
        raise click.exceptions.Exit(1)


async def _change_all(client: "Client", which: _Which, default: str, suspended: bool, done: _Done) -> None:
    """Let every job that is meant be suspended or not, and note in ``done`` what became of it. ``default``: the
    namespace where none is given. Raises TangramError where the server says nothing of single jobs, or nothing more."""
    where = which.namespace or default
    for name in which.names or await _chosen(client, where, which):
        try:
            done.jobs.append(await _change(client, name, where, suspended))
        except NotReachable:  # nor would the server answer for the next one
            raise
        except (_Ended, Missing) as error:
            if which.names:  # else it ended, or went, after the jobs had been chosen
                done.failures.append(str(error))
        except TangramError as error:
            done.failures.append(str(error))


async def _chosen(client: "Client", namespace: str, which: _Which) -> list[str]:
    """Names of the jobs that are meant by their labels, or of all, and have not ended. Raises TangramError."""
    from tangram.cli.reading import listed
    from tangram.cluster.paths import TRAINING_JOBS

    by_label = {} if which.everything else {"label_selector": which.selector}
    found = await listed(client, TRAINING_JOBS, namespace, **by_label)
    return sorted(one["metadata"]["name"] for one in found if one.get("status", {}).get("phase") not in _FINAL)


def _name(text: str) -> str:
    """The name of the job. Raises UsageError for an empty one, InvalidInput for another kind."""
    from tangram.questions.suggest import did_you_mean

    kind, slash, name = text.rpartition("/")
    if not name.strip():
        raise click.UsageError(f'"{text}" names no TrainingJob; allowed: NAME or trainingjob/NAME')
    if slash and kind.lower().removesuffix(f".{GROUP}") not in _KINDS:
        hint = did_you_mean(kind, _KINDS[:1])
        raise InvalidInput(f"{text!r}", "kind", kind, f"trainingjob, which alone can be suspended{hint}")
    return name


async def _change(client: "Client", name: str, namespace: str, suspended: bool) -> tuple[Object, bool]:
    """Let the job be suspended or not; the job then, and whether that is new. Raises TangramError."""
    from tangram.cluster import objects
    from tangram.cluster.outcome import Result
    from tangram.cluster.paths import TRAINING_JOBS

    message = ""
    for _ in range(_ATTEMPTS):
        job = await objects.get(client, TRAINING_JOBS, name, namespace)
        if job is None:
            raise Missing(await _not_found(client, name, namespace))
        if job["spec"].get("runPolicy", {}).get("suspend", False) is suspended:
            return job, False
        phase = job.get("status", {}).get("phase")
        if phase in _FINAL:
            verb = "suspended" if suspended else "resumed"
            raise _Ended(f'trainingjob "{name}" has ended ({phase}): it cannot be {verb}')
        same = {"uid": job["metadata"]["uid"], "resourceVersion": job["metadata"]["resourceVersion"]}
        content = {"metadata": same, "spec": {"runPolicy": {"suspend": suspended}}}
        outcome = await objects.patch(client, TRAINING_JOBS.path(name, namespace), content)
        if outcome.done:
            return outcome.object(), True
        message = outcome.message
        if outcome.result not in (Result.CONFLICT, Result.GONE):  # else others were faster: judge what is there now
            break
    raise TangramError(f'trainingjob "{name}": {message}')


async def _not_found(client: "Client", name: str, namespace: str) -> str:
    from tangram.cli.reading import listed
    from tangram.cluster.paths import TRAINING_JOBS
    from tangram.questions.suggest import did_you_mean

    known = [one["metadata"]["name"] for one in await listed(client, TRAINING_JOBS, namespace)]
    return f'trainingjob "{name}" not found in namespace {namespace}{did_you_mean(name, known)}'
