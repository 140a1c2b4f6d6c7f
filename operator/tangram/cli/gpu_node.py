"""What the node agent reads of its Node and writes as its GPUNode."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tangram import errors
from tangram.api.nodes import OwnNode
from tangram.cluster import objects
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.paths import GPU_NODES, NODES
from tangram.cluster.rest import Client
from tangram.node.agent import Giving
from tangram.node.gpus import Isolation, Probe
from tangram.node.injection import Injector
from tangram.node.loops import OneThread
from tangram.node.nvidia import NvidiaProbe
from tangram.node.predict import Predictor
from tangram.node.software import Software, software
from tangram.node.vendors import NodeResources, VendorProbe, has_devices

_log = logging.getLogger(__name__)

_CHECK_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 15.0, 240.0
"""Seconds between looks at the Node while no device is known, and no vendor therefore; each pause is twice the last."""
_SOFTWARE_SECONDS = 600.0


class GpuNodeBorder:
    """The ``Border`` of one node's GPUNode, and what the kubelet reports of the node."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self.resources = NodeResources({}, {}, {})
        self.undecided = False
        """Nothing was found that says whose devices the node has."""

    async def container_runtime(self) -> str:
        """Name and version of the node's container runtime, such as ``containerd://2.1.4``; empty when not known."""
        try:
            return (await self._node()).status.node_info.container_runtime_version
        except errors.TangramError as error:
            _log.warning("the Node could not be read: %s", error)
            return ""

    async def read(self) -> dict[str, Any] | None:
        """The GPUNode; None when it is not there."""
        return await objects.get(self._client, GPU_NODES, self._name)

    async def node_uid(self) -> str:
        """Identity of the Node."""
        return (await self._node()).metadata.uid

    async def create(self, gpu_node: dict[str, Any]) -> None:
        """Create the GPUNode; one that is there already is left as it is."""
        answer = await objects.create(self._client, gpu_node)
        if answer.result not in (Result.DONE, Result.CONFLICT):
            raise _refused(answer)

    async def apply_status(self, gpu_node: dict[str, Any]) -> bool:
        """Make the status true; False when the GPUNode is not there."""
        answer = await objects.apply(self._client, gpu_node, manager="tangram-node", subresource="status")
        if answer.result is Result.GONE:
            return False
        if not answer.done:
            raise _refused(answer)
        return True

    async def check(self) -> None:
        """Read what the kubelet reports of the node."""
        node = await self._node()
        self.resources = NodeResources(node.status.capacity, node.status.allocatable, node.metadata.labels)

    async def follow(self) -> None:
        """Keep ``resources`` up to date until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.check()
            except errors.TangramError as error:
                _log.warning("the Node could not be read: %s", error)

    async def run_until_decided(self, agent: Coroutine[Any, Any, None], found: Callable[[], bool]) -> None:
        """Run the agent. Where the vendor was undecided, end as soon as the kubelet reports another vendor's devices.

        A vendor's plugin may be installed, or have found its devices, after the agent has started. ``found`` says
        whether the agent has GPUs meanwhile: then there is nothing to decide."""
        running, pause = asyncio.ensure_future(agent), _FIRST_PAUSE
        try:
            while self.undecided and not found():
                if (await asyncio.wait({running}, timeout=pause))[0]:
                    break
                pause = min(_LONGEST_PAUSE, 2 * pause)
                with suppress(errors.TangramError):
                    await self.check()
                if has_devices(self.resources) and not found():
                    _log.info("the node has another vendor's devices: the agent begins anew with them")
                    return
            await running
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def follow_software(self, keep: Callable[[Software], None]) -> None:
        """Find out now and then, until cancelled, which container software the node runs."""
        while True:
            try:
                runtime = (await self._node()).status.node_info.container_runtime_version
                keep(await asyncio.to_thread(software, runtime))
            except errors.TangramError as error:
                _log.warning("the Node could not be read: %s", error)
            await asyncio.sleep(_SOFTWARE_SECONDS)

    async def _node(self) -> OwnNode:
        found = await objects.get_as(self._client, NODES, self._name, kind=OwnNode)
        if found is None:
            raise errors.NotReachable(f"there is no Node {self._name}")
        return found


def _refused(answer: Outcome) -> errors.NotReachable:
    return errors.NotReachable(f"{answer.result.value}: {answer.message}")


async def probe_for(border: GpuNodeBorder, giving: Giving, predict: Predictor, patience: float) -> tuple[Probe, Giving]:
    """The probe for the node's devices: NVIDIA's where there are any, else one that counts another vendor's.

    Those are given out by their vendor's own device plugin, as a whole. A driver of NVIDIA's that has not answered for
    ``patience`` seconds is there, and hangs: the agent begins without it, to say so. Where there are no devices at all
    the agent begins with NVIDIA's probe, and the border is ``undecided``.
    """
    nvidia = NvidiaProbe(predict)
    try:
        async with asyncio.timeout(patience):
            if (await OneThread("first probe").call(nvidia.inventory)).gpus:
                return nvidia, giving
    except TimeoutError:
        return NvidiaProbe(predict), giving  # the other one is still in use by its thread
    except errors.ProbeFailed:
        pass  # a driver that fails now may be there later, unless the devices are another vendor's
    with suppress(errors.TangramError):
        await border.check()
    border.undecided = not has_devices(border.resources)
    if border.undecided:
        return nvidia, giving
    return VendorProbe(lambda: border.resources), Giving((), Injector(Isolation.EXCLUSIVE))
