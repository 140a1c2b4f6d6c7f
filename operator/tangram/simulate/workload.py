"""What arrives: jobs made of a trace or drawn from a documented mix, in an order that a seed fixes.

Equal pods share one ``PodSpec`` object, so that hundreds of thousands of pods stay cheap.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tangram import units
from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, Resources
from tangram.errors import InvalidInput
from tangram.simulate.trace import TraceNode, TracePod

PODS_PER_NODE = 100_000
"""The traces know no limit of pods on a node, so a traced node's is out of reach."""
_MOST_JOBS = 5_000_000
_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Job:
    """Equal pods that arrive together; more than one is a gang, placed whole or not at all."""

    spec: PodSpec
    gpu_milli: int
    """milli-GPU of each pod."""
    size: int = 1
    annotations: Mapping[str, str] = field(default_factory=dict)
    duration: int | None = None
    """Seconds that a pod runs; None: it stays. The openb protocol lets no pod end."""

    @property
    def demand(self) -> int:
        """milli-GPU of all pods."""
        return self.gpu_milli * self.size


def traced_nodes(rows: Iterable[TraceNode]) -> list[Node]:
    """Node objects of a trace's node list."""
    return [_node(row) for row in rows]


def traced_jobs(rows: Iterable[TracePod]) -> list[Job]:
    """One job per row of a trace's pod list; shares of a GPU are rounded up to percents."""
    known: dict[TracePod, Job] = {}
    return [known[row] if row in known else known.setdefault(row, _job(row)) for row in rows]


def _node(row: TraceNode) -> Node:
    allocatable: dict[str, str | int | float] = {
        "cpu": f"{row.cpu_milli}m",
        "memory": f"{row.memory_mib}Mi",
        "pods": PODS_PER_NODE,
    }
    labels = {"kubernetes.io/hostname": row.name}
    if row.gpus:
        allocatable[names.GPU_RESOURCE] = row.gpus
        allocatable[names.FRACTION_RESOURCE] = row.gpus * units.HUNDREDTHS_PER_GPU
        labels["accelerator"] = "nvidia-tesla"
        if row.model:
            labels["nvidia.com/gpu.product"] = row.model
    return Node(Metadata(row.name, labels=labels), status=NodeStatus(allocatable=allocatable))


