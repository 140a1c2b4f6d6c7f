"""What the asking verbs share: where the world comes from, which pod is meant, and how tables are printed."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.api.names import GROUP
from tangram.cli.options import cluster_options
from tangram.cli.output import camel, for_programs

if TYPE_CHECKING:
    from tangram.api.objects import Pod
    from tangram.cluster.kubeconfig import Access
    from tangram.cluster.rest import Client
    from tangram.decide.registry import Registry
    from tangram.questions.estimate import Estimate
    from tangram.snapshot.recording import Recording, Stalled, Workload

_POD_KINDS = ("pod", "pods", "po")
_WORKLOAD_KINDS = {
    "trainingjob": "TrainingJob", "trainingjobs": "TrainingJob", "tj": "TrainingJob", "tjob": "TrainingJob",
    "inferenceservice": "InferenceService", "inferenceservices": "InferenceService", "infer": "InferenceService",
    "gang": "gang", "job": "Job", "jobs": "Job",
    "deployment": "Deployment", "deployments": "Deployment", "deploy": "Deployment",
    "statefulset": "StatefulSet", "statefulsets": "StatefulSet", "sts": "StatefulSet",
    "replicaset": "ReplicaSet", "replicasets": "ReplicaSet", "rs": "ReplicaSet",
}  # fmt: skip
_GROUPS = {"TrainingJob": GROUP, "InferenceService": GROUP, "Job": "batch", "gang": ""}
"""Groups of the kinds; of all others it is apps."""


def world_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which cluster, or which file of one, is asked about."""
    whose = click.option(
        "--scheduler-name", default="tangram", show_default=True, help="Scheduler whose pods are meant."
    )
    file = click.option("--from", "file", type=click.Path(path_type=Path), metavar="FILE",
                        help="Ask about a file written by `tangram snapshot save` instead of a cluster.")  # fmt: skip
    return file(cluster_options(whose(command)))


def read_world(
    file: Path | None, kubeconfig: Path | None, context: str | None, scheduler_name: str
) -> "tuple[Recording, str]":
    """The world, and the namespace that is meant when none is named. Raises TangramError."""
    if file is not None:
        from tangram.snapshot.recording import load

        found = load(file), "default"
    else:
        import asyncio

        found = asyncio.run(_read_cluster(kubeconfig, context, scheduler_name))
    warn_of_silence(found[0].silence)
    return found


def warn_of_silence(*sentences: str) -> None:
    """Say first, and whatever the form of the answer, that a scheduler gives no sign of life."""
    for sentence in filter(None, sentences):
        click.echo(f"Warning: {sentence}.", err=True)


async def _read_cluster(kubeconfig: Path | None, context: str | None, scheduler_name: str) -> "tuple[Recording, str]":
    from tangram.cluster.kubeconfig import load_access
    from tangram.cluster.rest import ONCE, Client
    from tangram.questions.observe import read_cluster

    access = load_access(kubeconfig, context)
    async with Client(access) as client:
        await client.request("GET", "/version", sending=ONCE)  # an unreachable server is one clear line, at once
        return await read_cluster(client, int(time.time()), scheduler_name), access.namespace


def read_reported(
    kubeconfig: Path | None, context: str | None, namespace: str | None, scheduler_name: str
) -> "tuple[Recording, str]":
    """What those can read who may read one namespace only, and the namespace. Raises TangramError."""
    from tangram.cli.reading import ask
    from tangram.questions.observe import read_namespace

    async def read(client: "Client", access: "Access") -> "tuple[Recording, str]":
        where = namespace or access.namespace
        return await read_namespace(client, where, int(time.time()), scheduler_name), where

    found = ask(kubeconfig, context, read)
    warn_of_silence(found[0].silence)
    return found


def registry() -> "Registry":
    """The plugins that the scheduler would find here."""
    from tangram.decide.registry import Registry

    found = Registry()
    found.add_entry_points()
    return found


def settings_json(recorded: "Recording") -> dict[str, Any]:
    """The settings by which the answer was worked out, and whether the scheduler has published them."""
    published = recorded.settings is not None
    return {"published": published} | {camel(name): value for name, value in _settings(recorded).items()}


