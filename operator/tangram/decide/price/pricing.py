"""Bid prices: what each pod shape is worth on this pool, learned online from the pods that have arrived.

Prices come from the packing problem "serve every shape seen so far in proportion to how often it comes, as far as the
free capacity reaches" (maximum concurrent packing). A few damped multiplicative-weights steps per refresh move each
shape's price up while the priced packing of all free space serves it too seldom, and down while too often (the scheme
of Plotkin, Shmoys and Tardos, Math. of OR 1995; pricing by duals as in network revenue management, Talluri and van
Ryzin 1998). What free space is worth under the prices is worked out in ``worth``.
"""

from typing import NamedTuple

import numpy as np

from tangram.decide.fit.kernels import WHOLE
from tangram.decide.jit import kernel
from tangram.decide.price.worth import (
    LEVEL_COUNT,
    LEVELS,
    PARTS,
    UNIT,
    Demand,
    FreeParts,
    Place,
    Tables,
    Values,
    empty_tables,
    fill_tables,
    free_parts,
    least_worth,
    numbered,
    row_bytes,
)
from tangram.snapshot.arrays import CPU, Bool, Float64, Int32, Int64, Prices, Shapes, Snapshot

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


def demand(snapshot: Snapshot) -> Demand:
    """The shapes that have arrived and that some node could hold when empty, the commonest ``MOST_SHAPES`` of them.

    A shape that can run nowhere is left out: nothing could ever serve it, so its price would only rise and, as the mean
    price stays, make everything else look cheap.
    """
    popularity = snapshot.shapes.popularity
    models = len(snapshot.models)
    wanted = _demand_of(snapshot.shapes, models, np.flatnonzero(popularity > 0))
    served = _servable(snapshot, wanted)
    if served.all() and len(served) <= MOST_SHAPES:
        return wanted
    rows = wanted.shape[served]
    if len(rows) > MOST_SHAPES:
        rows = np.sort(rows[np.argsort(-popularity[rows], kind="stable")[:MOST_SHAPES]])
    return _demand_of(snapshot.shapes, models, rows)


def learned(shapes: Shapes, models: int, prices: Prices) -> tuple[Demand, Float64]:
    """The shapes that the prices were learned from, and what a pod of each is worth; ``models``: how many there are."""
    rows = np.flatnonzero(prices.pod > 0)
    return _demand_of(shapes, models, rows), prices.pod[rows]


