"""How long the core takes for a gang of 512 pods with 8 GPUs on 5,000 nodes, with levels of topology and without."""

import time

from tests.worlds import gang, node

from tangram.api import names
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings

NODES, ZONES, RACK, SIZE = 5000, 5, 625, 512
NOW = 1_700_000_000
WISHES = {
    "no level named, one zone": {},
    "preferred rack": {names.TOPOLOGY_PREFERRED: "rack"},
    "required rack": {names.TOPOLOGY_REQUIRED: "rack"},
    "required host, the verdict that none fits": {names.TOPOLOGY_REQUIRED: "host"},
    "preferred host, given up to a rack": {names.TOPOLOGY_PREFERRED: "host"},
}


def cycle() -> Cycle:
    """A pool of eight racks, each with room for the gang."""
    made = Cycle(SchedulerSettings(batch=SIZE))
    for number in range(NODES):
        rack = number // RACK
        labels = {"topology.kubernetes.io/zone": f"z{rack // 2}", "topology.kubernetes.io/rack": f"r{rack}"}
        made.builder.put_node(node(f"gpu-{number:04}", labels=labels))
    return made


def seconds(made: Cycle, name: str, notes: dict[str, str]) -> tuple[float, int]:
    """How long the decision about one such gang takes, and how many of it are placed; the gang is gone afterwards."""
    for one in gang(name, SIZE, whole=8, annotations=notes):
        made.observe_pod(None, one)
    begun = time.process_time()
    plan = made.decide(NOW)
    taken = time.process_time() - begun
    for one in gang(name, SIZE, whole=8, annotations=notes):
        made.observe_pod(one, None)
    return taken, len(plan.place)


def run() -> dict[str, float]:
    """Run and print the measurements."""
    made = cycle()
    for name, notes in WISHES.items():
        seconds(made, f"warm-{len(name)}", notes)
    print(f"a gang of {SIZE} pods with 8 GPUs on {NODES} nodes in {NODES // RACK} racks: CPU time of the decision")
    figures = {}
    for number, (name, notes) in enumerate(WISHES.items()):
        figures[name], placed = seconds(made, f"g{number}", notes)
        print(f"  {name:45} {1000 * figures[name]:7.1f} ms, {placed} placed")
    return figures