def _settings(recorded: "Recording") -> dict[str, Any]:
    from tangram.questions.observe import settings_of
    from tangram.settings import deciding

    return deciding(settings_of(recorded))


def policy_json(recorded: "Recording") -> dict[str, Any] | None:
    """Which version of the policy the answer was worked out by, and by which one the scheduler decides."""
    return None if recorded.policy_version is None else for_programs(recorded.policy_version)


def show_settings(recorded: "Recording") -> None:
    """Say that the settings of the scheduler are not known, where that is so."""
    if recorded.settings is None:
        assumed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in _settings(recorded).items())
        click.echo(f"\nNote: the settings of scheduler {recorded.scheduler_name} are not known; assumed: {assumed}.")


def one_name(words: tuple[str, ...]) -> str | None:
    """The name that ``NAME``, ``KIND/NAME`` or, as kubectl takes it too, ``KIND NAME`` means. Raises UsageError."""
    if len(words) == 2 and words[0].partition(".")[0].lower() in (*_POD_KINDS, *_WORKLOAD_KINDS):
        return "/".join(words)
    if len(words) > 1:
        raise click.UsageError(f"allowed is one NAME or KIND/NAME; got {', '.join(words)}")
    return words[0] if words else None


def _split(text: str) -> tuple[str, str]:
    """Kind, in lower case and without its group, and name; of ``KIND/NAME`` as kubectl takes and prints it."""
    kind, _, name = text.rpartition("/")
    kind, _, group = kind.lower().partition(".")
    known = _GROUPS.get(_WORKLOAD_KINDS.get(kind, ""), "apps")
    return kind if not group or group in (known, f"v1.{known}") else f"{kind}.{group}", name


def find_pods(recorded: "Recording", text: str, namespace: str) -> "list[Pod]":
    """The pods that ``pod/NAME``, ``trainingjob/NAME`` or a bare name means, by name. Raises InvalidInput, Missing."""
    from tangram.errors import InvalidInput, Missing
    from tangram.questions.suggest import did_you_mean

    slash, (kind, name) = "/" in text, _split(text)
    if slash and kind not in (*_POD_KINDS, *_WORKLOAD_KINDS):
        known = ", ".join(sorted({"pod", *map(str.lower, _WORKLOAD_KINDS.values())}))
        hint = did_you_mean(kind, (*_POD_KINDS[:1], *_WORKLOAD_KINDS))
        raise InvalidInput(f"{text!r}", "kind", kind, f"NAME or KIND/NAME with one of {known}{hint}")
    inside = [pod for pod in recorded.pods if pod.metadata.namespace == namespace]
    found: list[Pod] = []
    if not slash or kind in _POD_KINDS:
        found = [pod for pod in inside if pod.metadata.name == name]
    if not found and (not slash or kind in _WORKLOAD_KINDS):
        found = [pod for pod in inside if _belongs(pod, _WORKLOAD_KINDS.get(kind, ""), name)]
    if not found:
        waiting = sorted({pod.metadata.name for pod in inside if not pod.spec.node_name})
        shown = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" if len(waiting) > 5 else "")
        hint = did_you_mean(name, _names(recorded, _WORKLOAD_KINDS.get(kind, kind), namespace))
        what = f'{kind or "pod or workload"} "{name}" not found in namespace {namespace}, or it has no pods'
        raise Missing(what + (hint or (f"; pending pods there: {shown}" if shown else "")))
    return sorted(found, key=lambda pod: pod.metadata.name)


def _names(recorded: "Recording", kind: str, namespace: str) -> set[str]:
    """Names of a kind in a namespace; of all kinds where none is named."""
    from tangram.questions.gpu_use import workload_of

    workloads = {one.name for one in recorded.workloads if one.namespace == namespace and kind in ("", one.kind)}
    pods = [pod for pod in recorded.pods if pod.metadata.namespace == namespace]
    if kind in ("", *_POD_KINDS):
        workloads |= {pod.metadata.name for pod in pods}
    owners = map(workload_of, pods)
    return workloads | {name for owner, name in owners if kind.lower() in ("", owner.partition(".")[0])}