def _demand_of(shapes: Shapes, models: int, rows: Int64) -> Demand:
    models = max(1, models)
    gpu = (shapes.ask_count[rows].astype(np.int64) * shapes.ask_milli[rows]).sum(axis=1)
    devices = -(-gpu // WHOLE)  # parts that several containers ask for share devices as far as they can
    milli = np.where(devices > 1, WHOLE, gpu)
    allowed = np.ones((len(rows), models), np.bool_)
    for index, row in enumerate(rows.tolist()):
        if shapes.models[row]:
            allowed[index] = np.isin(np.arange(models), shapes.models[row])
    count = shapes.popularity[rows].astype(np.float64)
    return Demand(rows, shapes.request[rows, CPU], devices, milli, allowed, count, gpu.astype(np.float64))


def _servable(snapshot: Snapshot, wanted: Demand) -> Bool:
    """[K] whether the largest nodes of an allowed model have the devices and the CPU that a pod asks for."""
    nodes, models = snapshot.nodes, wanted.allowed.shape[1]
    most_devices, most_cpu = np.zeros(models, np.int64), np.full(models, -1, np.int64)
    anywhere = _largest(nodes.present, nodes.device_count, nodes.model, nodes.capacity, (most_devices, most_cpu))
    enough = (most_devices >= wanted.devices[:, None]) & (most_cpu >= wanted.cpu[:, None])
    with_devices = np.asarray((wanted.allowed & enough).any(axis=1))
    served: Bool = np.where(wanted.devices > 0, with_devices, wanted.cpu <= anywhere)
    return served


@kernel
def _largest(present: Bool, device_count: Int32, model: Int32, capacity: Int64, most: tuple[Int64, Int64]) -> int:
    """Write the most devices and the most CPU of a node with devices, by model; the most CPU of any node, -1: none."""
    devices, cpu = most
    anywhere = -1
    for row in range(len(present)):
        if not present[row]:
            continue
        anywhere = max(anywhere, capacity[row, CPU])
        if device_count[row] > 0:
            devices[model[row]] = max(devices[model[row]], device_count[row])
            cpu[model[row]] = max(cpu[model[row]], capacity[row, CPU])
    return anywhere


class _Market(NamedTuple):
    """Prices while they are learned; ``_balance`` writes to them."""

    log_size: Float64
    """[A] logarithm of the premium on each size of pod."""
    log_models: Float64
    """[B] logarithm of the premium on each set of models."""
    by_size: Int64
    """[K] entry of each shape in ``log_size``."""
    by_models: Int64
    """[K] entry of each shape in ``log_models``."""
    price: Float64
    """[K] newest price."""
    mean: Float64
    """[K] running mean of the price."""


class _Space(NamedTuple):
    """What is free on each node, in an order that no row number decides."""

    cpu: Int64
    free: FreeParts
    device_count: Int32
    model: Int32


class _Served(NamedTuple):
    """What a packing of all free space gives, to be written to."""

    level_of: Int64
    """[N] the level at which each node was worth least at the prices before, and is so at these then."""
    supply: Float64
    """[K] pods of each shape."""


class _Wants(NamedTuple):
    """What shapes get and want."""

    counts: Bool
    """[K] which of them count."""
    got: Float64
    want: Float64


def learn(snapshot: Snapshot) -> Prices:
    """The next prices: ``snapshot.prices`` moved towards balance with the workload and the space of now.

    Pure; the order of node rows changes no bit of the answer.
    """
    wanted, old, nodes = demand(snapshot), snapshot.prices, snapshot.nodes
    known = len(snapshot.shapes.popularity)
    latest, mean = _continued(old.latest_pod, wanted, known), _continued(old.pod, wanted, known)
    priced = np.zeros(known)
    log_shape, log_models = np.zeros(known), np.zeros(known)
    log_shape[: len(old.log_shape)], log_models[: len(old.log_models)] = old.log_shape, old.log_models
    if not (wanted.arrived * wanted.gpu).any():
        return Prices(snapshot.workload_revision, priced, old.cpu, latest, old.latest_cpu, log_shape, log_models)
    by_size = numbered(zip(wanted.cpu.tolist(), wanted.devices.tolist(), wanted.milli.tolist(), strict=True))
    by_models = numbered(row_bytes(wanted.allowed))
    market = _Market(
        _of_group(log_shape[wanted.shape], by_size), _of_group(log_models[wanted.shape], by_models),
        by_size, by_models, latest[wanted.shape], mean[wanted.shape],
    )  # fmt: skip
    rows = np.flatnonzero(nodes.present)
    # Sums of floats depend on their order, so it must not be that of the rows. CPU promised twice is none, not a debt.
    rows = rows[np.argsort(nodes.tie_rank[rows], kind="stable")]
    space = _Space(
        np.maximum(nodes.free[rows, CPU], 0), free_parts(nodes.device_free[rows], nodes.device_count[rows]),
        nodes.device_count[rows], nodes.model[rows],
    )  # fmt: skip
    made = empty_tables(wanted, nodes.device_free.shape[1])
    latest_cpu, cpu = _balance(market, (old.latest_cpu, old.cpu), wanted, space, made)
    latest[wanted.shape], priced[wanted.shape] = market.price, market.mean
    log_shape[wanted.shape] = market.log_size[by_size]
    log_models[wanted.shape] = market.log_models[by_models]
    return Prices(snapshot.workload_revision, priced, cpu, latest, latest_cpu, log_shape, log_models)


def _continued(price: Float64, wanted: Demand, known: int) -> Float64:
    """Prices of all shapes: the ones known, and for new shapes what they ask for."""
    out = np.zeros(known)
    out[: len(price)] = price
    fresh = (wanted.shape >= len(price)) | (out[wanted.shape] == 0)
    out[wanted.shape[fresh]] = wanted.gpu[fresh]
    return out


def _of_group(values: Float64, group: Int64) -> Float64:
    """[G] the value that the members of each group share; a group's new members have none yet (0)."""
    out = np.zeros(int(group.max(initial=-1)) + 1)
    order = np.argsort(np.abs(values), kind="stable")
    out[group[order]] = values[order]  # where several members have one, the last holds
    return out


@kernel
def _balance(
    market: _Market, cpu_prices: tuple[float, float], wanted: Demand, space: _Space, made: Tables
) -> tuple[float, float]:
    """Move every price ``STEPS`` times; (newest price of a milli-CPU, its running mean), which were ``cpu_prices``."""
    cpu, cpu_mean = cpu_prices
    levels = LEVELS
    count, asked = wanted.arrived, wanted.gpu
    with_gpu, all_asked = asked > 0, (wanted.arrived * wanted.gpu).sum()
    cpu_only = (count * wanted.cpu)[~with_gpu].sum()
    supply = np.zeros(len(asked))
    served = _Served(np.zeros(len(space.cpu), np.int64), supply)
    for _ in range(STEPS):
        fill_tables(made, wanted, market.price, cpu + levels)
        worth, spare_cpu = _serve(space, cpu + levels, wanted, made, served)
        times = worth / all_asked
        if times <= 0:
            break
        each = _Wants(with_gpu, supply, count * times)
        _move(market.log_size, market.by_size, each, CLIP_SHAPE)
        whole = _Wants(with_gpu, supply * asked, count * asked * times)
        _move(market.log_models, market.by_models, whole, CLIP_MODELS)
        if cpu_only > 0:
            shortage = 1 - min(spare_cpu / (cpu_only * times), CLIP_SHAPE)
            cpu = max(cpu * np.exp(GAIN * shortage), 1e-5)
        price = np.exp(market.log_size[market.by_size] + market.log_models[market.by_models]) * asked
        # The mean price of a milli-GPU stays at one, else all prices drift together and mean nothing.
        scale = all_asked / (cpu_only * cpu + (count * price).sum())
        market.log_size[:] = np.minimum(np.maximum(market.log_size + np.log(scale), -4.0), 1.0)
        market.log_models[:] = np.minimum(np.maximum(market.log_models, -1.0), 1.0)
        cpu *= scale
        cpu_mean += AVERAGE * (cpu - cpu_mean)
        market.price[:] = np.minimum(price * scale, CAP * asked)
        market.mean[:] += AVERAGE * (market.price - market.mean)
    return cpu, cpu_mean


@kernel
def _move(log_price: Float64, group: Int64, wants: _Wants, clip: float) -> None:
    """One damped step of each group's log price towards getting what it wants."""
    got_by, want_by = np.zeros(len(log_price)), np.zeros(len(log_price))
    for k in range(len(group)):
        if wants.counts[k]:
            got_by[group[k]] += wants.got[k]
            want_by[group[k]] += wants.want[k]
    for one in range(len(log_price)):
        if want_by[one] > 0:
            shortage = 1 - min(got_by[one] / want_by[one], clip)
            log_price[one] += GAIN * shortage - DECAY * log_price[one]


@kernel
def _serve(space: _Space, levels: Float64, wanted: Demand, made: Tables, served: _Served) -> tuple[float, float]:
    """Write the pods of each shape in the priced packing of all free space; its worth, and the CPU it leaves over."""
    level_of, supply = served.level_of, served.supply
    models = len(made.of_model)
    parts, idles = np.zeros((models, LEVEL_COUNT, PARTS + 1)), np.zeros((models, LEVEL_COUNT, made.idle_value.shape[1]))
    room, total, spare = np.zeros((models, LEVEL_COUNT)), 0.0, 0.0
    values = Values(levels, made.part_value, made.idle_value)
    for row in range(len(space.cpu)):
        model, devices, cpu, free = space.model[row], space.device_count[row], space.cpu[row], space.free
        table = made.of_model[model]
        worth, least = least_worth(Place(row, cpu, table), free, values, level_of[row])
        level_of[row] = least
        total += worth
        if devices == 0:
            spare += cpu
            continue
        room[model, least] += cpu
        for index in range(free.in_part[row]):
            parts[model, least, free.part[row, index]] += 1
        idles[model, least, free.idle[row]] += 1
    supply[:] = 0
    for model in range(models):
        table = made.of_model[model]
        for level in range(LEVEL_COUNT):
            used = _unpack_idle(
                idles[model, level], parts[model, level], made.idle_choice[table, level], wanted, supply
            )
            used += _unpack_parts(parts[model, level], made.part_choice[table, level], wanted, supply)
            spare += max(room[model, level] - used, 0.0)
    return total, spare


@kernel
def _unpack_idle(idles: Float64, parts: Float64, choice: Int64, wanted: Demand, supply: Float64) -> float:
    used = 0.0
    for idle in range(len(idles) - 1, 0, -1):
        many, chosen = idles[idle], choice[idle]
        if many > 0:
            if chosen < 0:
                idles[idle - 1] += many
                parts[PARTS] += many
            else:
                supply[chosen] += many
                used += many * wanted.cpu[chosen]
                idles[idle - wanted.devices[chosen]] += many
    return used


@kernel
def _unpack_parts(parts: Float64, choice: Int64, wanted: Demand, supply: Float64) -> float:
    used = 0.0
    for part in range(PARTS, 0, -1):
        many, chosen = parts[part], choice[part]
        if many > 0:
            if chosen < 0:
                parts[part - 1] += many
            else:
                supply[chosen] += many
                used += many * wanted.cpu[chosen]
                parts[part - (wanted.milli[chosen] + UNIT - 1) // UNIT] += many
    return used
