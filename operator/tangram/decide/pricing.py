"""Bid prices: what each pod shape is worth on this pool, learned online from the pods that have arrived.

Prices come from the packing problem "serve every shape seen so far in proportion to how often it comes, as far as the
free capacity reaches" (maximum concurrent packing). A few damped multiplicative-weights steps per refresh move each
shape's price up while the priced packing of all free space serves it too seldom, and down while too often (the scheme
of Plotkin, Shmoys and Tardos, Math. of OR 1995; pricing by duals as in network revenue management, Talluri and van
Ryzin 1998). The value of a node under the prices is bounded by the Lagrangian over its CPU::

    value(node) = min over levels l:  l * free CPU + idle_value[idle GPUs] + sum of part_value[free part] of used GPUs

``part_value`` is a knapsack of one GPU's free part, ``idle_value`` the same for idle GPUs of a node, pods of several
GPUs included; both are small tables per GPU model and CPU price level, so a score costs a few look-ups.
"""

from dataclasses import dataclass

import numpy as np

from tangram.decide.jit import kernel, lean_kernel
from tangram.snapshot.arrays import CPU, Bool, Float64, Int32, Int64, Prices, Snapshot

UNIT = 10
"""milli-GPU by which a device is divided in the tables."""
PARTS = 1000 // UNIT
LEVELS = np.array([0, 4, 8, 16, 28, 44, 64, 96, 160, 320]) / 1000.0
"""CPU price levels above the price for pods without GPUs, milli-GPU for a milli-CPU."""
STEPS = 10
GAIN = 0.05
DECAY = 0.05
"""Pull of every log price to zero: a shortage of x percent ends in a premium of about x percent."""
AVERAGE = 0.1
"""Weight of the newest prices in the running mean that placement uses."""
CLIP_SHAPE, CLIP_MODELS = 3.0, 10.0
"""Most oversupply that counts in one step."""
CAP = 2.0
"""A price is at most this many times the pod's GPU demand."""
MOST_SHAPES = 256
"""Shapes that are priced, the commonest first: rarer ones are worth what they ask for."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """The priced shapes as plain arrays, one entry for each."""

    shape: Int64
    """Row in ``Snapshot.shapes``."""
    cpu: Int64
    devices: Int64
    milli: Int64
    """milli-GPU of each device; 1000 when there are several."""
    allowed: Bool
    """[K, M] models that the shape may run on."""
    count: Float64
    """How many have arrived."""

    gpu: Float64
    """milli-GPU that a pod asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Worth of free space by model and CPU level, and the shape that the best packing would put there."""

    part_value: Float64
    """[M, PARTS + 1, L] worth of a device's free part."""
    idle_value: Float64
    """[M, D + 1, L] worth of so many idle devices of a node."""
    part_choice: Int64
    """[M, L, PARTS + 1]"""
    idle_choice: Int64
    """[M, L, D + 1]"""


def demand(snapshot: Snapshot) -> Demand:
    """The shapes that have arrived and that some node could hold when empty, the commonest ``MOST_SHAPES`` of them.

    A shape that can run nowhere is left out: nothing could ever serve it, so its price would only rise and, as the mean
    price stays, make everything else look cheap.
    """
    popularity = snapshot.shapes.popularity
    wanted = _demand_of(snapshot, np.flatnonzero(popularity > 0))
    rows = wanted.shape[_servable(snapshot, wanted)]
    if len(rows) > MOST_SHAPES:
        rows = np.sort(rows[np.argsort(-popularity[rows], kind="stable")[:MOST_SHAPES]])
    return _demand_of(snapshot, rows)


def learned(snapshot: Snapshot) -> tuple[Demand, Float64]:
    """The shapes that the snapshot's prices were learned from, and what a pod of each is worth."""
    rows = np.flatnonzero(snapshot.prices.pod > 0)
    return _demand_of(snapshot, rows), snapshot.prices.pod[rows]


def _demand_of(snapshot: Snapshot, rows: Int64) -> Demand:
    shapes, models = snapshot.shapes, max(1, len(snapshot.models))
    devices = shapes.ask_count[rows].sum(axis=1, dtype=np.int64)
    milli = np.where(devices > 1, 1000, shapes.ask_milli[rows].max(axis=1, initial=0)).astype(np.int64)
    allowed = np.ones((len(rows), models), np.bool_)
    for index, row in enumerate(rows.tolist()):
        if shapes.models[row]:
            allowed[index] = np.isin(np.arange(models), shapes.models[row])
    count = shapes.popularity[rows].astype(np.float64)
    milli = np.where(devices > 0, milli, 0)
    return Demand(rows, shapes.request[rows, CPU], devices, milli, allowed, count, (devices * milli).astype(np.float64))


