"""What the scheduler writes: bindings, evictions, and the status of pods that wait. See ``outcome`` for the answers."""

from typing import Any

import msgspec

from tangram import errors, plan
from tangram.api import names
from tangram.api.objects import DeviceShare, Pod, write_gpus
from tangram.cluster.outcome import Outcome, Result, outcome
from tangram.cluster.paths import PODS
from tangram.cluster.rest import MERGE_PATCH, STRATEGIC_MERGE_PATCH, Client, Sending
from tangram.cluster.wire import DECODE_ERRORS

UNSCHEDULABLE = "Unschedulable"
"""The only reason of PodScheduled=False on which cluster-autoscaler and Karpenter add nodes."""

_MILLI_PER_HUNDREDTH = 10


class _Metadata(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    name: str
    namespace: str
    uid: str = ""
    annotations: dict[str, str] | None = None


class _Target(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str
    api_version: str = "v1"
    kind: str = "Node"


class _Binding(msgspec.Struct, frozen=True, rename="camel", gc=False):
    metadata: _Metadata
    target: _Target
    api_version: str = "v1"
    kind: str = "Binding"


_ENCODER = msgspec.json.Encoder()
_POD = msgspec.json.Decoder(Pod)


def gpus_annotation(place: plan.Place) -> str | None:
    """The text of the reserved annotation for a decision, None when it gives no devices.

    Raises InvalidInput for a share that the annotation cannot hold: it counts in hundredths of a device.
    """
    if not place.devices:
        return None
    shares: dict[str, tuple[DeviceShare, ...]] = {}
    for container, devices in place.devices:
        for device in devices:
            if device.milli % _MILLI_PER_HUNDREDTH or not 10 <= device.milli <= 1000:
                raise errors.InvalidInput(
                    f"pod {place.pod}", f"milli of device {device.id}", device.milli, "10 to 1000 in steps of 10"
                )
        shares[container] = tuple(
            DeviceShare(device.id, device.milli // _MILLI_PER_HUNDREDTH, device.memory_mib) for device in devices
        )
    return write_gpus(shares)


async def bind(client: Client, place: plan.Place) -> Outcome:
    """Bind the pod to the node and record its devices on it, in one transaction.

    The pod's uid is a precondition, so a pod that was re-created under the name is never bound by an old decision
    (conflict). When the pod is found bound exactly as decided already, because the answer to an earlier attempt was
    lost, that is ``done``.
    """
    pod = place.pod
    annotation = gpus_annotation(place)
    annotations = {names.GPUS: annotation} if annotation is not None else None
    body = _Binding(_Metadata(pod.name, pod.namespace, pod.uid, annotations), _Target(place.node))
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
    ended = await outcome(
        client.request("POST", path + "/binding", body=_ENCODER.encode(body), sending=Sending(guarded=bool(pod.uid)))
    )
    if ended.result is Result.CONFLICT and await _is_bound_as_decided(client, path, place, annotation):
        return Outcome(Result.DONE)
    return ended


async def _is_bound_as_decided(client: Client, path: str, place: plan.Place, annotation: str | None) -> bool:
    try:
        pod = _POD.decode(await client.request("GET", path))
    except (errors.TangramError, *DECODE_ERRORS):
        return False
    return (
        bool(place.pod.uid)
        and pod.metadata.uid == place.pod.uid
        and pod.spec.node_name == place.node
        and pod.metadata.annotations.get(names.GPUS) == annotation
    )


async def evict(client: Client, evict: plan.Evict, grace_seconds: int | None = None) -> Outcome:
    """Ask for the pod's eviction; PodDisruptionBudgets are respected (``refused`` when one says no).

    ``grace_seconds`` replaces the pod's own grace period. A pod re-created under the name is not touched (conflict).
    """
    pod = evict.pod
    options: dict[str, Any] = {"preconditions": {"uid": pod.uid}} if pod.uid else {}
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": options,
    }
    path = PODS.path(pod.name, pod.namespace, "eviction")
    return await outcome(
        client.request("POST", path, body=_ENCODER.encode(body), sending=Sending(guarded=bool(pod.uid)))
    )


async def patch_status(client: Client, path: str, patch: dict[str, Any], *, strategic: bool = False) -> Outcome:
    """Patch the status subresource of the object at ``path``.

    A merge patch replaces whole lists; ``strategic`` (Kubernetes' own kinds only) merges lists by their keys, so that
    one condition can be written without knowing the others. Put ``metadata.uid`` or ``metadata.resourceVersion`` into
    the patch to make it a precondition.
    """
    content_type = STRATEGIC_MERGE_PATCH if strategic else MERGE_PATCH
    body = _ENCODER.encode(patch)
    return await outcome(
        client.request("PATCH", path + "/status", body=body, sending=Sending(content_type, guarded=True))
    )


def says_already(pod: Pod, hold: plan.Hold) -> bool:
    """Whether the pod's status carries exactly what ``pod_unschedulable`` would write."""
    text = _hold_message(hold)
    return pod.status.nominated_node_name == hold.nominated_node and any(
        (c.type, c.status, c.reason, c.message) == ("PodScheduled", "False", UNSCHEDULABLE, text)
        for c in pod.status.conditions
    )


async def pod_unschedulable(client: Client, hold: plan.Hold, *, since: str | None = None) -> Outcome:
    """Write on the pod why it waits: condition PodScheduled=False and the node that is being made free for it.

    The condition's reason is ``Unschedulable``, which autoscalers ask for; our own reason code begins its message.
    ``since`` is the time (RFC 3339) at which the condition turned False; None keeps the time that is there.
    """
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": UNSCHEDULABLE,
        "message": _hold_message(hold),
    }
    if since is not None:
        condition["lastTransitionTime"] = since
    status = {"conditions": [condition], "nominatedNodeName": hold.nominated_node or None}
    patch: dict[str, Any] = {"status": status}
    if hold.pod.uid:
        patch["metadata"] = {"uid": hold.pod.uid}
    return await patch_status(client, PODS.path(hold.pod.name, hold.pod.namespace), patch, strategic=True)


def _hold_message(hold: plan.Hold) -> str:
    return f"{hold.reason}: {hold.message}"
