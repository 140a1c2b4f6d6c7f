"""A PodDisruptionBudget that lets one of two victims go makes nobody lose work again and again."""

import pytest
from tests.worlds import START, node, pod

from tangram.plan import Evict
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.simulate.answers import Answer
from tangram.simulate.clock import VirtualClock
from tangram.simulate.loop import Loop
from tangram.simulate.world import World, Write

IDLE = 5


@pytest.mark.slow
def test_evictions_for_a_pod_become_rare_where_some_of_them_are_refused_however_their_pods_are_called() -> None:
    world, lost = World([node("n0", 2)], VirtualClock(START), grace=10), list[str]()

    def budget(write: Write) -> Answer | None:
        """One of the two replicas has to be up."""
        if not isinstance(write, Evict):
            return None
        up = [one for one in world.pods.values() if one.spec.node_name and not one.metadata.deletion_timestamp]
        if len(up) < 2:
            return Answer.REFUSED
        lost.append(write.pod.name)
        return None

    world.fault = budget
    loop = Loop(world, Cycle(SchedulerSettings()))
    for number in range(2):
        world.submit(pod(f"app{number}", whole=1))
        world.own("default", f"app{number}", 2, renames=True)
    loop.run(START + IDLE)
    world.submit(pod("big", whole=2, priority=100))
    for second in range(IDLE, 2 * 3600, IDLE):
        loop.wake()
        loop.run(START + second)
    assert 1 <= len(lost) <= 10
