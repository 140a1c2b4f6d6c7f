"""Holders of the Leases are stopped under load, on a real API server; ``stalls`` says how."""

import os

import pytest
from tests.cluster.stalls import judge, play

from tangram.sandbox.cluster import Wish, down, up
from tangram.settings import LeaseSettings

STALLS = int(os.environ.get("TANGRAM_STALLS_LIVE", "2"))
"""40 take about a quarter of an hour."""
QUICK = LeaseSettings(duration=5.0, renew_deadline=3.5, retry_period=0.5)


@pytest.mark.timeout(max(300, 60 * STALLS))
async def test_fault_04_whoever_was_stopped_leads_again_and_nobody_writes_without_a_right_to(
    sandbox_programs, tmp_path_factory, tmp_path
):
    root, name = tmp_path_factory.mktemp("sandbox"), f"stalls-{os.getpid()}"
    sandbox = up(name, state_root=root, wish=Wish(fsync=False, tied_to_parent=True, audit=True))
    try:
        result = await play(sandbox, tmp_path, STALLS, QUICK)
    finally:
        down(name, state_root=root)
    print(result)
    assert result.writes > 100
    assert result.faults == []


def written(agent, at, resource="pods", code=200):
    return {
        "userAgent": agent, "verb": "patch", "objectRef": {"resource": resource, "name": "x"},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{at:02}.000000Z", "responseStatus": {"code": code},
    }  # fmt: skip


def test_the_judge_sees_who_writes_without_the_lease():
    one, other = "tangram-scheduler (a)", "tangram-scheduler (b)"
    log = [written(one, 0, "leases"), written(one, 1), written(other, 2, "leases", 409), written(other, 3)]
    log += [written(other, 8, "leases"), written(one, 9), written(other, 10), written(other, 14)]
    writes, faults = judge(log, QUICK)
    assert writes == 5
    assert faults == [
        f"{other}: patch pods x while {one} held the Lease",
        f"{one}: patch pods x while {other} held the Lease",
        f"{other}: patch pods x 6.00 s after its renewal",
    ]
