"""Prices: finite and never negative whatever arrives, a function of the snapshot alone, blind to the order of rows."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples

from tangram.decide.hooks import View
from tangram.decide.plugins.bid_price import BidPrice
from tangram.decide.price.pricing import MOST_SHAPES, demand, learn, learned
from tangram.decide.price.worth import (
    LEVELS,
    RISES,
    FreeNode,
    Place,
    Values,
    empty_tables,
    fill_tables,
    free_parts,
    least_worth,
    node_worth,
)
from tangram.snapshot.arrays import CPU, NO_PRICES, PODS, Nodes
from tangram.snapshot.build import Builder

MODELS = ("A100", "T4", "unknown")
EMPTY = Builder().snapshot(0)


@dataclass(frozen=True)
class Host:
    """A node: cores, its GPUs' free milli, the row of its model; ``free`` cores may be below nothing."""

    cores: int
    free: int
    gpus: tuple[int, ...] = ()
    model: int = 0


@dataclass(frozen=True)
class Shape:
    """A pod shape: milli-CPU, (devices, milli) of each ask, allowed models, arrivals."""

    cpu: int
    asks: tuple[tuple[int, int], ...] = ()
    models: tuple[int, ...] = ()
    arrived: int = 1


def snapshot(hosts, shapes, prices=NO_PRICES, revision=1):
    """A snapshot of just these nodes and shapes."""
    count, slots = len(hosts), max([1, *(len(host.gpus) for host in hosts)])
    free, capacity = np.full((count, 4), 1000, np.int64), np.full((count, 4), 1000, np.int64)
    device_free = np.zeros((count, slots), np.int32)
    for row, host in enumerate(hosts):
        capacity[row, CPU], free[row, CPU] = 1000 * host.cores, 1000 * host.free
        device_free[row, : len(host.gpus)] = host.gpus
    nodes = Nodes(
        names=[f"n{row}" for row in range(count)],
        present=np.ones(count, np.bool_),
        tie_rank=np.array([hash_of(host, row) for row, host in enumerate(hosts)], np.int64),
        revision=np.ones(count, np.int64),
        capacity=capacity,
        free=free,
        counts_devices=np.zeros(capacity.shape[1], np.bool_),
        device_count=np.array([len(host.gpus) for host in hosts], np.int32),
        device_free=device_free,
        device_memory=np.zeros(count, np.int32),
        device_memory_free=np.zeros((count, slots), np.int32),
        device_ids=[tuple(map(str, range(len(host.gpus)))) for host in hosts],
        model=np.array([host.model if host.gpus else -1 for host in hosts], np.int32),
        isolation=np.zeros(count, np.int8),
        terms=np.zeros((0, count), np.bool_),
        taints=np.zeros((0, count), np.bool_),
    )
    asks = max([1, *(len(shape.asks) for shape in shapes)])
    request = np.zeros((len(shapes), 4), np.int64)
    ask_count, ask_milli = np.zeros((len(shapes), asks), np.int32), np.zeros((len(shapes), asks), np.int32)
    for row, shape in enumerate(shapes):
        request[row, [CPU, PODS]] = shape.cpu, 1
        for index, (devices, milli) in enumerate(shape.asks):
            ask_count[row, index], ask_milli[row, index] = devices, milli
    rows = replace(
        EMPTY.shapes,
        request=request,
        ask_count=ask_count,
        ask_milli=ask_milli,
        ask_memory=np.zeros_like(ask_count),
        models=[shape.models for shape in shapes],
        popularity=np.array([shape.arrived for shape in shapes], np.int64),
    )
    return replace(
        EMPTY, nodes=nodes, shapes=rows, models=MODELS, prices=prices, workload_revision=revision
    )  # fmt: skip


def hash_of(host, row):
    """A tie rank that stays with the node wherever its row is; equal hosts are interchangeable."""
    return abs(hash((host.cores, host.free, host.gpus, host.model))) % (1 << 40)


def settled(hosts, shapes, rounds=5):
    """The snapshot after some rounds of learning."""
    found = snapshot(hosts, shapes)
    for revision in range(2, rounds + 2):
        found = replace(found, prices=learn(found), workload_revision=revision)
    return found


def bits(prices):
    """Everything in the prices, bit by bit."""
    parts = (prices.pod, prices.latest_pod, prices.log_shape, prices.log_models, [prices.cpu, prices.latest_cpu])
    return b"".join(np.asarray(part, np.float64).tobytes() for part in parts)


