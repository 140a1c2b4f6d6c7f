"""What pods depend on: the labels of their namespaces, the state of their volumes and what protects them from eviction,
watched for the builder."""

from collections.abc import Callable, Coroutine
from typing import Any

from tangram.api.disruption import PodDisruptionBudget
from tangram.api.objects import Namespace
from tangram.api.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.cluster import paths
from tangram.cluster.mirror import Change
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.snapshot.build import Builder


class Surroundings:
    """Keeps the builder's namespaces, volumes and budgets true; ``changed`` is called when a pod that waits may fit
    now."""

    def __init__(self, client: Client, builder: Builder, changed: Callable[[], None]) -> None:
        self._client, self._builder, self._changed = client, builder, changed
        self._missing = {"claims", "volumes", "classes"}
        self.namespaces = ListWatch(client, paths.NAMESPACES.collection(), Namespace, self._on_namespace)
        claims = paths.PERSISTENT_VOLUME_CLAIMS.collection()
        self.claims = ListWatch(client, claims, PersistentVolumeClaim, self._on_claim)
        self.volumes = ListWatch(client, paths.PERSISTENT_VOLUMES.collection(), PersistentVolume, self._on_volume)
        self.classes = ListWatch(client, paths.STORAGE_CLASSES.collection(), StorageClass, self._on_class)
        self.drivers = ListWatch(client, paths.CSI_NODES.collection(), CSINode, self._on_drivers)

        budgets = paths.POD_DISRUPTION_BUDGETS.collection()
        self.budgets = ListWatch(client, budgets, PodDisruptionBudget, self._on_budget)

    @property
    def watches(self) -> tuple[ListWatch[Any], ...]:
        """What is watched."""
        return self.namespaces, self.claims, self.volumes, self.classes, self.drivers, self.budgets

    def runs(self) -> list[Coroutine[Any, Any, None]]:
        """What to run for as long as the scheduler runs."""
        return [watch.run() for watch in self.watches]

    def _on_namespace(self, _change: Change, old: Namespace | None, new: Namespace | None) -> None:
        known = new or old
        if known is not None and (old is None or new is None or old.metadata.labels != new.metadata.labels):
            self._builder.set_namespace(known.metadata.name, new.metadata.labels if new is not None else None)
            self._changed()

    def _on_claim(self, change: Change, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        known = new or old
        if known is not None:
            self._builder.put_claim((known.metadata.namespace, known.metadata.name), new)
        self._after(change, "claims")

    def _on_volume(self, change: Change, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        known = new or old
        if known is not None:
            self._builder.put_volume(known.metadata.name, new)
        self._after(change, "volumes")

    def _on_class(self, change: Change, old: StorageClass | None, new: StorageClass | None) -> None:
        known = new or old
        if known is not None:
            self._builder.put_class(known.metadata.name, new)
        self._after(change, "classes")

    def _on_drivers(self, _change: Change, old: CSINode | None, new: CSINode | None) -> None:
        known = new or old
        if known is not None and (old is None or new is None or old.spec != new.spec):
            self._builder.put_drivers(known.metadata.name, new)
            self._changed()

    def _on_budget(self, _change: Change, old: PodDisruptionBudget | None, new: PodDisruptionBudget | None) -> None:
        known = new or old
        if known is not None and self._builder.put_budget((known.metadata.namespace, known.metadata.name), new):
            self._changed()

    def _after(self, change: Change, kind: str) -> None:
        """Volumes count once all three kinds have been listed; from then on every change may let a pod go on."""
        if change == "synced":
            self._missing.discard(kind)
        if self._missing:
            return
        self._builder.volumes_are_known()
        self._changed()
