"""How full a pool could get at best: an upper bound for any scheduler, from a linear program.

The program knows all arrivals beforehand and may refuse any of them. It relaxes what makes placement hard:

* nodes of one type (CPU, memory, GPUs, model) are one big node: CPU and memory are summed, so that none of it is
  stranded on a single node, and a pod may be cut over several; only a pod that no node of a type holds is kept off it;
* pods are divisible: half a pod may run;
* a share of a GPU that few ask for takes only the room of the next smaller common share.

What it keeps: GPU shares are cut from single GPUs by whole patterns (cutting-stock columns: Gilmore and Gomory,
Operations Research 1961), no pod is served more often than it arrived, and models are respected. No placement, online
or not, can exceed the bound; the best possible one may lie below it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from tangram import units
from tangram.errors import InvalidInput, MissingTool, TangramError
from tangram.simulate.trace import TraceNode, TracePod
from tangram.snapshot.values.models import model_matches

_COMMON = 0.012
"""Part of all shared-GPU pods that a share needs to be cut exactly; with rarer ones the patterns would be too many."""
_MIB_PER_GIB = 1024
_STEP = units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU

Kind = tuple[int, int, int, str]
"""(milli-CPU, MiB, GPUs, model) of a node."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Answer of the program."""

    gpu_allocation_percent: float
    """Of the GPU capacity, at most."""
    patterns: int
    """Ways to cut one GPU that were considered."""


def allocation_bound(nodes: Iterable[TraceNode], arrivals: Iterable[TracePod]) -> Bound:
    """The most of the pool's GPUs that any scheduler could give to these arrivals.

    Raises InvalidInput for nodes without GPUs, MissingTool without the solver (the package highspy), and TangramError
    when it finds no optimum.
    """
    kinds = Counter((node.cpu_milli, node.memory_mib, node.gpus, node.model) for node in nodes)
    capacity = units.MILLI_PER_GPU * sum(gpus * count for (_, _, gpus, _), count in kinds.items())
    if not capacity:
        raise InvalidInput("bound", "nodes", "no GPUs", "at least one node with GPUs")
    pods = Counter(arrivals)
    stands_for = common_shares(pods)
    patterns = maximal_patterns(sorted(set(stands_for.values()) - {0}, reverse=True))
    program = _program(kinds, pods, stands_for, patterns)
    return Bound(100.0 * _solve(program) / capacity, len(patterns))


def solver_is_there() -> bool:
    """Whether the solver is installed."""
    return find_spec("highspy") is not None


