"""A kubelet's device manager and pod-resources API on real sockets, in a few lines, as kubelet 1.36 behaves.

Pods are admitted one after another; each container's devices are taken from those of finished init containers first,
then from what the plugin prefers, then from whatever is free (``devicesToAllocate``). A pod is listed from the moment
in which its admission begins; a rejected one is no longer listed.

With ``lists_rejected`` it lists as kubelets 1.30 to 1.33 do: all pods of the pod manager (``podsProvider.GetPods`` in
``server_v1.go`` where ``KubeletPodResourcesListUseActivePods`` is off), so a rejected one until it is deleted.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from tangram.api.objects import Pod
from tangram.node.wire import deviceplugin_pb2 as wire
from tangram.node.wire import deviceplugin_pb2_grpc, podresources_pb2, podresources_pb2_grpc

Devices = dict[str, dict[str, set[str]]]
"""Container -> resource -> device ids."""


class Rejected(Exception):
    """The pod was not admitted; the text is what its status and Event would say."""


@dataclass
class Admitted:
    """A pod that the kubelet has taken on."""

    pod: Pod
    devices: Devices = field(default_factory=dict)
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    """Container -> device files of the node that it gets."""
    rejected: bool = False


@dataclass
class Endpoint:
    """One registered plugin."""

    name: str
    stub: Any
    channel: grpc.aio.Channel
    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    numa: dict[str, int] = field(default_factory=dict)


class FakeKubelet(deviceplugin_pb2_grpc.RegistrationServicer, podresources_pb2_grpc.PodResourcesListerServicer):
    """Start it, register plugins with it, ``admit`` pods."""

    def __init__(self, folder: Path) -> None:
        self.plugins = folder / "device-plugins"
        self.pod_resources = folder / "pod-resources.sock"
        self.plugins.mkdir(exist_ok=True)
        self.endpoints: dict[str, Endpoint] = {}
        self.pods: dict[str, Admitted] = {}
        self.registrations = 0
        self.lists = 0
        self.list_error: grpc.StatusCode | None = None
        self.affinity: dict[str, set[int]] = {}
        """Resource -> NUMA nodes that the topology manager insists on."""
        self.skip_preference = False
        """Go straight to Allocate, with whichever ids come first."""
        self.lists_rejected = False
        self._server: grpc.aio.Server | None = None
        self._streams: list[asyncio.Task[None]] = []
        self._listed_changed = asyncio.Event()

    async def start(self) -> None:
        for path in self.plugins.iterdir():
            if path.is_socket():
                path.unlink()
        self._server = grpc.aio.server()
        deviceplugin_pb2_grpc.add_RegistrationServicer_to_server(self, self._server)
        podresources_pb2_grpc.add_PodResourcesListerServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.plugins / 'kubelet.sock'}")
        self._server.add_insecure_port(f"unix://{self.pod_resources}")
        await self._server.start()

    async def stop(self) -> None:
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        self._streams.clear()
        for endpoint in self.endpoints.values():
            await endpoint.channel.close()
        self.endpoints.clear()
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def Register(self, request: wire.RegisterRequest, context: Any) -> wire.Empty:  # noqa: N802
        assert request.version == "v1beta1"
        channel = grpc.aio.insecure_channel(
            f"unix://{self.plugins / request.endpoint}", options=(("grpc.use_local_subchannel_pool", 1),)
        )
        endpoint = Endpoint(request.resource_name, deviceplugin_pb2_grpc.DevicePluginStub(channel), channel)
        options = await endpoint.stub.GetDevicePluginOptions(wire.Empty(), wait_for_ready=True)
        assert options.get_preferred_allocation_available
        self.endpoints[request.resource_name] = endpoint
        self.registrations += 1
        self._streams.append(asyncio.create_task(self._watch(endpoint)))
        return wire.Empty()

    async def List(self, request: Any, context: Any) -> podresources_pb2.ListPodResourcesResponse:  # noqa: N802
        self.lists += 1
        if self.list_error is not None:
            await context.abort(self.list_error, "told to")
        response = podresources_pb2.ListPodResourcesResponse()
        for one in self.pods.values():
            if one.rejected and not self.lists_rejected:
                continue
            listed = response.pod_resources.add(name=one.pod.metadata.name, namespace=one.pod.metadata.namespace)
            lasting = [c for c in one.pod.spec.init_containers if c.restart_policy == "Always"]
            for container in (*lasting, *one.pod.spec.containers):
                entry = listed.containers.add(name=container.name)
                for resource, ids in one.devices.get(container.name, {}).items():
                    for device_id in ids:
                        entry.devices.add(resource_name=resource, device_ids=[device_id])
        return response

    async def capacity(self, resource: str, healthy: int, *, seconds: float = 10.0) -> None:
        """Wait until so many ids are healthy."""
        async with asyncio.timeout(seconds):
            while resource not in self.endpoints or len(self.endpoints[resource].healthy) != healthy:
                self._listed_changed.clear()
                await self._listed_changed.wait()

    async def admit(self, pod: Pod) -> Admitted:
        """Give the pod its devices; raises Rejected with what the plugin said."""
        one = self.pods[pod.metadata.uid] = Admitted(pod)
        reusable: dict[str, set[str]] = {}
        try:
            for container in pod.spec.init_containers:
                await self._give(one, container, reusable)
                for resource, ids in one.devices.get(container.name, {}).items():
                    pool = reusable.setdefault(resource, set())
                    pool.difference_update(ids) if container.restart_policy == "Always" else pool.update(ids)
            for container in pod.spec.containers:
                await self._give(one, container, reusable)
                for resource, ids in one.devices.get(container.name, {}).items():
                    reusable.setdefault(resource, set()).difference_update(ids)
        except grpc.aio.AioRpcError as error:
            one.rejected, one.devices = True, {}
            raise Rejected(error.details()) from None
        except Rejected:
            one.rejected, one.devices = True, {}
            raise
        return one

    def reject(self, pod: Pod) -> None:
        """Reject the pod before any plugin is asked, as for pressure on the node."""
        self.pods[pod.metadata.uid] = Admitted(pod, rejected=True)

    def remove(self, pod: Pod) -> None:
        """The pod has come to its end."""
        self.pods.pop(pod.metadata.uid, None)

    def in_use(self, resource: str) -> set[str]:
        return {
            device_id
            for one in self.pods.values()
            for devices in one.devices.values()
            for device_id in devices.get(resource, ())
        }

    async def _give(self, one: Admitted, container: Any, reusable: dict[str, set[str]]) -> None:
        for resource, quantity in container.resources.limits.items():
            endpoint = self.endpoints.get(resource)
            if endpoint is None:
                continue
            ids = await self._choose(endpoint, int(quantity), reusable.get(resource, set()))
            request = wire.AllocateRequest()
            request.container_requests.add(devices_ids=sorted(ids))
            answer = await endpoint.stub.Allocate(request)
            one.devices.setdefault(container.name, {})[resource] = ids
            one.environment[container.name] = dict(answer.container_responses[0].envs)
            one.files[container.name] = [file.host_path for file in answer.container_responses[0].devices]

    async def _choose(self, endpoint: Endpoint, required: int, reusable: set[str]) -> set[str]:
        allocated = set(sorted(reusable)[:required])
        if len(allocated) == required:
            return allocated
        available = endpoint.healthy - self.in_use(endpoint.name)
        wanted = self.affinity.get(endpoint.name)
        aligned = {d for d in available if wanted is not None and endpoint.numa.get(d) in wanted}
        if len(allocated) + len(available) < required:
            raise Rejected(f"requested number of devices unavailable for {endpoint.name}")
        source = aligned if required - len(allocated) < len(aligned) else available
        if source is available:
            allocated |= set(sorted(aligned)[: required - len(allocated)])
        if len(allocated) < required and not self.skip_preference:
            request = wire.PreferredAllocationRequest()
            offered = sorted(source | allocated)
            request.container_requests.add(
                available_deviceIDs=offered, must_include_deviceIDs=sorted(allocated), allocation_size=required
            )
            answer = await endpoint.stub.GetPreferredAllocation(request)
            preferred = set(answer.container_responses[0].deviceIDs) & source
            allocated |= set(sorted(preferred - allocated)[: required - len(allocated)])
        return allocated | set(sorted(source - allocated)[: required - len(allocated)])

    async def _watch(self, endpoint: Endpoint) -> None:
        try:
            async for response in endpoint.stub.ListAndWatch(wire.Empty()):
                endpoint.healthy = {d.ID for d in response.devices if d.health == "Healthy"}
                endpoint.unhealthy = {d.ID for d in response.devices if d.health != "Healthy"}
                endpoint.numa = {d.ID: d.topology.nodes[0].ID for d in response.devices if d.topology.nodes}
                self._listed_changed.set()
        except grpc.aio.AioRpcError:
            endpoint.unhealthy |= endpoint.healthy
            endpoint.healthy = set()
            self._listed_changed.set()