def _servable(snapshot: Snapshot, wanted: Demand) -> Bool:
    """[K] whether the largest nodes of an allowed model have the devices and the CPU that a pod asks for."""
    nodes, models = snapshot.nodes, wanted.allowed.shape[1]
    most_devices, most_cpu = np.zeros(models, np.int64), np.full(models, -1, np.int64)
    rows = np.flatnonzero(nodes.present & (nodes.device_count > 0))
    np.maximum.at(most_devices, nodes.model[rows], nodes.device_count[rows])
    np.maximum.at(most_cpu, nodes.model[rows], nodes.capacity[rows, CPU])
    enough = (most_devices >= wanted.devices[:, None]) & (most_cpu >= wanted.cpu[:, None])
    with_devices = np.asarray((wanted.allowed & enough).any(axis=1))
    anywhere = nodes.capacity[nodes.present, CPU].max(initial=-1)
    served: Bool = np.where(wanted.devices > 0, with_devices, wanted.cpu <= anywhere)
    return served


def tables(wanted: Demand, price: Float64, cpu_price: float, models: int, most_devices: int) -> Tables:
    """Worth of free space under the prices. Models that the same shapes may run on are worked out once."""
    columns: dict[bytes, int] = {}
    same = [columns.setdefault(wanted.allowed[:, model].tobytes(), len(columns)) for model in range(max(1, models))]
    first = [same.index(number) for number in range(len(columns))]
    size = (len(columns), len(LEVELS))
    part_value, part_choice = np.zeros((*size, PARTS + 1)), np.full((*size, PARTS + 1), -1, np.int64)
    idle_value, idle_choice = np.zeros((*size, most_devices + 1)), np.full((*size, most_devices + 1), -1, np.int64)
    _fill(
        wanted.cpu, wanted.devices, wanted.milli, np.ascontiguousarray(wanted.allowed[:, first]),
        price, cpu_price + LEVELS, part_value, idle_value, part_choice, idle_choice,
    )  # fmt: skip
    # Levels come last, next to each other: whoever asks for a worth asks for it at all levels.
    by_part, by_idle = part_value.transpose(0, 2, 1)[same], idle_value.transpose(0, 2, 1)[same]
    return Tables(np.ascontiguousarray(by_part), np.ascontiguousarray(by_idle), part_choice[same], idle_choice[same])


def learn(snapshot: Snapshot) -> Prices:
    """The next prices: ``snapshot.prices`` moved towards balance with the workload and the space of now.

    Pure; the order of node rows changes no bit of the answer.
    """
    wanted, old, nodes = demand(snapshot), snapshot.prices, snapshot.nodes
    known = len(snapshot.shapes.popularity)
    asked = wanted.gpu
    total = float((wanted.count * asked).sum())
    latest, mean = _continued(old.latest_pod, wanted, known), _continued(old.pod, wanted, known)
    priced = np.zeros(known)
    log_shape, log_models = np.zeros(known), np.zeros(known)
    log_shape[: len(old.log_shape)], log_models[: len(old.log_models)] = old.log_shape, old.log_models
    if not total:
        return Prices(snapshot.workload_revision, priced, old.cpu, latest, old.latest_cpu, log_shape, log_models)
    by_size = _groups(np.stack([wanted.cpu, wanted.devices, wanted.milli], axis=1))
    by_models = _groups(wanted.allowed)
    market = _Market(
        log_size=_of_group(log_shape[wanted.shape], by_size),
        log_models=_of_group(log_models[wanted.shape], by_models),
        price=latest[wanted.shape].copy(), mean=mean[wanted.shape].copy(),
        cpu=old.latest_cpu, cpu_mean=old.cpu,
    )  # fmt: skip
    rows = np.flatnonzero(nodes.present)
    # Sums of floats depend on their order, so it must not be that of the rows. CPU promised twice is none, not a debt.
    rows = rows[np.argsort(nodes.tie_rank[rows], kind="stable")]
    space = (
        np.maximum(nodes.free[rows, CPU], 0), nodes.device_free[rows], nodes.device_count[rows], nodes.model[rows]
    )  # fmt: skip
    for _ in range(STEPS):
        if not _step(market, wanted, by_size, by_models, space, len(snapshot.models)):
            break
    latest[wanted.shape], priced[wanted.shape] = market.price, market.mean
    log_shape[wanted.shape] = market.log_size[by_size]
    log_models[wanted.shape] = market.log_models[by_models]
    return Prices(snapshot.workload_revision, priced, market.cpu_mean, latest, market.cpu, log_shape, log_models)


@dataclass(slots=True)
class _Market:
    log_size: Float64
    log_models: Float64
    price: Float64
    mean: Float64
    cpu: float
    cpu_mean: float


