"""Volumes of storage drivers of which a node can have only so many: those of a pod, by driver."""

from collections.abc import Collection, Mapping

from tangram.api.objects import Pod
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.snapshot.requests.touched import ClaimKey, claims_of

DriverVolume = tuple[str, str]
"""(storage driver, what it calls the volume)."""


class DriverVolumes:
    """Finds them in the tables of claims, volumes and classes."""

    def __init__(
        self,
        claims: Mapping[ClaimKey, PersistentVolumeClaim],
        volumes: Mapping[str, PersistentVolume],
        classes: Mapping[str, StorageClass],
    ) -> None:
        self._claims, self._volumes, self._classes = claims, volumes, classes
        self.limited: frozenset[str] = frozenset()
        """Storage drivers of which some node can have only so many volumes."""

    def held_by(self, pod: Pod) -> frozenset[DriverVolume]:
        """The pod's volumes, as far as drivers are limited."""
        if not self.limited or not pod.spec.volumes:
            return frozenset()
        found = (self._of_claim(key) for key in claims_of(pod))
        return frozenset(one for one in found if one[0] in self.limited)

    def numbers(self, pod: Pod, without: Collection[DriverVolume] = ()) -> tuple[tuple[str, int], ...]:
        """(storage driver, how many volumes of it the pod has), as in ``Reach``, but for some of them."""
        counts: dict[str, int] = {}
        for driver, _ in self.held_by(pod).difference(without):
            counts[driver] = counts.get(driver, 0) + 1
        return tuple(sorted(counts.items()))

    def _of_claim(self, key: ClaimKey) -> DriverVolume:
        """A claim's volume, or the one that will be made for it; empty: none of a driver's."""
        claim = self._claims.get(key)
        if claim is None:
            return "", ""
        volume = self._volumes.get(claim.spec.volume_name)
        if volume is not None:
            csi = volume.spec.csi
            return (csi.driver, csi.volume_handle) if csi is not None else ("", "")
        made_by = self._classes.get(claim.spec.storage_class_name or "")
        return (made_by.provisioner, f"{key[0]}/{key[1]}") if made_by is not None else ("", "")
