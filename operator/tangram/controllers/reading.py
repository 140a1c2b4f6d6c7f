"""What a reconcile reads: our own objects from their copies or from the server, and pods as the server has them."""

from collections.abc import Iterable

from tangram.api import names
from tangram.api.common import Metadata
from tangram.api.phases import JobPhase, ended_as
from tangram.api.training import TrainingStatus
from tangram.api.views import PodView, controller_of
from tangram.cluster import objects
from tangram.cluster.paths import PODS, Resource
from tangram.cluster.rest import Client
from tangram.controllers.copies import Copies, Key, Object
from tangram.controllers.identity import is_foreign
from tangram.controllers.observed import MANAGED_BY, MANAGER, Source
from tangram.controllers.status import read_status

_MOST_SINGLE = 8
"""Pods that are asked for one by one; more are looked for among all that are ours in the namespace."""


def source_of(name: str, job: Object | None) -> Source:
    """The TrainingJob that makes a model, from the job as it is stored; None when there is none."""
    if job is None:
        return Source(name)
    status, _ = read_status(TrainingStatus, job)
    return Source(name, ended_as(status.conditions) or status.phase or JobPhase.PENDING)


class Reader:
    """Reads for one process; ``copies`` are what its watch has shown."""

    def __init__(self, client: Client) -> None:
        self.copies = Copies()
        self._client = client
        self._whole: dict[Key, dict[str, Object]] = {}
        """Service -> its pods that another version of the controller has made, by uid."""

    async def own(self, kind: Resource, key: Key) -> Object | None:
        """An object of ours as the server has it now; None when it is gone."""
        self.copies.forget(kind, key)
        found = await objects.get(self._client, kind, key[1], key[0])
        if found is None:
            self._whole.pop(key, None)
        else:
            self.copies.put(kind, key, found)
        return found

    async def pods_of(self, label: str, owner: Metadata, known: Iterable[PodView]) -> tuple[PodView, ...]:
        """The pods of a job or service as the server has them now. ``known``: those that the watch shows, of which
        some may have lost the label, also since."""
        selector = {"labelSelector": f"{label}={owner.name}"}
        found = await objects.list_as(self._client, PODS.collection(owner.namespace), PodView, selector)
        listed = {pod.metadata.uid for pod in found}
        lacking = sorted(pod.name for pod in known if pod.metadata.uid not in listed)
        if len(lacking) > _MOST_SINGLE:
            managed = {"labelSelector": f"{MANAGED_BY}={MANAGER}"}
            found += await objects.list_as(self._client, PODS.collection(owner.namespace), PodView, managed)
        else:
            for name in lacking:
                pod = await objects.get_as(self._client, PODS, name, owner.namespace, kind=PodView)
                found += [pod] if pod is not None else []
        by_uid = {pod.metadata.uid: pod for pod in found}
        return tuple(
            pod
            for pod in by_uid.values()
            if (controller := controller_of(pod.metadata)) and controller.uid == owner.uid
        )

    async def whole_pods(self, owner: Metadata, pods: Iterable[PodView]) -> dict[str, Object]:
        """By uid: those of a service's pods that another version has made, as the server has them; asked for once."""
        foreign = {pod.metadata.uid for pod in pods if is_foreign(pod.label(names.TEMPLATE_HASH))}
        key = owner.namespace, owner.name
        known = self._whole.pop(key, {})
        if not foreign <= known.keys():
            selector = f"{names.SERVICE}={owner.name}"
            found = await objects.list_objects(self._client, PODS, owner.namespace, label_selector=selector)
            known = {pod["metadata"]["uid"]: pod for pod in found}
        if kept := {uid: pod for uid, pod in known.items() if uid in foreign}:
            self._whole[key] = kept
        return kept
