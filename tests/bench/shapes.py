"""What a look costs while thousands of pods wait that all ask for something else and fit nowhere.

Nothing that is known of one of them holds for another, so this is the dearest backlog there is. Every node is full: a
pod of seven GPUs and one of one. All that wait ask for eight, so that neither helps when it leaves. Time is that of one
core, spent by this process.
"""

import statistics
import time

from tests.bench.rates import GPUS, node

from tangram.api import names
from tangram.api.objects import Container, Metadata, Pod, PodSpec, PodStatus, Resources
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.warm import warm_kernels

NODES, WAITING, TIMES = 5_000, 5_000, 5


def pod(name: str, gpus: int, cpu: int, where: str = "") -> Pod:
    """A pod of whole GPUs; ``cpu`` in milli-CPU. On a node it runs, elsewhere it waits."""
    requests: dict[str, str | int | float] = {names.GPU_RESOURCE: gpus, "cpu": f"{cpu}m", "memory": "4Gi"}
    container = Container("main", Resources(requests=requests))
    first = 0 if gpus > 1 else GPUS - 1
    given = ",".join(f'{{"id":"{first + index}","share":100}}' for index in range(gpus))
    notes = {names.GPUS: f'{{"main":[{given}]}}'} if where else {}
    spec = PodSpec(containers=(container,), scheduler_name=names.SCHEDULER_NAME, node_name=where)
    return Pod(Metadata(name, "default", name, annotations=notes), spec, PodStatus("Running" if where else "Pending"))


def looks(nodes: int, waiting: int) -> dict[str, float]:
    """Milliseconds of the first look, of one after which nothing has changed, and of one after a pod has left."""
    cycle, objects = Cycle(), [node(number) for number in range(nodes)]
    cycle.builder.nodes.reserve(nodes)
    for one in objects:
        cycle.builder.put_node(one)
        for gpus in (GPUS - 1, 1):
            where = one.metadata.name
            cycle.builder.put_pod(pod(f"{where}-{gpus}", gpus, 1000, where))
    for number in range(waiting):
        cycle.builder.put_pod(pod(f"waits-{number}", GPUS, 1000 + number))
    found = {"first": look(cycle)}
    while cycle.last_plan.hold:
        look(cycle)
    found["same"] = statistics.median(look(cycle) for _ in range(TIMES))
    left = []
    for one in objects[:TIMES]:
        cycle.builder.remove_pod(f"{one.metadata.name}-1")
        left.append(look(cycle))
    found["left"] = statistics.median(left)
    return found


def look(cycle: Cycle) -> float:
    """Milliseconds of one look."""
    begun = time.process_time()
    cycle.decide(0)
    return 1000 * (time.process_time() - begun)


def run() -> dict[str, float]:
    """Run and print the measurement."""
    warm_kernels()
    looks(20, 20)
    found = looks(NODES, WAITING)
    print(f"{WAITING} pods wait, no two alike, on {NODES} full nodes (CPU milliseconds of one look)")
    print(f"  first {found['first']:.0f}, nothing has changed {found['same']:.1f}, a pod has left {found['left']:.0f}")
    return found


if __name__ == "__main__":
    run()