def find_workload(recorded: "Recording", text: str, namespace: str) -> "Workload | None":
    """The TrainingJob or InferenceService that ``text`` means, by its own status."""
    kind, name = _split(text)
    meant = _WORKLOAD_KINDS.get(kind, kind)
    inside = (one for one in recorded.workloads if (one.namespace, one.name) == (namespace, name))
    return next((one for one in inside if meant in ("", one.kind)), None)


def find_namespace(recorded: "Recording", text: str) -> str:
    """The only namespace with what ``text`` means. Raises Missing, or InvalidInput where several have it."""
    from tangram.errors import InvalidInput, Missing

    known = {pod.metadata.namespace for pod in recorded.pods} | {one.namespace for one in recorded.workloads}
    found = []
    for namespace in sorted(known):
        try:
            if find_workload(recorded, text, namespace) is not None or find_pods(recorded, text, namespace):
                found.append(namespace)
        except Missing:
            continue
    if not found:
        raise Missing(f'"{text}" not found in any namespace')
    if len(found) > 1:
        raise InvalidInput(
            f'"{text}"', "--all-namespaces", ", ".join(found), "a name that one namespace has; choose by -n"
        )
    return found[0]


def find_stalled(recorded: "Recording", text: str, namespace: str, pods: "Sequence[Pod]" = ()) -> "Stalled | None":
    """What is wrong with the TrainingJob or InferenceService that ``text`` means, or that the pods are of."""
    from tangram.api import names

    kind, name = _split(text)
    meant = _WORKLOAD_KINDS.get(kind, "")
    wanted = set()
    for owner, label in (("TrainingJob", names.JOB), ("InferenceService", names.SERVICE)):
        wanted |= {(owner, pod.metadata.labels[label]) for pod in pods if label in pod.metadata.labels}
        if not pods and meant in ("", owner) and kind not in _POD_KINDS:
            wanted.add((owner, name))
    inside = (one for one in recorded.stalled if one.namespace == namespace)
    return next((one for one in inside if (one.kind, one.name) in wanted), None)


def _belongs(pod: "Pod", kind: str, name: str) -> bool:
    from tangram.api import names

    labels = {"TrainingJob": names.JOB, "InferenceService": names.SERVICE, "gang": names.GANG}
    by_label = (labels[kind],) if kind in labels else () if kind else tuple(labels.values())
    if any(pod.metadata.labels.get(label) == name for label in by_label):
        return True
    for owner in pod.metadata.owner_references:
        # A Deployment's pods belong to a ReplicaSet that is named after it.
        owners = {(owner.kind, owner.name)}
        if owner.kind == "ReplicaSet":
            owners.add(("Deployment", owner.name.rpartition("-")[0]))
        if any(named == name and kind in ("", made) for made, named in owners):
            return True
    return False


def table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "", *, most: int = 1000) -> None:
    """Print columns that are as wide as their widest entry, and at most so many rows."""
    shown = (head, *rows[:most])
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    for row in shown:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(f"{indent}{line}".rstrip())
    if len(rows) > most:
        click.echo(f"{indent}and {len(rows) - most} more")


def gpus(milli: int) -> str:
    """GPUs for a person: 8, 2.5, 0.3."""
    return f"{milli / 1000:g}"


def span(seconds: int) -> str:
    """A span of time for a person: 45s, 12m, 3h20m, 2d4h."""
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if not hours:
        return f"{minutes}m"
    if not days:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"


def start_text(found: "Estimate") -> str:
    """An estimate as a sentence."""
    basis = f"the end of {found.known} of {found.holding} pods with GPUs is known"
    if found.why:
        return f"unknown: {found.why}"
    early = "later than can be estimated" if found.p50 is None else f"in {span(found.p50)}"
    late = "later than can be estimated" if found.p90 is None else f"in {span(found.p90)}"
    return f"p50 {early}, p90 {late}, if no other pods arrive ({basis})"
