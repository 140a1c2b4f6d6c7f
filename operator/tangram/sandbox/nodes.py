"""Fake GPU nodes: what was asked for, as Node objects, into a cluster.

The objects carry what a real GPU node carries once the kubelet, the device plugins and NVIDIA's GPU feature discovery
have reported, so a node is Ready and whole from the one request that creates it. kwok runs the pods bound to it.
"""

import asyncio
import re
import ssl
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tangram.api import names
from tangram.errors import ClusterError, InvalidInput, NotReachable
from tangram.sandbox.shapes import GpuShape, shape_of

CONCURRENCY = 64
NODES_PER_RACK = 8
RACKS_PER_ZONE = 4
MOST_NODES = 20_000
MOST_GPUS_PER_NODE = 16
_GROUP = re.compile(r"(?P<count>\d+)x(?:(?P<gpus>\d+)x(?P<model>[A-Za-z0-9-]+)|(?P<cpu>[Cc][Pp][Uu]))")
_CONDITIONS = (
    ("Ready", "True", "KubeletReady"),
    ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID"),
)


@dataclass(frozen=True)
class NodeSpec:
    """One fake node to create."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpu_count: int = 0
    model: str | None = None
    """A name of the shape table; None for a node without GPUs."""
    zone: str = "zone-a"
    rack: str = "rack-0"


def parse_nodes(text: str) -> tuple[NodeSpec, ...]:
    """The nodes that ``8x8xA100,4x4xT4,2xCPU`` asks for: 8 nodes of 8 A100, 4 nodes of 4 T4, 2 without GPUs.

    Eight nodes share a rack and four racks a zone. Raises ``InvalidInput`` for anything else than such a list.
    """
    specs: list[NodeSpec] = []
    named: Counter[str] = Counter()
    for group in filter(None, (part.strip() for part in text.split(","))):
        count, gpus, model = _parse_group(group)
        if len(specs) + count > MOST_NODES:
            raise InvalidInput("sandbox", "--nodes", text, f"at most {MOST_NODES} nodes")
        family = (model or "cpu").lower()
        for _ in range(count):
            name = f"{family}-{named[family]}"
            named[family] += 1
            specs.append(_placed(name, gpus, model, len(specs)))
    return tuple(specs)


def _parse_group(group: str) -> tuple[int, int, str | None]:
    found = _GROUP.fullmatch(group)
    form = "NODESxGPUSxMODEL or NODESxCPU, comma between groups, such as 8x8xA100,4x4xT4,2xCPU"
    if not found or int(found["count"]) == 0:
        raise InvalidInput("sandbox", "--nodes", group, form)
    if found["cpu"]:
        return int(found["count"]), 0, None
    gpus = int(found["gpus"])
    if not 1 <= gpus <= MOST_GPUS_PER_NODE:
        raise InvalidInput("sandbox", "--nodes", group, f"1 to {MOST_GPUS_PER_NODE} GPUs on a node")
    shape_of(found["model"], f"sandbox: --nodes: {group}")
    return int(found["count"]), gpus, found["model"].upper()


def _placed(name: str, gpus: int, model: str | None, position: int) -> NodeSpec:
    rack = position // NODES_PER_RACK
    zone = f"zone-{_letters(rack // RACKS_PER_ZONE)}"
    shape = shape_of(model, name) if model else None
    cpu, memory = (shape.cpu_milli * gpus, shape.host_memory_mib * gpus) if shape else (32_000, 128 * 1024)
    return NodeSpec(name, cpu, memory, gpus, model, zone, f"rack-{rack}")


def _letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa: as spreadsheets name columns."""
    last = chr(ord("a") + number % 26)
    return (_letters(number // 26 - 1) if number >= 26 else "") + last


def node_object(spec: NodeSpec, now: datetime | None = None) -> dict[str, Any]:
    """The Node object of ``spec``, Ready, as the API server takes it."""
    shape = shape_of(spec.model, f"node {spec.name}") if spec.model and spec.gpu_count else None
    time = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    resources = {
        "cpu": f"{spec.cpu_milli}m",
        "memory": f"{spec.memory_mib}Mi",
        "ephemeral-storage": "1Ti",
        "pods": "256",
    }
    if shape:
        resources |= {
            "nvidia.com/gpu": str(spec.gpu_count),
            names.FRACTION_RESOURCE: str(spec.gpu_count * 100),
        }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": spec.name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": _labels(spec, shape),
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "phase": "Running",
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": "reported by the sandbox",
                    "lastHeartbeatTime": time,
                    "lastTransitionTime": time,
                }
                for kind, status, reason in _CONDITIONS
            ],
            "addresses": [
                {"type": "InternalIP", "address": _address(spec.name)},
                {"type": "Hostname", "address": spec.name},
            ],
            "nodeInfo": _NODE_INFO,
        },
    }


