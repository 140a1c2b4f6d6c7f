"""Volumes that could not be made for the node that had been chosen."""

from collections.abc import Collection

from tangram.api.objects import Pod
from tangram.snapshot.requests.touched import ClaimKey, claims_of


class Failures:
    """The last attempt at the volume of each claim, as far as it failed."""

    def __init__(self) -> None:
        self._node: dict[ClaimKey, str] = {}
        """Claim -> the node for which its volume could not be made."""

    def note(self, key: ClaimKey, node: str) -> None:
        """The volume could not be made for the node."""
        self._node[key] = node

    def forget(self, key: ClaimKey) -> None:
        """The claim has a volume, is gone, or another attempt is made."""
        self._node.pop(key, None)

    def asked_anew(self, pod: Pod) -> None:
        """The volumes of a pod are to be made; what became of earlier attempts is of no more interest."""
        for key in claims_of(pod):
            self.forget(key)

    def sentence(self, pod: Pod, nodes: Collection[str]) -> str:
        """Which volume of the pod could not be made for one of the nodes; empty: none."""
        failed = [(key[1], node) for key in claims_of(pod) if (node := self._node.get(key)) in nodes]
        return "the volume of claim {} could not be made for node {}".format(*failed[0]) if failed else ""
