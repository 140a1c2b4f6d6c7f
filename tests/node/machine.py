"""A GPU node as the agent sees it: a kubelet on real sockets, GPUs of our making, pods as the watch would show them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from tests.node.kubelet import Admitted, FakeKubelet
from tests.waiting import eventually_async

from tangram.api import names
from tangram.api.objects import Container, DeviceShare, Metadata, Pod, PodSpec, PodStatus, Resources, write_gpus
from tangram.cluster.backoff import Backoff
from tangram.node.agent import Agent, Beside, Giving, Place
from tangram.node.gpus import Condition, Gpu, Health, Inventory, Isolation, Reading
from tangram.node.injection import Injection, Injector
from tangram.node.ledger import Mismatch
from tangram.node.processes import Processes
from tangram.node.slots import FRACTIONS, Slots
from tangram.settings import NodeSettings

NODE = "gpu-node"
QUICK = NodeSettings(
    patience=0.3,
    socket_interval=0.02,
    stream_timeout=0.5,
    probe_interval=0.02,
    reading_interval=0.02,
    driver_patience=0.3,
    compare_interval=0.1,
)


def gpus(count: int, memory_mib: int = 40960) -> tuple[Gpu, ...]:
    """GPU-0, GPU-1, …, the odd ones on the second NUMA node."""
    return tuple(
        Gpu(f"GPU-{n}", n, "A100", memory_mib, numa_node=n % 2, minor_number=n, compute_capability=(8, 0))
        for n in range(count)
    )


def container(
    name: str, gpu: int = 0, *, whole: int = 0, sidecar: bool = False, resource: str = names.GPU_RESOURCE
) -> Container:
    """A container that asks for ``gpu`` hundredths, or for ``whole`` GPUs."""
    limits: dict[str, str | int | float] = {}
    if gpu:
        limits[names.FRACTION_RESOURCE] = gpu
    if whole:
        limits[resource] = whole
    return Container(name, Resources(limits, limits), restart_policy="Always" if sidecar else None)


Record = Mapping[str, Iterable[tuple[str, int] | tuple[str, int, int]]]
"""Container -> (GPU, hundredths[, MiB]), …."""


def pod(
    name: str,
    record: Record | str | None = None,
    *,
    containers: Iterable[Container] = (),
    init: Iterable[Container] = (),
    uid: str = "",
    scheduler: str = names.SCHEDULER_NAME,
    node: str = NODE,
    created: str = "2026-01-01T00:00:00Z",
) -> Pod:
    """A bound pod that has not started; its containers are those of the record unless told."""
    annotations: dict[str, str] = {}
    if isinstance(record, str):
        annotations[names.GPUS] = record
    elif record is not None:
        annotations[names.GPUS] = write_gpus({c: tuple(DeviceShare(*part) for part in p) for c, p in record.items()})
        containers = containers or [container(c, sum(part[1] for part in p)) for c, p in record.items()]
    metadata = Metadata(name, "default", uid or f"uid-{name}", creation_timestamp=created, annotations=annotations)
    spec = PodSpec(tuple(containers), tuple(init), node_name=node, scheduler_name=scheduler)
    return Pod(metadata, spec)


def with_phase(one: Pod, phase: str, *, started: bool = True) -> Pod:
    """The pod in another phase."""
    return msgspec.structs.replace(one, status=PodStatus(phase, start_time="2026-01-01T00:00:01Z" if started else None))


@dataclass
class FakeProbe:
    """GPUs of our making; ``fail`` makes the driver silent, without ``answers`` it hangs."""

    found: tuple[Gpu, ...]
    sick: dict[str, Condition] = field(default_factory=dict)
    fail: Exception | None = None
    answers: threading.Event = field(default_factory=threading.Event)
    read: tuple[Reading, ...] = ()
    wake: Callable[[], None] = lambda: None
    checks: int = 0
    measurements: int = 0

    def __post_init__(self) -> None:
        self.answers.set()

    def inventory(self) -> Inventory:
        self.answers.wait()
        if self.fail is not None:
            raise self.fail
        return Inventory(self.found, "570.1", "13.0")

    def conditions(self) -> dict[str, Condition]:
        return {gpu.uuid: Condition(Health.HEALTHY) for gpu in self.found} | self.sick

    def check(self) -> tuple[Inventory, dict[str, Condition]]:
        self.checks += 1
        return self.inventory(), self.conditions()

    def readings(self) -> tuple[Reading, ...]:
        self.measurements += 1
        return self.read

    def watch(self, wake: Callable[[], None]) -> None:
        self.wake = wake


@dataclass
class Notebook:
    """Remembers what users would be told."""

    mismatches: list[Mismatch] = field(default_factory=list)

    def mismatch(self, found: Mismatch) -> None:
        self.mismatches.append(found)


@dataclass
class Machine:
    """The node while its agent runs."""

    kubelet: FakeKubelet
    agent: Agent
    probe: FakeProbe
    notebook: Notebook
    running: asyncio.Task[None]

    def another_agent(self) -> Agent:
        """One more for the same node, that does not run yet."""
        place, giving = (
            Place(NODE, self.kubelet.plugins, self.kubelet.pod_resources),
            Giving((), Injector(Isolation.EXCLUSIVE)),
        )
        return Agent(place, giving, FakeProbe(()), QUICK, Beside(Notebook(), lambda: Backoff(0.02, 0.1)))

    async def stop(self) -> None:
        """The agent gets SIGTERM."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    def show(self, one: Pod) -> None:
        """The agent's watch sees the pod as it is now."""
        self.agent.put("modified", None, one)

    def hide(self, one: Pod) -> None:
        """The agent's watch sees that the pod is gone."""
        self.agent.put("deleted", one, None)

    async def start(self, one: Pod) -> Admitted:
        """The watch shows the pod, the kubelet admits it and says so; raises Rejected."""
        self.show(one)
        admitted = await self.kubelet.admit(one)
        self.show(with_phase(one, "Running"))
        return admitted

    def end(self, one: Pod) -> None:
        """The pod has come to its end."""
        self.kubelet.remove(one)
        self.show(with_phase(one, "Succeeded"))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a function of no arguments is true."""
        await eventually_async(condition)


@asynccontextmanager
async def machine(
    folder: Path,
    *,
    count: int = 2,
    found: tuple[Gpu, ...] | None = None,
    resources: tuple[Slots, ...] = (FRACTIONS,),
    isolation: Isolation = Isolation.MPS,
    injection: Injection = Injection.ENV,
    kubelet: FakeKubelet | None = None,
    pods: Iterable[Pod] = (),
    pauses: Callable[[], Backoff] = lambda: Backoff(0.02, 0.1),
    reported: asyncio.Event | None = None,
    processes: Processes | None = None,
    **settings: object,
) -> AsyncIterator[Machine]:
    """A node whose agent has registered ``count`` devices: ``found``, or else plain GPUs.

    With ``kubelet`` given, it is an agent that comes back to that one.
    """
    own = kubelet is None
    there = kubelet or FakeKubelet(folder)
    if own:
        await there.start()
    dev = folder / "dev"
    dev.mkdir(exist_ok=True)
    for name in ("nvidiactl", *(f"nvidia{number}" for number in range(count))):
        (dev / name).touch()
    probe, notebook = FakeProbe(gpus(count) if found is None else found), Notebook()
    agent = Agent(
        Place(NODE, there.plugins, there.pod_resources),
        Giving(resources, Injector(isolation, injection, dev=dev, cdi_folders=(folder / "cdi",))),
        probe,
        replace(QUICK, **settings),  # type: ignore[arg-type]
        Beside(notebook, pauses, processes=processes),
    )
    for one in pods:
        agent.put("added", None, one)
    agent.put("synced", None, None)
    running = asyncio.create_task(agent.run(reported=reported))
    try:
        for slots in resources:
            await there.capacity(slots.resource, slots.per_gpu * count)
        here = Machine(there, agent, probe, notebook, running)
        await here.until(lambda: not agent.problems())
        yield here
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if own:
            await there.stop()
