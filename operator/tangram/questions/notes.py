"""What nobody is refused for, and still makes an answer other than was meant: a misspelt class, a plugin that is not
there, guarantees beyond the pool."""

from collections.abc import Iterable, Iterator

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod
from tangram.errors import InvalidInput
from tangram.questions.edits import counted, gpu_ask
from tangram.questions.suggest import did_you_mean
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.pods.access import Access
from tangram.snapshot.queues.queues import DEFAULT_QUEUE
from tangram.snapshot.recording import Recording
from tangram.snapshot.requests.request import VENDOR_RESOURCES


def of_pods(recorded: Recording, pods: Iterable[Pod]) -> tuple[str, ...]:
    """What the pods say that is not understood, once for all that say the same."""
    spec = recorded.policy["spec"] if recorded.policy else {}
    classes = {one["name"] for one in spec.get("priorityClasses", ())}
    queues = {DEFAULT_QUEUE, *(one["name"] for one in spec.get("queues", ()))}
    found = (
        note
        for pod in pods
        for note in (*_of_pod(classes, pod), *_of_queue(recorded, queues, pod), *_of_gpus(recorded, pod))
    )
    return tuple(dict.fromkeys(found))


def nobody_offers(recorded: Recording, resource: str) -> bool:
    """Whether no node has anything of a resource, in use or free."""
    return not any(str(node.status.allocatable.get(resource, 0)) not in ("", "0") for node in recorded.nodes)


def _of_gpus(recorded: Recording, pod: Pod) -> Iterator[str]:
    found = gpu_ask(pod)
    if found is not None and recorded.nodes and nobody_offers(recorded, found[1]):
        kinds = (*sorted(VENDOR_RESOURCES), names.FRACTION_RESOURCE)
        known = ", ".join(one for one in kinds if not nobody_offers(recorded, one)) or "none"
        yield f"no node offers {found[1]}; resources for GPUs that nodes offer: {known}"


def queue_named(recorded: Recording, pod: Pod) -> tuple[str, str]:
    """The queue that a pod is to be in, and what names it where that is not the pod itself; else empty."""
    access, namespace = Access(), pod.metadata.namespace
    for one in recorded.namespaces:
        if one.metadata.name == namespace:
            access.set_namespace(namespace, one.metadata.labels)
    queue, own = access.queue_of(pod.metadata), pod.metadata.labels.get(names.QUEUE, "")
    return queue or DEFAULT_QUEUE, "" if queue == own else f"the label {names.QUEUE} of namespace {namespace}"


def of_policy(recorded: Recording) -> tuple[str, ...]:
    """Which version of the policy decides, where that is not the stored one, and what the answer was worked out by."""
    version = recorded.policy_version
    if version is None:
        return ()
    why = f": {version.message}" if version.message else ""
    if version.decides and (version.decides, version.decides_generation) != (version.name, version.generation):
        stored = f"generation {version.generation} of policy {version.name}, which is stored"
        here = f"what can be read of {stored}" if version.partial else stored
        worked_out = f"this answer was worked out {f'by {here}' if version.name else 'without a policy'}"
        theirs = f"generation {version.decides_generation} of policy {version.decides}"
        return (f"the scheduler decides by {theirs}{why}; {worked_out}",)
    return (f"policy {version.name}{why}",) if why else ()


def of_namespaces(recorded: Recording) -> tuple[str, ...]:
    """What is left out where whoever asks may not read namespaces."""
    if recorded.knows_namespaces:
        return ()
    left_out = "who may use which queue and class, and which queue a namespace gives its pods"
    return (f"namespaces may not be read here: this answer leaves out {left_out}",)


def of_plugins(faults: Iterable[str]) -> tuple[str, ...]:
    """Plugins of the policy that failed where the question was asked."""
    return tuple(f"plugin {fault}; this answer was worked out without it" for fault in faults)


def of_guarantees(snapshot: Snapshot) -> tuple[str, ...]:
    """What the queues at the top are guaranteed beyond what there is: it cannot all be reclaimed."""
    queues, has = snapshot.queues, snapshot.capacity()
    promised = queues.guarantee[queues.parent < 0].sum(axis=0)
    words = {"cpu": "CPU", "gpu": "GPU"}
    return tuple(
        f"the queues at the top are guaranteed {counted(promised[column] / 1000, words[name])} together, and the pool "
        f"has {counted(has[column] / 1000, words[name])}: not all of it can be reclaimed"
        for column in np.flatnonzero(promised > has).tolist()
        if (name := queues.columns[column]) in words
    )


def _of_pod(classes: set[str], pod: Pod) -> Iterator[str]:
    wanted = pod.metadata.labels.get(names.PRIORITY_CLASS, "")
    if wanted and wanted not in classes:
        yield (
            f"the policy has no class {wanted!r} (label {names.PRIORITY_CLASS}): no pod that names it is started, and "
            f"one that runs counts with weight 1{did_you_mean(wanted, classes)}"
        )
    duration = pod.metadata.annotations.get(names.ESTIMATED_DURATION, "")
    try:
        units.duration_seconds(duration or "0s")
    except InvalidInput:
        yield f"annotation {names.ESTIMATED_DURATION}: {duration[:80]!r} cannot be read, and counts as none"


def _of_queue(recorded: Recording, queues: set[str], pod: Pod) -> Iterator[str]:
    wanted, by_namespace = queue_named(recorded, pod)
    hint = did_you_mean(wanted, queues) if wanted not in queues else ""
    if hint or (by_namespace and wanted not in queues):
        yield f"the policy has no queue {wanted!r} ({by_namespace or f'label {names.QUEUE}'}){hint}"
