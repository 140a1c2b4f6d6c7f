"""How long it takes on a real API server until a queue has back what it is guaranteed: 1 GPU, and 2,000 at once.

500 nodes of 8 GPUs, 4,000 pods of one GPU of a queue that borrows all of them; grace periods are 0. The nodes have no
kubelets: what is measured is deciding, evicting and binding, from the creation of the claimants to the last binding.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.binding import clear, own_cluster
from tests.bench.scale import GPUS, Watched, bound, create, pod, scheduled, show

from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client

NODES = 500
POLICY = {
    "apiVersion": "scheduling.example.com/v1",
    "kind": "HybridPolicy",
    "metadata": {"name": "default"},
    "spec": {"queues": [{"name": "owner", "guarantee": {"gpu": str(NODES * GPUS)}}, {"name": "borrower"}]},
}


def queued(name: str, queue: str, gang: str = "", minimum: int = 1) -> dict[str, Any]:
    """A pod of one GPU in a queue, which leaves at once when it is told to."""
    one = pod(name, 1, gang, minimum)
    one["metadata"].setdefault("labels", {})["scheduling.example.com/queue"] = queue
    one["spec"]["terminationGracePeriodSeconds"] = 0
    return one


async def fill(client: Client, watched: Watched) -> float:
    """Let the borrower have the whole pool."""
    await create(client, [queued(f"b-{n}", "borrower") for n in range(NODES * GPUS)])
    return await watched.until(lambda pods: bound(pods, "b-") == NODES * GPUS)


async def reclaim(client: Client, watched: Watched, name: str, count: int, *, gang: bool) -> dict[str, float]:
    """Seconds from the creation of the first, and of the last, claimant until all of them have their places."""
    begun = asyncio.get_running_loop().time()
    await create(client, [queued(f"{name}-{n}", "owner", name if gang else "", count) for n in range(count)])
    created = asyncio.get_running_loop().time()
    await watched.until(lambda pods: bound(pods, f"{name}-") == count)
    ended = asyncio.get_running_loop().time()
    left = bound(list(watched.watch.objects.values()), "b-")
    what = f"{count} GPUs, {'a gang' if gang else 'single pods'}"
    if left != NODES * GPUS - count:
        print(f"  {what}: {left} borrowers are left, {NODES * GPUS - count} should be")
    return {
        f"{what}: first created to all bound, s": ended - begun,
        f"{what}: last created to all bound, s": ended - created,
    }


async def measure(kubeconfig: Path) -> dict[str, float]:
    """All measurements, one after the other."""
    figures: dict[str, float] = {}
    async with Client(load_access(kubeconfig)) as client:
        path = "/apis/scheduling.example.com/v1/hybridpolicies"
        await client.request("POST", path, body=msgspec.json.encode(POLICY))
        async with scheduled(client, kubeconfig, NODES) as watched:
            await fill(client, watched)
            await reclaim(client, watched, "warm", 1, gang=False)
            await clear(client)
            for name, count, gang in (("one", 1, False), ("gang", 2000, True), ("many", 2000, False)):
                await fill(client, watched)
                figures |= await reclaim(client, watched, name, count, gang=gang)
                await clear(client)
    return figures


def run() -> dict[str, float]:
    """Run and print the measurements."""
    with own_cluster() as sandbox:
        sandbox.kubectl("apply", "--server-side", "-f", str(Path(__file__).parents[2] / "crds"))
        sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=40s")
        figures = asyncio.run(measure(sandbox.kubeconfig))
    pool = f"{NODES} nodes of {GPUS} GPUs, all lent to {NODES * GPUS} pods"
    show(f"{pool}, on a real API server; a queue takes back", figures)
    return figures
