"""Which volume claims a change may matter to: those are looked at again, with the pods that name them."""

from tangram.api.objects import Pod
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim

ClaimKey = tuple[str, str]
"""(namespace, name)."""


class TouchedClaims:
    """Claims by the volume that they have and, while they have none, by their class; and those that were touched."""

    def __init__(self) -> None:
        self._by_volume: dict[str, set[ClaimKey]] = {}
        self._by_class: dict[str, set[ClaimKey]] = {}
        self._touched: set[ClaimKey] = set()

    def claim(self, key: ClaimKey, before: PersistentVolumeClaim | None, after: PersistentVolumeClaim | None) -> None:
        """A claim has changed; None: it was not, or is not, there."""
        if before is not None:
            table, name = self._place(before)
            found = table[name]
            found.discard(key)
            if not found:
                del table[name]
        if after is not None:
            table, name = self._place(after)
            table.setdefault(name, set()).add(key)
        self._touched.add(key)

    def volume(self, name: str, *versions: PersistentVolume | None, to_class: bool = True) -> None:
        """A volume has changed, which looked, and looks, so: it matters to who has it, and where it is nobody's, and it
        matters ``to_class``, to all claims of its class that have none."""
        self._touched.update(self._by_volume.get(name, ()))
        for volume in versions:
            if volume is None:
                continue
            if volume.spec.claim_ref is None:
                if to_class:
                    self.storage_class(volume.spec.storage_class_name)
            else:
                self._touched.add((volume.spec.claim_ref.namespace, volume.spec.claim_ref.name))

    def storage_class(self, name: str) -> None:
        """A class has changed, or which of its volumes are to be had."""
        self._touched.update(self._by_class.get(name, ()))

    def again(self, key: ClaimKey) -> None:
        """Another volume is meant for the claim than before, or none any more."""
        self._touched.add(key)

    def is_named(self, volume: str) -> bool:
        """Whether a claim says that it has the volume."""
        return volume in self._by_volume

    def take(self) -> set[ClaimKey]:
        """The claims that were touched since the last call."""
        found, self._touched = self._touched, set()
        return found

    def _place(self, claim: PersistentVolumeClaim) -> tuple[dict[str, set[ClaimKey]], str]:
        if claim.spec.volume_name:
            return self._by_volume, claim.spec.volume_name
        return self._by_class, claim.spec.storage_class_name or ""


def claims_of(pod: Pod) -> dict[ClaimKey, bool]:
    """The claims that the pod names, and whether each is made for it alone: an ephemeral volume's claim is, and is
    named after pod and volume."""
    namespace, found = pod.metadata.namespace, dict[ClaimKey, bool]()
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            found.setdefault((namespace, volume.persistent_volume_claim.claim_name), False)
        elif volume.ephemeral is not None:
            found[namespace, f"{pod.metadata.name}-{volume.name}"] = True
    return found


def key_of(claim: PersistentVolumeClaim) -> ClaimKey:
    """By what the claim is known."""
    return claim.metadata.namespace, claim.metadata.name