def share_of(pod: TracePod) -> int:
    """milli-GPU of a pod that shares one GPU, in whole hundredths as the scheduler gives them; 0 for other pods."""
    if pod.gpus != 1 or pod.gpu_milli >= units.MILLI_PER_GPU:
        return 0
    return -(-pod.gpu_milli // _STEP) * _STEP


def common_shares(pods: Mapping[TracePod, int]) -> dict[int, int]:
    """Share -> the share whose room it takes: itself when common, else the next smaller common one (0: none is)."""
    tally = Counter[int]()
    for pod, count in pods.items():
        if share := share_of(pod):
            tally[share] += count
    common = [share for share, count in tally.items() if count >= _COMMON * tally.total()]
    return {share: max((one for one in common if one <= share), default=0) for share in tally}


def maximal_patterns(shares: Sequence[int]) -> list[dict[int, int]]:
    """Every way to cut one GPU into shares so that none of them fits into the rest; ``shares`` descend."""

    def cut(position: int, left: int) -> Iterator[dict[int, int]]:
        if position == len(shares):
            if not shares or left < shares[-1]:
                yield {}
            return
        share = shares[position]
        for count in range(left // share, -1, -1):
            for rest in cut(position + 1, left - count * share):
                yield ({share: count} if count else {}) | rest

    return [pattern for pattern in cut(0, units.MILLI_PER_GPU) if pattern]


@dataclass(slots=True)
class _Program:
    """Maximize cost * x with rows <= upper and x >= 0, gathered column by column."""

    upper: list[float] = field(default_factory=list)
    rows: dict[tuple[object, ...], int] = field(default_factory=dict)
    cost: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    indices: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def row(self, key: tuple[object, ...], upper: float) -> None:
        self.rows[key] = len(self.upper)
        self.upper.append(upper)

    def column(self, cost: float, entries: Iterable[tuple[tuple[object, ...], float]]) -> None:
        self.cost.append(cost)
        for key, value in entries:
            self.indices.append(self.rows[key])
            self.values.append(value)
        self.starts.append(len(self.indices))


def _program(
    kinds: Mapping[Kind, int],
    pods: Mapping[TracePod, int],
    stands_for: Mapping[int, int],
    patterns: Sequence[Mapping[int, int]],
) -> _Program:
    program = _Program()
    for pod, count in pods.items():
        program.row(("arrived", pod), count)
    for kind, count in kinds.items():
        cpu, memory, gpus, _ = kind
        program.row(("cpu", kind), cpu * count / units.MILLI_PER_GPU)
        program.row(("memory", kind), memory * count / _MIB_PER_GIB)
        program.row(("gpus", kind), gpus * count)
        program.row(("given", kind), gpus * count)
        for share in sorted(set(stands_for.values()) - {0}):
            program.row(("share", share, kind), 0.0)
        for pattern in patterns if gpus else ():
            cut = ((("share", share, kind), -float(times)) for share, times in pattern.items())
            program.column(0.0, [(("gpus", kind), 1.0), *cut])
    for pod in pods:
        for kind in kinds:
            if _may_run(pod, kind):
                program.column(float(_milli(pod)), _takes(pod, kind, stands_for))
    return program


def _takes(pod: TracePod, kind: Kind, stands_for: Mapping[int, int]) -> Iterator[tuple[tuple[object, ...], float]]:
    """What a pod takes of the nodes of a type."""
    yield ("arrived", pod), 1.0
    yield ("cpu", kind), pod.cpu_milli / units.MILLI_PER_GPU
    yield ("memory", kind), pod.memory_mib / _MIB_PER_GIB
    share = share_of(pod)
    if pod.gpus:
        # Rare shares take less room than they hold, but nobody gives away more than there is.
        yield ("given", kind), _milli(pod) / units.MILLI_PER_GPU
    if pod.gpus and not share:
        yield ("gpus", kind), float(pod.gpus)
    elif share and stands_for[share]:
        yield ("share", stands_for[share], kind), 1.0


def _milli(pod: TracePod) -> int:
    return share_of(pod) or pod.gpus * units.MILLI_PER_GPU


def _may_run(pod: TracePod, kind: Kind) -> bool:
    cpu, memory, gpus, model = kind
    if pod.cpu_milli > cpu or pod.memory_mib > memory or pod.gpus > gpus:
        return False
    wanted = [one for one in pod.models.split("|") if one] if pod.gpus else []
    return not wanted or any(model_matches(one.strip(), model) for one in wanted)


def _solve(program: _Program) -> float:
    try:
        import highspy
    except ImportError:
        raise MissingTool(
            "the upper bound needs the package highspy: pip install 'tangram-operator[quality]'"
        ) from None
    import numpy as np

    if not program.cost:
        return 0.0
    model: Any = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.cost), len(program.upper)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = np.array(program.cost)
    model.col_lower_ = np.zeros(len(program.cost))
    model.col_upper_ = np.full(len(program.cost), highspy.kHighsInf)
    model.row_lower_ = np.full(len(program.upper), -highspy.kHighsInf)
    model.row_upper_ = np.array(program.upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.array(program.starts, np.int32)
    model.a_matrix_.index_ = np.array(program.indices, np.int32)
    model.a_matrix_.value_ = np.array(program.values)
    solver: Any = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(model)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise TangramError(f"the upper bound was not found: {solver.modelStatusToString(solver.getModelStatus())}")
    return float(solver.getInfo().objective_function_value)
