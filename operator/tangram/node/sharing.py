"""How one GPU is shared among containers: the seam behind which MPS is one way, and another vendor's would be one more.

The agent asks its way before it gives a part of a GPU out, tells it what containers hold, and takes the health of GPUs
from it. ``isolation`` has what each mode promises, and what a container finds in its environment.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tangram.node.gpus import Condition, Gpu, Holding, Isolation


class Sharing(Protocol):
    """A way to share the GPUs of a node."""

    @property
    def mode(self) -> Isolation:
        """What this implements."""
        ...

    def want(self, gpus: Sequence[Gpu]) -> None:
        """These are the GPUs that are there now."""
        ...

    async def admit(self, gpu: Gpu, share: int, memory_mib: int) -> None:
        """A container is about to get this part of a GPU (hundredths; MiB, 0: in proportion). Raises NotReachable when
        the GPU cannot be shared now."""
        ...

    def apply_holdings(self, gpus: Sequence[Gpu], holdings: Sequence[Holding]) -> None:
        """These containers hold parts of these GPUs now."""
        ...

    def problems(self) -> dict[str, str]:
        """By uuid of every GPU that needs something of this way: what is wrong; empty text: nothing."""
        ...

    def conditions(self, seen: Mapping[str, Condition]) -> dict[str, Condition]:
        """Health as the probe has it, and worse where a GPU cannot be shared now."""
        ...

    def servers(self) -> frozenset[int]:
        """Processes on the GPUs that belong to this way and to no container, as numbers of the host."""
        ...

    def ceilings_put_back(self) -> dict[str, int]:
        """By uuid: how often somebody else had changed what holds the clients of a GPU."""
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Unsupervised:
    """Time slices, whole GPUs and MIG slices: the driver or the hardware does all there is to do."""

    mode: Isolation

    def want(self, gpus: Sequence[Gpu]) -> None:
        """Nothing has to be there."""

    async def admit(self, gpu: Gpu, share: int, memory_mib: int) -> None:
        """Nothing has to be said to anybody."""

    def apply_holdings(self, gpus: Sequence[Gpu], holdings: Sequence[Holding]) -> None:
        """Nothing depends on it."""

    def problems(self) -> dict[str, str]:
        """None."""
        return {}

    def conditions(self, seen: Mapping[str, Condition]) -> dict[str, Condition]:
        """As seen."""
        return dict(seen)

    def servers(self) -> frozenset[int]:
        """None."""
        return frozenset()

    def ceilings_put_back(self) -> dict[str, int]:
        """None."""
        return {}

    async def run(self) -> None:
        """Wait."""
        await asyncio.Event().wait()