def _step(
    market: _Market, wanted: Demand, by_size: Int64, by_models: Int64,
    space: tuple[Int64, Int32, Int32, Int32], models: int,
) -> bool:  # fmt: skip
    """Move every price once; False when nothing is left to price."""
    cpu, device_free, device_count, model = space
    made = tables(wanted, market.price, market.cpu, models, device_free.shape[1])
    levels, supply = market.cpu + LEVELS, np.zeros(len(wanted.shape))
    worth, spare_cpu = _serve(
        cpu, device_free, device_count, model, levels, wanted.cpu, wanted.devices, wanted.milli,
        made.part_value, made.idle_value, made.part_choice, made.idle_choice, supply,
    )  # fmt: skip
    asked = wanted.gpu
    all_asked = float((wanted.count * asked).sum())
    times = worth / all_asked
    if times <= 0:
        return False
    with_gpu = asked > 0
    _move(market.log_size, by_size, with_gpu, supply, wanted.count * times, CLIP_SHAPE)
    _move(market.log_models, by_models, with_gpu, supply * asked, wanted.count * asked * times, CLIP_MODELS)
    cpu_only = float((wanted.count * wanted.cpu)[~with_gpu].sum())
    if cpu_only > 0:
        shortage = 1 - min(spare_cpu / (cpu_only * times), CLIP_SHAPE)
        market.cpu = max(market.cpu * float(np.exp(GAIN * shortage)), 1e-5)
    price = np.exp(market.log_size[by_size] + market.log_models[by_models]) * asked
    # The mean price of a milli-GPU stays at one, else all prices drift together and mean nothing.
    scale = all_asked / (cpu_only * market.cpu + float((wanted.count * price).sum()))
    market.log_size = np.minimum(np.maximum(market.log_size + np.log(scale), -4.0), 1.0)
    market.log_models = np.minimum(np.maximum(market.log_models, -1.0), 1.0)
    market.cpu *= scale
    market.cpu_mean += AVERAGE * (market.cpu - market.cpu_mean)
    market.price = np.minimum(price * scale, CAP * asked)
    market.mean += AVERAGE * (market.price - market.mean)
    return True


def _move(log_price: Float64, group: Int64, counts: Bool, got: Float64, want: Float64, clip: float) -> None:
    """One damped step of each group's log price towards getting what it wants."""
    got_by = np.bincount(group[counts], got[counts], len(log_price))
    want_by = np.bincount(group[counts], want[counts], len(log_price))
    some = want_by > 0
    shortage = 1 - np.minimum(got_by[some] / want_by[some], clip)
    log_price[some] += GAIN * shortage - DECAY * log_price[some]


def _continued(price: Float64, wanted: Demand, known: int) -> Float64:
    """Prices of all shapes: the ones known, and for new shapes what they ask for."""
    out = np.zeros(known)
    out[: len(price)] = price
    fresh = (wanted.shape >= len(price)) | (out[wanted.shape] == 0)
    out[wanted.shape[fresh]] = wanted.gpu[fresh]
    return out


def _groups(rows: "Int64 | Bool") -> Int64:
    """[K] a number for each distinct row."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _of_group(values: Float64, group: Int64) -> Float64:
    """[G] the value that the members of each group share; a group's new members have none yet (0)."""
    out = np.zeros(int(group.max(initial=-1)) + 1)
    for index in np.argsort(np.abs(values), kind="stable").tolist():
        out[group[index]] = values[index]
    return out


@kernel
def _fill(
    cpu: Int64, devices: Int64, milli: Int64, allowed: Bool, price: Float64, levels: Float64,
    part_value: Float64, idle_value: Float64, part_choice: Int64, idle_choice: Int64,
) -> None:  # fmt: skip
    """Knapsacks over the parts of one device and over the idle devices of one node."""
    most = idle_value.shape[2] - 1
    for model in range(part_value.shape[0]):
        for level in range(len(levels)):
            gain, who = np.zeros(PARTS + 1), np.full(PARTS + 1, -1, np.int64)
            many_gain, many_who = np.zeros(most + 1), np.full(most + 1, -1, np.int64)
            for k in range(len(cpu)):
                if devices[k] == 0 or devices[k] > most or not allowed[k, model]:
                    continue
                net = price[k] - levels[level] * cpu[k]
                if devices[k] == 1:
                    size = (milli[k] + UNIT - 1) // UNIT
                    if net > gain[size]:
                        gain[size], who[size] = net, k
                elif net > many_gain[devices[k]]:
                    many_gain[devices[k]], many_who[devices[k]] = net, k
            _pack_parts(gain, who, part_value[model, level], part_choice[model, level])
            _pack_idle(many_gain, many_who, part_value[model, level, PARTS], idle_value[model, level],
                       idle_choice[model, level])  # fmt: skip


