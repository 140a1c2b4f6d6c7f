"""Devices of other vendors: how many a container has is counted, whatever ids the vendor's plugin gives them."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.machine import pod

from tangram.api.objects import Pod
from tangram.node.allocation import Devices
from tangram.node.foreign import Taken, matched
from tangram.node.gpus import Gpu
from tangram.node.ledger import Ledger
from tangram.node.podresources import Listed
from tangram.node.report import Facts, status_of
from tangram.node.vendors import NodeResources, VendorProbe

AMD, XE = "amd.com/gpu", "gpu.intel.com/xe"
ADDRESSES = [f"0000:{n:02x}:00.0" for n in range(8)]


def devices(**capacity: str) -> Devices:
    named = {"amd": AMD, "xe": XE}
    amounts = {named[name]: count for name, count in capacity.items()}
    probe = VendorProbe(lambda: NodeResources(amounts, amounts, {"amd.com/gpu.product-name": "MI300X"}))
    return Devices().updated(probe.inventory(), probe.conditions())


def listed(name: str, ids: Mapping[str, list[str]], container: str = "main") -> Listed:
    return Listed("default", name, container, {resource: frozenset(them) for resource, them in ids.items()})


def held(table: Devices, listing: tuple[Listed, ...], pods: tuple[Pod, ...] = ()) -> dict[str, list[str]]:
    """Pod -> what it holds; every holding is a whole device."""
    ledger = Ledger((), "n", "tangram")
    for one in pods:
        ledger.put("added", None, one)
    found: dict[str, list[str]] = {}
    for holding in ledger.holdings(listing, table):
        assert holding.share == 100
        found.setdefault(holding.pod, []).append(holding.uuid)
    return found


def test_devices_are_counted_whatever_their_ids_are() -> None:
    table, listing = devices(amd="8"), (listed("train", {AMD: ADDRESSES[3:5]}),)
    ledger = Ledger((), "n", "tangram")
    facts = Facts("n", table.gpus, table.conditions, (), ledger.holdings(listing, table))
    status = status_of(facts, None, "2026-01-01T00:00:00Z")
    assert (status["allocated"], status["free"]) == ("2", "6")
    assert [[one["pod"] for one in device["allocations"]] for device in status["devices"][:3]] == [
        ["train"], ["train"], [],
    ]  # fmt: skip


def test_those_of_the_record_are_the_ones_and_others_get_what_is_left() -> None:
    """Which device of the vendor's it is nobody tells; the scheduler counts by the record."""
    table = devices(amd="4")
    listing = (listed("foreign", {AMD: ADDRESSES[:1]}), listed("ours", {AMD: ADDRESSES[1:3]}))
    ours = pod("ours", {"main": [("amd-0", 100), ("amd-2", 100)]})
    assert held(table, listing, (ours,)) == {"foreign": ["amd-1"], "ours": ["amd-0", "amd-2"]}


def test_a_record_that_names_places_counts_too() -> None:
    ours = pod("ours", {"main": [("3", 100)]})
    assert held(devices(amd="4"), (listed("ours", {AMD: ADDRESSES[:1]}),), (ours,)) == {"ours": ["amd-3"]}


@pytest.mark.parametrize("record", ["{", {"main": [("amd-0", 100), ("amd-0", 100)]}, {"main": [("GPU-9", 100)]}])
def test_a_record_that_does_not_fit_leaves_the_count(record: object) -> None:
    ours = pod("ours", record)  # type: ignore[arg-type]
    assert held(devices(amd="4"), (listed("ours", {AMD: ADDRESSES[:2]}),), (ours,)) == {"ours": ["amd-0", "amd-1"]}


def test_each_resource_has_its_own_devices() -> None:
    table = devices(amd="2", xe="2")
    found = held(table, (listed("both", {AMD: ADDRESSES[:1], XE: ["card0-0", "card1-0"]}),))
    assert found == {"both": ["amd-0", "intel-2", "intel-3"]}


def test_a_plugin_s_id_that_reads_like_another_device_of_ours_does_not_count_twice() -> None:
    assert held(devices(amd="2"), (listed("odd", {AMD: ["amd-1"]}),)) == {"odd": ["amd-0"]}


def test_resources_that_are_no_devices_of_the_node_do_not_count() -> None:
    assert held(devices(amd="2"), (listed("nic", {"example.com/nic": ["a", "b"]}),)) == {}


@given(st.lists(st.tuples(st.integers(0, 9), st.lists(st.sampled_from(["amd-0", "amd-1", "amd-2", "x"])))))
def test_nobody_has_a_device_of_another_and_all_that_fits_is_counted(wishes: list[tuple[int, list[str]]]) -> None:
    gpus = [Gpu(f"amd-{n}", n, "m", 0, resource=AMD) for n in range(6)]
    taken = [Taken(("ns", f"p{n}", "c"), AMD, count, tuple(named)) for n, (count, named) in enumerate(wishes)]
    found = matched(taken, gpus)
    given_out = [uuid for uuids in found.values() for uuid in uuids]
    assert len(given_out) == len(set(given_out)) == min(6, sum(count for count, _ in wishes))
    assert all(len(uuids) <= one.count for one in taken for uuids in (found[one.container],))