# Devices that are unhealthy or wholly used have nothing free; CPU may have been promised twice by somebody else.
GPUS = st.lists(st.sampled_from([0, 1, 190, 300, 500, 999, 1000, 1000]), max_size=8).map(tuple)
HOSTS = st.lists(
    st.builds(Host, cores=st.integers(0, 128), free=st.integers(-200, 128), gpus=GPUS, model=st.integers(0, 2)),
    min_size=1,
    max_size=6,
)
ASKS = st.one_of(
    st.just(()),
    st.tuples(st.tuples(st.just(1), st.integers(1, 1000))),
    st.tuples(st.tuples(st.integers(1, 16), st.just(1000))),
    st.tuples(st.tuples(st.just(1), st.integers(1, 999)), st.tuples(st.integers(1, 2), st.integers(1, 1000))),
)
SHAPES = st.lists(
    st.builds(
        Shape,
        cpu=st.sampled_from([0, 1, 500, 4000, 64_000, 10**9]),
        asks=ASKS,
        models=st.sampled_from([(), (0,), (1,), (0, 2), (-1,)]),
        arrived=st.sampled_from([0, 1, 7, 5000]),
    ),
    max_size=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(hosts=HOSTS, shapes=SHAPES)
def test_prices_and_tables_are_finite_and_never_negative(hosts, shapes):
    found = settled(hosts, shapes)
    prices = found.prices
    for part in (prices.pod, prices.latest_pod, prices.cpu, prices.latest_cpu):
        assert np.isfinite(part).all()
        assert (np.asarray(part) >= 0).all()
    for part in (prices.log_shape, prices.log_models):
        assert (np.abs(part) <= 4).all()
    wanted, price = learned(found.shapes, len(found.models), found.prices)
    made = empty_tables(wanted, found.nodes.device_free.shape[1])
    fill_tables(made, wanted, price, prices.cpu + LEVELS)
    for worth in (made.part_value, made.idle_value):
        assert np.isfinite(worth).all()
        assert (worth[:, 0] == 0).all()
        assert (np.diff(worth, axis=1) >= 0).all(), "more free space is never worth less"


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), hosts=HOSTS, shapes=SHAPES)
def test_the_order_of_node_rows_changes_no_bit(data, hosts, shapes):
    permuted = data.draw(st.permutations(hosts))
    first = settled(hosts, shapes).prices
    assert bits(settled(hosts, shapes).prices) == bits(first)
    assert bits(settled(permuted, shapes).prices) == bits(first)


@settings(max_examples=examples(40), deadline=None)
@given(hosts=HOSTS, shapes=SHAPES)
def test_scores_are_in_range_and_devices_have_room(hosts, shapes):
    found = settled(hosts, shapes)
    nodes, plugin = found.nodes, BidPrice()
    view = View(found, nodes.free, nodes.device_free, nodes.device_memory_free)
    assert plugin.prepare(view)
    assert not plugin.prepare(view)
    rows = np.arange(len(hosts), dtype=np.int32)
    for shape, asked in enumerate(shapes):
        scores = plugin.score(view, shape, rows)
        assert ((scores >= 0) & (scores <= 1000)).all()
        if len(asked.asks) == 1:
            (count, milli), *_ = asked.asks
            for row, host in enumerate(hosts):
                if sum(free >= milli for free in host.gpus) >= count:
                    devices = plugin.devices(view, shape, row)
                    assert len(set(devices.tolist())) == (count if milli < 1000 else 0), "whole GPUs are all the same"
                    assert (nodes.device_free[row, devices] >= milli).all()


POOL = [Host(96, 96, (1000,) * 8), Host(16, 16, (1000, 500), model=1), Host(64, 64)]
MIX = [
    Shape(8000, ((1, 1000),), arrived=50),
    Shape(4000, ((1, 500),), arrived=100),
    Shape(64_000, ((8, 1000),), arrived=3),
    Shape(4000, ((1, 250),), (1,), arrived=20),
    Shape(2000, arrived=30),
]


@pytest.mark.parametrize(
    "hopeless",
    [
        Shape(1000, ((1, 1000),), (-1,), 500),
        Shape(1000, ((16, 1000),), (), 500),
        Shape(10**9, ((1, 100),), (), 500),
        Shape(10**9, (), (), 500),
        Shape(90_000, ((1, 100),), (1,), 500),
    ],
    ids=[
        "unknown model",
        "more GPUs than a node has",
        "more CPU than a node has",
        "only CPU, too much",
        "CPU by model",
    ],
)
def test_pods_that_nothing_can_serve_move_no_price(hopeless):
    without, beside = settled(POOL, MIX).prices, settled(POOL, [*MIX, hopeless]).prices
    assert beside.pod[:-1].tolist() == without.pod.tolist()
    assert beside.cpu == without.cpu
    assert beside.pod[-1] == 0


def test_only_the_commonest_of_many_shapes_are_priced():
    many = [Shape(1000 + row, ((1, 1 + row),), arrived=1000 - row) for row in range(MOST_SHAPES + 50)]
    found = settled(POOL, many, rounds=2)
    assert demand(found).shape.tolist() == list(range(MOST_SHAPES))
    assert np.flatnonzero(found.prices.pod).tolist() == list(range(MOST_SHAPES))