_NODE_INFO = {
    "architecture": "amd64",
    "operatingSystem": "linux",
    "kubeletVersion": "v1.36.3",
    "kubeProxyVersion": "",
    "containerRuntimeVersion": "fake://0",
    "kernelVersion": "fake",
    "osImage": "fake",
    "machineID": "",
    "systemUUID": "",
    "bootID": "",
}


def _labels(spec: NodeSpec, shape: GpuShape | None) -> dict[str, str]:
    labels = {
        "kubernetes.io/hostname": spec.name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": "sandbox",
        "topology.kubernetes.io/zone": spec.zone,
        "topology.kubernetes.io/rack": spec.rack,
        "type": "kwok",
    }
    if shape is None:
        return labels
    return labels | {
        "accelerator": "nvidia-tesla",
        "node.kubernetes.io/instance-type": f"{shape.machine}-{spec.gpu_count}",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": shape.product,
        "nvidia.com/gpu.family": shape.family,
        "nvidia.com/gpu.machine": shape.machine,
        "nvidia.com/gpu.count": str(spec.gpu_count),
        "nvidia.com/gpu.memory": str(shape.memory_mib),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
        "nvidia.com/gpu.mode": "compute",
        "nvidia.com/gpu.compute.major": str(shape.compute[0]),
        "nvidia.com/gpu.compute.minor": str(shape.compute[1]),
        "nvidia.com/mig.capable": str(shape.compute in {(8, 0), (9, 0), (10, 0)}).lower(),
        "nvidia.com/mps.capable": "false",
        "nvidia.com/cuda.driver-version.full": "580.95.05",
        "nvidia.com/cuda.driver-version.major": "580",
        "nvidia.com/cuda.driver-version.minor": "95",
        "nvidia.com/cuda.driver-version.revision": "05",
        "nvidia.com/cuda.runtime-version.full": "13.0",
        "nvidia.com/cuda.runtime-version.major": "13",
        "nvidia.com/cuda.runtime-version.minor": "0",
    }


def _address(name: str) -> str:
    """A made-up address in 10.32.0.0/11 that is the same for the same name; nothing ever connects to it."""
    number = (10 << 24) + (32 << 16) + 1 + zlib.crc32(name.encode()) % ((1 << 21) - 2)
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


async def create_nodes(
    server: str,
    ca_file: Path,
    token: str,
    nodes: Iterable[NodeSpec],
    *,
    concurrency: int = CONCURRENCY,
) -> int:
    """Create fake nodes, ``concurrency`` requests at a time, and return how many are new; existing ones stay as are.

    Raises ``InvalidInput`` for an unknown model before anything is created, ``ClusterError`` when the API server
    refuses a node, ``NotReachable`` when it does not answer.
    """
    now = datetime.now(UTC)
    bodies = [msgspec.json.encode(node_object(spec, now)) for spec in nodes]
    queue = iter(bodies)
    created = 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal created
        for body in queue:
            is_new = await _create(session, body)
            created += is_new

    secure = ssl.create_default_context(cafile=str(ca_file))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(ssl=secure, limit=concurrency)
    try:
        async with (
            aiohttp.ClientSession(server, connector=connector, headers=headers) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(concurrency, len(bodies))):
                group.create_task(work(session))
    except ExceptionGroup as group:
        first = group.exceptions[0]  # one failure cancels the other requests
        if isinstance(first, aiohttp.ClientError | TimeoutError):
            raise NotReachable(f"{server} does not answer: {first}") from first
        raise first from None
    return created


async def _create(session: aiohttp.ClientSession, body: bytes) -> bool:
    async with session.post("/api/v1/nodes", data=body) as response:
        if response.status == 201:
            await response.read()
            return True
        answer = msgspec.json.decode(await response.read())
        reason, message = answer.get("reason", ""), answer.get("message", f"HTTP {response.status}")
        if response.status == 409 and reason == "AlreadyExists":
            return False
        raise ClusterError(response.status, reason, message)


def create_nodes_blocking(
    server: str, ca_file: Path, token: str, nodes: Iterable[NodeSpec], *, concurrency: int = CONCURRENCY
) -> int:
    """``create_nodes`` for callers that are not in an event loop; an idle loop of the thread is left as it is."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(create_nodes(server, ca_file, token, nodes, concurrency=concurrency))
