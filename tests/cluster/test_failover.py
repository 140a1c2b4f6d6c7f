"""The scheduler's leader is taken out in the middle of a burst, on a real API server; ``failover`` says how."""

import os

import pytest
from tests.cluster.failover import play, summary

ROUNDS = int(os.environ.get("TANGRAM_FAILOVER_ROUNDS", "3"))
"""50 take about a quarter of an hour."""


@pytest.mark.timeout(max(300, 30 * ROUNDS))
async def test_fault_03_whatever_becomes_of_the_holder_no_pod_is_lost_no_gpu_overfilled_and_the_next_one_is_in_time(
    sandbox, tmp_path
):
    rounds = await play(sandbox, tmp_path, range(ROUNDS))

    print(*summary(rounds), sep="\n")
    assert [str(one) for one in rounds if one.faults] == []
    assert [str(one) for one in rounds if not one.in_time] == []