def test_a_scarce_model_costs_those_who_can_do_without_it_nothing_and_the_others_more():
    crowded = [*MIX[:3], Shape(4000, ((1, 250),), (1,), arrived=400)]
    prices = settled(POOL, crowded, rounds=30).prices
    bound_to_t4, anywhere = prices.pod[3] / 250, prices.pod[1] / 500
    assert bound_to_t4 > 1.3 * anywhere


def test_cpu_that_was_promised_twice_counts_as_none_and_not_as_a_debt():
    empty, overdrawn = (settled([*POOL, Host(96, free, (1000,) * 8)], MIX).prices for free in (0, -500))
    assert bits(empty) != b""
    assert overdrawn.pod.tolist() == pytest.approx(empty.pod.tolist(), rel=1e-12)


def test_shapes_that_arrive_after_the_last_learning_change_no_score():
    """What a plugin remembers between two refreshes must equal what a new plugin works out from the snapshot."""
    found = settled(POOL, MIX)
    later = replace(found, shapes=snapshot(POOL, [*MIX, Shape(1000, ((1, 700),), arrived=9)]).shapes)
    nodes, old, new = found.nodes, BidPrice(), BidPrice()
    rows = np.arange(len(POOL), dtype=np.int32)
    for state in (found, later):
        view = View(state, nodes.free, nodes.device_free, nodes.device_memory_free)
        old.prepare(view)
    new.prepare(view)
    for shape in range(len(MIX) + 1):
        assert old.score(view, shape, rows).tolist() == new.score(view, shape, rows).tolist()


def test_nothing_arrived_and_nothing_there_are_no_reason_to_fail():
    for hosts in ([], POOL):
        for shapes in ([], MIX, [Shape(1000)]):
            prices = settled(hosts, shapes).prices
            assert np.isfinite(prices.pod).all()
            assert prices.revision == 5


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), hosts=HOSTS, shapes=SHAPES)
def test_a_node_is_worth_least_at_the_same_level_wherever_one_begins_to_search(data, hosts, shapes):
    state = settled(hosts, shapes)
    wanted, price = learned(state.shapes, len(MODELS), state.prices)
    tables = empty_tables(wanted, state.nodes.device_free.shape[1])
    levels = state.prices.cpu + LEVELS
    fill_tables(tables, wanted, price, levels)
    parts, values = free_parts(state.nodes.device_free, state.nodes.device_count), np.zeros(len(LEVELS))
    for row, host in enumerate(hosts):
        table, cpu = int(tables.of_model[host.model]), max(0, 1000 * host.free)
        prices = Values(levels, tables.part_value, tables.idle_value)
        node = FreeNode(cpu, state.nodes.device_free[row], len(host.gpus), table)
        least, _ = node_worth(node, prices, values)
        begin = data.draw(st.integers(0, len(LEVELS) - 1))
        worth, level = least_worth(Place(row, cpu, table), parts, prices, begin)
        assert worth == pytest.approx(values[least], rel=1e-12, abs=RISES)
        assert values[level] == pytest.approx(values[least], rel=1e-12, abs=RISES)


@pytest.mark.parametrize(
    ("asks", "devices", "milli", "gpu"),
    [
        (((1, 300), (1, 300)), 1, 600, 600),
        (((2, 1000), (1, 300)), 3, 1000, 2300),
        (((1, 700), (1, 800)), 2, 1000, 1500),
        (((4, 1000),), 4, 1000, 4000),
    ],
    ids=["two parts of one GPU", "whole GPUs and a part", "parts of two GPUs", "whole GPUs"],
)
def test_what_several_containers_ask_for_is_priced_as_what_it_takes(asks, devices, milli, gpu):
    """Two containers of 0.3 GPU share one: they are no two whole GPUs, which a node of one GPU could not serve."""
    wanted = demand(snapshot([Host(96, 96, (1000,) * 8)], [Shape(1000, asks)]))
    assert (wanted.devices.tolist(), wanted.milli.tolist(), wanted.gpu.tolist()) == ([devices], [milli], [gpu])


def test_parts_for_several_containers_cost_a_node_what_one_part_of_their_size_does():
    """Where they find room on one GPU; on two they cost another sum, but no whole GPUs."""
    hosts = [Host(64, 32, (600, 1000, 0, 0)), Host(64, 32, (1000,) * 4), Host(64, 32, (300, 300, 0, 0))]
    found = settled(hosts, [*MIX, Shape(2000, ((1, 600),), arrived=20), Shape(2000, ((1, 300), (1, 300)), arrived=20)])
    plugin = BidPrice()
    view = View(found, found.nodes.free, found.nodes.device_free, found.nodes.device_memory_free)
    plugin.prepare(view)
    rows = np.arange(len(hosts), dtype=np.int32)
    one, two = (plugin.score(view, len(MIX) + place, rows).tolist() for place in (0, 1))
    assert two[:2] == one[:2]
    assert two[2] > two[1]
