"""What kubelets make of pods that are bound to them: which they reject, and what they say then."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tangram.api import names
from tangram.api.objects import Pod, read_gpus

REASON = "UnexpectedAdmissionError"
"""What a kubelet calls it when a device plugin refuses, or when it has too few healthy devices."""


class Verdict(NamedTuple):
    """How a kubelet rejects a pod."""

    reason: str
    message: str


@dataclass(slots=True)
class Rejecting:
    """Rules by device and by pod. Pass an instance as a world's ``kubelets``."""

    devices: set[tuple[str, str]] = field(default_factory=set)
    """(node, id): every pod is rejected that gets such a device."""
    pods: set[str] = field(default_factory=set)
    """Every pod is rejected whose name begins so, wherever it gets devices."""
    reason: str = REASON
    rejected: list[str] = field(default_factory=list)
    """Names of the pods that were rejected."""

    def __call__(self, pod: Pod) -> Verdict | None:
        """How the pod is rejected; None: it is not."""
        here = sorted(one for one in _devices_of(pod) if (pod.spec.node_name, one) in self.devices)
        if not here and not any(pod.metadata.name.startswith(prefix) for prefix in self.pods):
            return None
        self.rejected.append(pod.metadata.name)
        why = f"GPU {here[0]} is not given out" if here else "the pod cannot be admitted"
        return Verdict(self.reason, f"Pod was rejected: Allocate failed due to {why}")


def _devices_of(pod: Pod) -> Iterable[str]:
    record = read_gpus(pod.metadata.annotations.get(names.GPUS, "{}"))
    return {share.id for shares in record.values() for share in shares}
