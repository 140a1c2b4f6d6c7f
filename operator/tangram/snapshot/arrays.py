"""What is true now, as read-only integer arrays: the only thing that ``decide`` sees.

Axes: N node rows, R resource columns, D device slots per node, S pod shapes, A device asks per shape,
P pending slots, G gangs, C priority classes, T selector terms, K taints. Rows and slots may be holes
(``present`` / ``waiting`` say which are real); names lead back to objects.

A snapshot is a view of the builder's own arrays: it is valid until the builder observes the next change, and nobody
but the builder writes to it. Nothing in it refers to Kubernetes objects, clocks or randomness, so equal snapshots have
equal answers.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tangram.plan import PodName
from tangram.snapshot.values.asks import Given
from tangram.snapshot.values.clauses import Named, all_hold
from tangram.snapshot.values.labels import NO_LABELS, Labels
from tangram.snapshot.values.levels import NO_TOPOLOGY, Topology
from tangram.snapshot.values.models import model_matches
from tangram.snapshot.values.pending import Pending
from tangram.snapshot.values.rules import NO_RELATIONS, Relations
from tangram.snapshot.values.volumes import VolumesOfKind

Int64: TypeAlias = npt.NDArray[np.int64]
Int32: TypeAlias = npt.NDArray[np.int32]
Int8: TypeAlias = npt.NDArray[np.int8]
Bool: TypeAlias = npt.NDArray[np.bool_]
Float64: TypeAlias = npt.NDArray[np.float64]

# The first resource columns; extended resources (whole devices of each vendor, fractions, anything else) follow.
CPU, MEMORY, EPHEMERAL_STORAGE, PODS = range(4)
FIXED_RESOURCES = ("cpu", "memory", "ephemeral-storage", "pods")

UNLIMITED = 1 << 62

# The taint row of nodes that are marked unschedulable: only the toleration of the taint of that name overcomes it.
CORDON = 0

# What a priority class does when no node of its selector fits.
BEST_EFFORT, STRICT, PREEMPT = range(3)

# How a node's devices are given out, a bit for each mode; whatever else an agent reports, or nothing, is OTHER.
MPS, TIME_SLICE, EXCLUSIVE, MIG, OTHER = (1 << bit for bit in range(5))
SHARING, WHOLE_ONLY = MPS | TIME_SLICE, EXCLUSIVE | MIG


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Nodes: what they have and what is left after all bound pods and decisions in flight."""

    names: list[str]
    present: Bool
    """[N] the row is a real node."""
    tie_rank: Int64
    """[N] a fixed shuffled order made of the names; equal scores go to the lowest rank."""
    revision: Int64
    """[N] changes whenever labels, taints, capacity or inventory of the node change, as far as anybody reads them."""
    capacity: Int64
    """[N, R] milli-CPU, MiB, MiB, pods, then units of extended resources."""
    free: Int64
    """[N, R] capacity less requests; may be negative when somebody else overfilled the node."""
    counts_devices: Bool
    """[R] the column counts devices, or parts of them."""
    device_count: Int32
    """[N] devices on the node."""
    device_free: Int32
    """[N, D] milli-GPU left; 0 for slots that do not exist or are unhealthy."""
    device_memory: Int32
    """[N] MiB of one device; 0 when not reported."""
    device_memory_free: Int32
    """[N, D] MiB left on each device."""
    device_ids: list[tuple[str, ...]]
    """Per row the devices' ids as the annotation names them."""
    model: Int32
    """[N] row in ``Snapshot.models``; -1 without devices."""
    isolation: Int8
    """[N] bits of all modes that the node's devices are given out in (``MPS`` …); 0 without devices."""
    terms: Bool
    """[T, N] the selector term holds on the node."""
    taints: Bool
    """[K, N] the node carries the taint; row ``CORDON`` is the cordon's."""
    disliked: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[K] the taint is only disliked (effect PreferNoSchedule); rows beyond its end keep pods away."""
    uncertain: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[N] it is not known which devices a pod that leaves would make free, so nobody is evicted there."""
    avoided: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    """[N] devices that nobody is given for now, as the node's kubelet rejected pods there."""
    links: list[Int32 | None] = field(default_factory=list)
    """Per row [d, d] distances between its devices, however measured; None: not reported, or all are equal."""
    named: list[Named] = field(default_factory=list)
    """Clauses that give nodes by name."""

    def hold(self, clauses: tuple[int, ...]) -> Bool:
        """[N] where all of the clauses hold: 0 and above are rows of ``terms``, -1 holds nowhere, -2 is the first place
        in ``named``, -3 the second and so on."""
        return all_hold(self.terms, self.named, clauses)


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Distinct pod requests: equal pods share a row, so whatever is worked out for one holds for all."""

    request: Int64
    """[S, R] units as in ``Nodes.capacity``."""
    ask_count: Int32
    """[S, A] devices asked for, 0 after the last ask."""
    ask_milli: Int32
    """[S, A] milli-GPU of each device of the ask."""
    ask_memory: Int32
    """[S, A] MiB of each device of the ask; 0: in proportion to ``ask_milli``."""
    ask_containers: list[tuple[Given, ...]]
    """Per shape what each container gets of which ask, by name; containers that hand devices on share an ask."""
    required: list[tuple[tuple[int, ...], ...]]
    """Per shape, alternatives of clauses (``Nodes.hold``) of which one must hold wholly; empty: no requirement."""
    reachable: list[tuple[tuple[tuple[int, ...], ...], ...]]
    """Per shape, for each volume, alternatives of clauses of which one must hold wholly where it can be reached."""
    preferred: list[tuple[tuple[int, tuple[int, ...]], ...]]
    """Per shape (weight, clauses that must all hold) of what is liked in a node."""
    models: list[tuple[int, ...]]
    """Per shape the allowed model rows; empty: any."""
    model_ranks: list[tuple[int, ...]]
    """Per shape of each of them how many groups of models are liked better; empty: all are liked the same."""
    unfit_isolation: Int8
    """[S] bits of the modes in which the shape cannot run, or does not want to."""
    tolerated: Bool
    """[S, K] taints that do not keep the shape away."""
    priority_class: Int32
    """[S] row of the HybridPolicy class; -1: none."""
    leaf: Int32
    """[S] row of the shape's queue and class in ``Snapshot.queues``; -1: the queue that it names does not exist."""
    popularity: Int64
    """[S] how many pods of the shape had arrived, older ones fading, when ``workload_revision`` last changed."""

    def gpu_milli(self, shape: int) -> int:
        """milli-GPU that one pod of the shape asks for, over all its containers."""
        counts, millis = self.ask_count[shape].tolist(), self.ask_milli[shape].tolist()
        return sum(count * milli for count, milli in zip(counts, millis, strict=True))

    def charge(self, shape: int, columns: tuple[str, ...], model: str) -> Int64:
        """[X] what one pod of the shape uses of each queue column on a node of the GPU model (empty: of none)."""
        gpu = self.gpu_milli(shape)
        of_model = (gpu if model and model_matches(column[4:], model) else 0 for column in columns[3:])
        return np.array([self.request.item(shape, CPU), self.request.item(shape, MEMORY), gpu, *of_model], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Gangs:
    """Groups of pods that are bound together or not at all."""

    names: list[str]
    minimum: Int32
    """[G] members that must be bound together."""
    bound: Int32
    """[G] members that are bound, decisions in flight included."""
    waiting: Int32
    """[G] members that wait."""
    finished: Int32
    """[G] members that have ended with success: they count as if they were bound."""
    timeout: Int64
    """[G] seconds after which a gang that is bound in part, or not all there, is given up; 0: never."""
    since: Int64
    """[G] seconds since the epoch since when the gang is in such a state; 0: it is not."""
    role_minimum: list[dict[str, int]]
    """Per gang role -> members of it that must be bound together."""
    role_bound: list[dict[str, int]]
    """Per gang role -> members of it that are bound."""
    role_finished: list[dict[str, int]]
    """Per gang role -> members of it that have ended with success."""
    overdue: dict[int, tuple[tuple[PodName, str], ...]] = field(default_factory=dict)
    """Gang bound in part for longer than its timeout -> (member, node) of those that can be evicted."""

    def role_missing(self, gang: int) -> dict[str, int]:
        """Role -> members of it that have yet to be bound; only the roles that lack some."""
        if not self.role_minimum[gang]:
            return {}
        bound, finished = self.role_bound[gang], self.role_finished[gang]
        lacks = {
            role: minimum - bound.get(role, 0) - finished.get(role, 0)
            for role, minimum in self.role_minimum[gang].items()
        }
        return {role: lack for role, lack in lacks.items() if lack > 0}

    def missing(self, gang: int) -> int:
        """Members that have yet to be bound for the gang to be whole; 0 or less: it is."""
        total = int(self.minimum[gang]) - int(self.bound[gang]) - int(self.finished[gang])
        return max(total, sum(self.role_missing(gang).values()))


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Priority classes of the active HybridPolicy."""

    names: tuple[str, ...]
    weight: Int32
    """[C]"""
    selector: tuple[tuple[int, ...], ...]
    """Per class the clauses that must all hold where it prefers to run; empty: anywhere."""
    fallback: int
    """BEST_EFFORT, STRICT or PREEMPT."""


@dataclass(frozen=True, slots=True, eq=False)
class Queues:
    """The tree of queues; its leaves are (queue, class) pairs. X columns: cpu, memory, gpu, then ``gpu/MODEL``."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    parent: Int32
    """[Q] -1 at the top; a parent's row is not above its children's."""
    weight: Int32
    """[Q] share among siblings."""
    weights: Int32
    """[Q, X] the same for single resources; 0: the resource does not count for the queue's share."""
    guarantee: Int64
    """[Q, X] milli-CPU, MiB, milli-GPU; 0: nothing is promised."""
    limit: Int64
    """[Q, X] UNLIMITED: no limit."""
    usage: Int64
    """[Q, X] of all pods bound below, decisions in flight and places that are held for pods included."""
    pods: Int32
    """[Q] pods of the leaf that are bound, decisions in flight not counted; 0 for queues."""
    recent: Float64
    """[Q, X] milli-CPU and milli-GPU x seconds that have been used, what was a half-life ago counting half; 0 for
    memory, single models and leaves."""
    is_leaf: Bool
    """[Q]"""
    reclaimable: Bool
    """[Q] whether others may take back what is used beyond the guarantee."""
    min_runtime: Int64
    """[Q] seconds that a pod of the queue runs before it can be evicted for others."""


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """Bound pods of ours, in slots; none at all while neither policy nor priorities allow an eviction."""

    names: list[PodName]
    present: Bool
    """[V] the slot holds a pod that runs and that nobody is deleting."""
    exempt: Bool
    """[V] never evicted: it belongs to its node or to the system, or does not say which devices it holds."""
    evictable: Bool
    """[V] present, not exempt, nobody's victim yet and not refused just now."""
    doomed: Bool
    """[V] somebody's victim already, which has not begun to leave."""
    node: Int32
    shape: Int32
    priority: Int32
    gang: Int32
    """[V] gang row; -1: the pod stands alone."""
    role: list[str]
    """Per slot the pod's role in its gang."""
    started: Int64
    """[V] when the pod started, in seconds since the epoch; now, while its kubelet has not said so yet."""
    checkpoint: Int64
    """[V] when the pod says that its work was last saved, in seconds since the epoch; untrusted, 0: never."""
    tie: Int64
    """[V] a number made of the name: breaks ties, whatever the slot."""
    parts: Int32
    """[V, W, 3] device index, milli, MiB of each part of a device that it holds; index -1: no part."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaving:
    """What is about to be free: nodes that pods are leaving, less what is claimed there. L nodes."""

    node: Int32
    """[L] node rows."""
    free: Int64
    """[L, R] what the node gains beyond ``Nodes.free``."""
    device: Int32
    """[L, D] milli-GPU."""
    memory: Int32
    """[L, D] MiB."""
    charges: dict[int, Int64]
    """Leaf row -> [X] what its queue will no longer use."""


@dataclass(frozen=True, slots=True, eq=False)
class Departures:
    """Pods of ours that hold places, in slots, and when they give them back. Whoever is not here stays for ever."""

    delay: int
    """Seconds of waiting after which nodes are held for whoever is first though nobody says when pods end."""
    present: Bool
    """[M]"""
    node: Int32
    """[M] node row."""
    shape: Int32
    """[M]"""
    started: Int64
    """[M] seconds since the epoch."""
    ends: Int64
    """[M] when the pod says that it ends; UNLIMITED: it does not say."""
    milli: Int32
    """[M, D] milli-GPU of each device."""
    memory: Int32
    """[M, D] MiB of each device."""
    leaving: Bool
    """[M] it has been asked to leave."""


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What the workload is worth on this pool, learned by ``decide.pricing.learn``; carried from one cycle to the next.

    Prices are in milli-GPU: an ordinary GPU's worth is about 1000.
    """

    revision: int
    """The ``workload_revision`` that they were learned from; -1: nothing has been learned."""
    pod: Float64
    """[S] price of one pod of each shape, a running mean; 0, or beyond its end: the shape has not been priced."""
    cpu: float
    """Price of a milli-CPU to pods without GPUs, a running mean."""
    latest_pod: Float64
    """[S] the newest estimate."""
    latest_cpu: float
    log_shape: Float64
    """[S] logarithm of the premium on the shape's size."""
    log_models: Float64
    """[S] logarithm of the premium on the shape's set of allowed models."""

    @property
    def any_known(self) -> bool:
        """Whether anything is known of what GPUs are worth; until then all nodes are worth the same."""
        return bool(self.pod.any())


NO_PRICES = Prices(-1, np.zeros(0), 0.01, np.zeros(0), 0.01, np.zeros(0), np.zeros(0))

NOBODY_LEAVES = Leaving(
    np.zeros(0, np.int32), np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int32), {}
)


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """A plugin to use, by name, and how much it weighs."""

    name: str
    weight: int = 1
    args: str = ""
    """Its arguments as JSON, keys in order; empty: none."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that a decision depends on."""

    generation: int
    """Changes when rows or vocabularies were renumbered; whatever was remembered by row is then void."""
    now: int
    """Seconds since the epoch."""
    batch: int
    """Pods to place at most in this cycle; a gang counts whole."""
    resources: tuple[str, ...]
    """[R] names of the resource columns."""
    models: tuple[str, ...]
    """Names of device models."""
    nodes: Nodes
    shapes: Shapes
    pending: Pending
    gangs: Gangs
    classes: Classes
    queues: Queues
    running: Running
    scores: tuple[PluginChoice, ...]
    """Score plugins with their weights, from HybridPolicy ``placement``."""
    workload_revision: int
    """Changes when ``Shapes.popularity`` has moved enough to be looked at again."""
    leaving: Leaving = NOBODY_LEAVES
    evictions: int = 1 << 30
    """Pods to evict at most in this cycle; a claim that would take more waits."""
    prices: Prices = NO_PRICES
    """What has been learned of the workload up to ``Prices.revision``."""
    departures: Departures | None = None
    """When running pods will end; None: nobody waits, or nothing is held back for anybody."""
    topology: Topology = NO_TOPOLOGY
    """Which nodes are near each other, and which gangs ask for that."""
    relations: Relations = NO_RELATIONS
    """Which pods other pods have rules about, and where those are."""
    shared_volumes: dict[int, VolumesOfKind] = field(default_factory=dict)
    """By column, of kinds that waiting pods ask for."""
    labels: Labels = NO_LABELS
    """Labels that the plugins in ``scores`` read."""

    def capacity(self) -> Float64:
        """[X] what the whole pool has of each queue column."""
        nodes, models = self.nodes, self.models
        present, devices = nodes.present, 1000 * nodes.device_count.astype(np.int64)
        totals = [nodes.capacity[present, CPU].sum(), nodes.capacity[present, MEMORY].sum(), devices[present].sum()]
        for column in self.queues.columns[3:]:
            rows = [row for row, model in enumerate(models) if model_matches(column[4:], model)]
            totals.append(devices[present & np.isin(nodes.model, rows)].sum())
        return np.array(totals, np.float64)
