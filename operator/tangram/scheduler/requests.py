"""Carries out single actions at the API server, and records Events of them; what follows is decided in ``writes``."""

from collections.abc import Callable

import msgspec

from tangram import errors
from tangram.api.objects import Pod
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim
from tangram.cluster import objects, paths, writers
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.outcome import Outcome, Result, outcome_of
from tangram.cluster.rest import Client
from tangram.cluster.wire import DECODE_ERRORS
from tangram.plan import Cause, Evict, Hold, Place, PodName, Provision
from tangram.scheduler.writes import NOTHING_TO_SAY, Action, ReadBack
from tangram.snapshot.requests.provisioning import BOUND_BY, SELECTED_NODE
from tangram.snapshot.requests.volumes import VolumeTable
from tangram.units import rfc3339

_POD = msgspec.json.Decoder(Pod)


async def carry_out(
    client: Client,
    action: Action,
    known: Callable[[PodName], Pod | None],
    volumes: VolumeTable | None = None,
    now: float = 0,
) -> Outcome:
    """Carry out an action; ``known`` finds a pod as the watch has shown it last, ``volumes`` know which existing volume
    has been chosen for a claim. ``now``: seconds since the epoch."""
    match action:
        case Place():
            return await writers.bind(client, action)
        case Evict():
            return await writers.evict(client, action)
        case Provision():
            return await _provide(client, action, volumes)
        case ReadBack():
            return await _read_back(client, action.place)
        case Hold():
            pod = known(action.pod)
            if pod is None or pod.spec.node_name or writers.says_already(pod, action):
                return NOTHING_TO_SAY
            return await writers.pod_unschedulable(client, action, since=None if _is_dated(pod) else rfc3339(now))


def _is_dated(pod: Pod) -> bool:
    """Whether it is known since when the pod is known to wait."""
    return any(
        (one.type, one.status) == ("PodScheduled", "False") and one.last_transition_time
        for one in pod.status.conditions
    )


async def _provide(client: Client, provision: Provision, volumes: VolumeTable | None) -> Outcome:
    """Have a volume made for a claim, or let the one be its that has been chosen for it."""
    key = provision.pod.namespace, provision.claim
    chosen = volumes.chosen_volume(key) if volumes is not None else None
    if chosen is not None:
        return await _choose_volume(client, *chosen)
    if volumes is not None and not volumes.makes(key):
        return Outcome(Result.CONFLICT, "the volume that was chosen is not free any more")
    return await _choose_node(client, provision)


async def _choose_node(client: Client, provision: Provision) -> Outcome:
    content = {"metadata": {"annotations": {SELECTED_NODE: provision.node}}}
    kind, namespace = paths.PERSISTENT_VOLUME_CLAIMS, provision.pod.namespace
    return await objects.patch(client, kind.path(provision.claim, namespace), content)


async def _choose_volume(client: Client, volume: PersistentVolume, claim: PersistentVolumeClaim) -> Outcome:
    """Let the volume name the claim, as kube-scheduler does: the volume controller does the rest. A volume that has
    changed meanwhile is a conflict."""
    mine = claim.metadata
    reference = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": mine.namespace, "name": mine.name, "uid": mine.uid,
    }  # fmt: skip
    content = {
        "metadata": {"annotations": {BOUND_BY: "yes"}, "resourceVersion": volume.metadata.resource_version},
        "spec": {"claimRef": reference},
    }
    return await objects.patch(client, paths.PERSISTENT_VOLUMES.path(volume.metadata.name), content)


async def _read_back(client: Client, place: Place) -> Outcome:
    try:
        body = await client.request("GET", paths.PODS.path(place.pod.name, place.pod.namespace))
        pod = _POD.decode(body)
    except errors.TangramError as error:
        return outcome_of(error)
    except DECODE_ERRORS as error:
        return Outcome(Result.FAILED, str(error))
    if pod.metadata.uid != place.pod.uid:
        return Outcome(Result.GONE, "another pod has its name")
    return Outcome(Result.DONE if pod.spec.node_name == place.node else Result.CONFLICT)


def record(recorder: Recorder, action: Place | Evict | Hold) -> None:
    """Record the Event about an action for the pod's owner."""
    pod = action.pod
    about = Regarding("v1", "Pod", pod.name, pod.namespace, pod.uid)
    match action:
        case Place():
            recorder.record(about, "Scheduled", f"Assigned {action}", action="Binding")
        case Hold():
            recorder.record(about, "FailedScheduling", f"{action.reason}: {action.message}", warning=True)
        case Evict():
            # Preemption is no fault, as with kube-scheduler, and what an administrator wants is none either.
            warns = action.claimant is None and action.cause != Cause.QUEUE_DRAINED
            recorder.record(about, action.code, action.note, action="Preempting", warning=warns)


def record_refusal(recorder: Recorder, evict: Evict, said: str) -> None:
    """Record for the pod's owner, and for who has asked for it, that the API server did not let the pod be evicted.

    ``said``: the server's words. A pod that leaves for another one is not named: others are chosen for that one then.
    """
    if evict.claimant is not None:
        return
    about = Regarding("v1", "Pod", evict.pod.name, evict.pod.namespace, evict.pod.uid)
    note = f"Not evicted although {evict.reason}: {said}"
    recorder.record(about, "EvictionRefused", note, action="Preempting", warning=evict.cause != Cause.QUEUE_DRAINED)
