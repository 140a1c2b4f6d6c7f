"""What a cycle costs that has many pods evicted: a full pool, and thousands of waiting pods that may preempt.

Every GPU is held by a pod of one of two queues, of priority 0 to 2. Those that wait have priority 0 to 4 and 400
different requests. Cycles follow each other until nobody is evicted any more; no victim leaves meanwhile, which is the
dearest case. Time is that of one core, spent by this process.
"""

import time

from tests.bench.rates import GPUS, node

from tangram.api import names
from tangram.api.objects import Container, Metadata, Pod, PodSpec, PodStatus, Resources
from tangram.api.policy import parse_policy
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.warm import warm_kernels

POOLS, KINDS = ((1_000, 4_000), (5_000, 4_000)), 400
"""(nodes, waiting pods); different requests among these."""
_SPEC = {"queues": [{"name": "a"}, {"name": "b"}]}
_POLICY = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": {"name": "default"}, "spec": _SPEC}


def pod(name: str, number: int, priority: int, where: str = "", device: int = 0) -> Pod:
    """A pod of one GPU: it runs on a node, or waits."""
    cpu = 100 if where else 100 + number % KINDS
    container = Container("main", Resources(requests={names.GPU_RESOURCE: 1, "cpu": f"{cpu}m"}))
    notes = {names.GPUS: f'{{"main":[{{"id":"{device}","share":100}}]}}'} if where else {}
    labels = {names.QUEUE: "ab"[number % 2]}
    spec = PodSpec((container,), scheduler_name=names.SCHEDULER_NAME, node_name=where, priority=priority)
    phase = "Running" if where else "Pending"
    return Pod(Metadata(name, "default", name, labels=labels, annotations=notes), spec, PodStatus(phase))


def cycles(nodes: int, waiting: int) -> list[tuple[float, int]]:
    """(milliseconds, evictions) of each cycle."""
    cycle = Cycle()
    cycle.builder.nodes.reserve(nodes)
    cycle.builder.set_policy(parse_policy(_POLICY))
    for number in range(nodes):
        one = node(number)
        cycle.builder.put_node(one)
        for device in range(GPUS):
            name = f"{one.metadata.name}-{device}"
            cycle.builder.put_pod(pod(name, number + device, device % 3, one.metadata.name, device))
    for number in range(waiting):
        cycle.builder.put_pod(pod(f"waits-{number}", number, number % 5))
    found: list[tuple[float, int]] = []
    while not found or found[-1][1]:
        begun = time.process_time()
        plan = cycle.decide(len(found))
        found.append((1000 * (time.process_time() - begun), len(plan.evict)))
    return found


def run() -> dict[str, float]:
    """Run and print the measurement."""
    warm_kernels()
    figures: dict[str, float] = {}
    for nodes, waiting in POOLS:
        found = cycles(nodes, waiting)
        evicted, worst = sum(count for _, count in found), max(spent for spent, _ in found)
        print(f"{waiting} pods wait on {nodes} full nodes; {evicted} are evicted (CPU milliseconds of a cycle)")
        print(
            f"  the first {found[0][0]:.0f}, the longest {worst:.0f}, the last, without evictions, {found[-1][0]:.0f}"
        )
        figures |= {f"{nodes} nodes, longest cycle, ms": worst}
    return figures


if __name__ == "__main__":
    run()