def _job(row: TracePod) -> Job:
    requests: dict[str, str | int | float] = {"cpu": f"{row.cpu_milli}m", "memory": f"{row.memory_mib}Mi"}
    milli = row.gpus * row.gpu_milli
    if row.gpus == 1 and row.gpu_milli < units.MILLI_PER_GPU:
        hundredths = -(-row.gpu_milli * units.HUNDREDTHS_PER_GPU // units.MILLI_PER_GPU)
        requests[names.FRACTION_RESOURCE] = hundredths
        milli = hundredths * units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU
    elif row.gpus:
        requests[names.GPU_RESOURCE] = row.gpus
    annotations = {names.GPU_MODELS: row.models} if row.models and row.gpus else {}
    return Job(_spec(requests), milli, annotations=annotations)


def _spec(requests: dict[str, str | int | float]) -> PodSpec:
    container = Container("main", Resources(requests=requests))
    return PodSpec(containers=(container,), scheduler_name=names.SCHEDULER_NAME)


def gpu_capacity(nodes: Iterable[Node]) -> int:
    """milli-GPU of all nodes. Raises InvalidInput when there is none, as there is no share of nothing."""
    total = sum(units.quantity(node.status.allocatable.get(names.GPU_RESOURCE, 0)) for node in nodes)
    if not total:
        raise InvalidInput("simulate", "nodes", "no GPUs", "at least one node with GPUs")
    return total * units.MILLI_PER_GPU


def in_order(jobs: Sequence[Job], seed: int, demand: int) -> list[Job]:
    """The openb protocol: shuffled with the seed, then drawn at random from the same list until ``demand`` milli-GPU.

    Raises InvalidInput for a list that cannot get there.
    """
    mean = sum(job.demand for job in jobs) / max(1, len(jobs))
    if mean * _MOST_JOBS < demand:
        allowed = f"pods that ask for {demand / units.MILLI_PER_GPU:g} GPUs within {_MOST_JOBS} arrivals"
        raise InvalidInput("simulate", "pods", f"{mean / units.MILLI_PER_GPU:g} GPUs a pod", allowed)
    rng = random.Random(seed)  # noqa: S311 - a replay has to be repeatable, not secret
    shuffled = list(jobs)
    rng.shuffle(shuffled)
    return list(_until(demand, _endless(shuffled, rng)))


def _endless(jobs: list[Job], rng: random.Random) -> Iterator[Job]:
    yield from jobs
    while True:
        yield rng.choice(jobs)


def _until(demand: int, jobs: Iterator[Job]) -> Iterator[Job]:
    arrived = 0
    while arrived < demand:
        job = next(jobs)
        arrived += job.demand
        yield job


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job in the generated mix."""

    percent: int
    cpu: tuple[int, ...]
    """Cores, one of them at random; per GPU where there are GPUs."""
    gpus: tuple[int, ...] = (0,)
    hundredths: tuple[int, ...] = ()
    """Shares of one GPU, instead of ``gpus``."""
    sizes: tuple[int, ...] = (1,)


# Shaped after what published cluster traces have in common: most jobs are small and many use a part of a GPU, while
# most GPU time goes to the few large ones.
MIX = (
    Kind(15, cpu=(2, 4, 8, 16)),
    Kind(40, cpu=(2, 4, 6), hundredths=(10, 20, 25, 30, 50, 60, 75)),
    Kind(35, cpu=(4, 6, 8), gpus=(1, 1, 1, 1, 2, 2, 4, 8)),
    Kind(10, cpu=(4, 8), gpus=(1, 2, 4, 8), sizes=(2, 2, 4, 8)),
)
_MEMORY_PER_CORE_MIB = 4096


def generated_jobs(nodes: Sequence[Node], seed: int, *, count: int | None = None, demand: int = 0) -> list[Job]:
    """``count`` jobs drawn from ``MIX``, or as many as it takes to ask for ``demand`` milli-GPU.

    No pod asks for more GPUs than the largest node has.
    """
    largest = max(units.quantity(node.status.allocatable.get(names.GPU_RESOURCE, 0)) for node in nodes)
    rng = random.Random(seed)  # noqa: S311 - a replay has to be repeatable, not secret
    drawn = _drawn(rng, largest)
    if count is not None:
        return [next(drawn) for _ in range(count)]
    return list(_until(demand, drawn))


def _drawn(rng: random.Random, largest: int) -> Iterator[Job]:
    known: dict[tuple[int, int, int], Job] = {}
    while True:
        kind = rng.choices(MIX, [kind.percent for kind in MIX])[0]
        cores, size = rng.choice(kind.cpu), rng.choice(kind.sizes)
        hundredths = rng.choice(kind.hundredths) if kind.hundredths else 0
        gpus = min(rng.choice(kind.gpus), largest)
        key = (cores * max(1, gpus), gpus or -hundredths, size)
        if key not in known:
            known[key] = _generated(cores * max(1, gpus), gpus, hundredths, size)
        yield known[key]


def _generated(cores: int, gpus: int, hundredths: int, size: int) -> Job:
    requests: dict[str, str | int | float] = {"cpu": cores, "memory": f"{cores * _MEMORY_PER_CORE_MIB}Mi"}
    if hundredths:
        requests[names.FRACTION_RESOURCE] = hundredths
    elif gpus:
        requests[names.GPU_RESOURCE] = gpus
    milli = hundredths * units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU or gpus * units.MILLI_PER_GPU
    return Job(_spec(requests), milli, size)


def pods_of(job: Job, number: int, moment: int) -> list[Pod]:
    """The pods of the ``number``-th arrival, created at ``moment``."""
    created = units.rfc3339(moment)
    if job.size == 1:
        name = f"pod-{number}"
        annotations = job.annotations
        return [
            Pod(Metadata(name, _NAMESPACE, name, creation_timestamp=created, annotations=dict(annotations)), job.spec)
        ]
    annotations = {**job.annotations, names.GANG_MIN: str(job.size)}
    labels = {names.GANG: f"job-{number}"}
    return [
        Pod(
            Metadata(name, _NAMESPACE, name, creation_timestamp=created, labels=labels, annotations=annotations),
            job.spec,
        )
        for name in (f"job-{number}-{index}" for index in range(job.size))
    ]