@kernel
def _pack_parts(gain: Float64, who: Int64, value: Float64, choice: Int64) -> None:
    sizes = np.flatnonzero(who >= 0)
    for part in range(1, PARTS + 1):
        best, chosen = value[part - 1], -1
        for size in sizes:
            if size > part:
                break
            worth = value[part - size] + gain[size]
            if worth > best + 1e-9:
                best, chosen = worth, who[size]
        value[part], choice[part] = best, chosen


@kernel
def _pack_idle(gain: Float64, who: Int64, one_device: float, value: Float64, choice: Int64) -> None:
    for idle in range(1, len(value)):
        best, chosen = value[idle - 1] + one_device, -1
        for size in range(2, idle + 1):
            if who[size] >= 0:
                worth = value[idle - size] + gain[size]
                if worth > best + 1e-9:
                    best, chosen = worth, who[size]
        value[idle], choice[idle] = best, chosen


@lean_kernel
def node_worth(
    row: int, cpu: int, device_free: Int32, device_count: int, model: int, levels: Float64,
    part_value: Float64, idle_value: Float64, worth: Float64,
) -> tuple[int, int]:  # fmt: skip
    """Write the Lagrangian of one node at every CPU level; (level at which it is least, idle devices)."""
    idle, least = 0, 0
    for level in range(len(levels)):
        worth[level] = levels[level] * cpu
    for device in range(device_count):
        left = device_free[row, device]
        if left >= 1000:
            idle += 1
        elif left > 0:
            for level in range(len(levels)):
                worth[level] += part_value[model, left // UNIT, level]
    if device_count > 0:
        for level in range(len(levels)):
            worth[level] += idle_value[model, idle, level]
    for level in range(len(levels)):
        if worth[level] < worth[least]:
            least = level
    return least, idle


@kernel
def _serve(
    cpu: Int64, device_free: Int32, device_count: Int32, model: Int32, levels: Float64,
    pod_cpu: Int64, pod_devices: Int64, pod_milli: Int64,
    part_value: Float64, idle_value: Float64, part_choice: Int64, idle_choice: Int64, supply: Float64,
) -> tuple[float, float]:  # fmt: skip
    """Pods of each shape in the priced packing of all free space; its worth, and the CPU it leaves over."""
    models, count = part_value.shape[0], len(levels)
    parts, idles = np.zeros((models, count, PARTS + 1)), np.zeros((models, count, idle_value.shape[1]))
    room, worth, total, spare = np.zeros((models, count)), np.zeros(count), 0.0, 0.0
    for row in range(len(cpu)):
        least, idle = node_worth(
            row, cpu[row], device_free, device_count[row], model[row], levels, part_value, idle_value, worth
        )
        total += worth[least]
        if device_count[row] == 0:
            spare += max(cpu[row], 0)
            continue
        room[model[row], least] += cpu[row]
        for device in range(device_count[row]):
            if 0 < device_free[row, device] < 1000:
                parts[model[row], least, device_free[row, device] // UNIT] += 1
        idles[model[row], least, idle] += 1
    for one in range(models):
        for level in range(count):
            used = _unpack_idle(idles[one, level], parts[one, level], idle_choice[one, level], pod_cpu, pod_devices,
                                supply)  # fmt: skip
            used += _unpack_parts(parts[one, level], part_choice[one, level], pod_cpu, pod_milli, supply)
            spare += max(room[one, level] - used, 0.0)
    return total, spare


@kernel
def _unpack_idle(
    idles: Float64, parts: Float64, choice: Int64, pod_cpu: Int64, pod_devices: Int64, supply: Float64
) -> float:
    used = 0.0
    for idle in range(len(idles) - 1, 0, -1):
        many, chosen = idles[idle], choice[idle]
        if many > 0:
            if chosen < 0:
                idles[idle - 1] += many
                parts[PARTS] += many
            else:
                supply[chosen] += many
                used += many * pod_cpu[chosen]
                idles[idle - pod_devices[chosen]] += many
    return used


@kernel
def _unpack_parts(parts: Float64, choice: Int64, pod_cpu: Int64, pod_milli: Int64, supply: Float64) -> float:
    used = 0.0
    for part in range(PARTS, 0, -1):
        many, chosen = parts[part], choice[part]
        if many > 0:
            if chosen < 0:
                parts[part - 1] += many
            else:
                supply[chosen] += many
                used += many * pod_cpu[chosen]
                parts[part - (pod_milli[chosen] + UNIT - 1) // UNIT] += many
    return used
