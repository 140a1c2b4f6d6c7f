"""The trivial binder: every pending pod to the next node in turn, an annotation with it. The API server's own limit."""

import asyncio
import sys
from pathlib import Path

import uvloop

from tangram.api.objects import Metadata, Pod, Struct
from tangram.cluster import writers
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.plan import Device, Place, PodName

_WIDTH = 64


class Named(Struct, frozen=True):
    """An object's name."""

    metadata: Metadata


async def main(kubeconfig: Path) -> None:
    """Bind all pods that are there, then wait to be stopped."""
    async with Client(load_access(kubeconfig)) as client:
        nodes = ListWatch(client, "/api/v1/nodes", Named, lambda *_: None)
        pods = ListWatch(client, "/api/v1/namespaces/bench/pods", Pod, lambda *_: None)
        tasks = [asyncio.create_task(watch.run()) for watch in (nodes, pods)]
        await asyncio.gather(nodes.synced.wait(), pods.synced.wait())
        names = sorted(name for _, name in nodes.objects)
        device = (("main", (Device("0", 0, 300),)),)
        waiting = iter(
            [
                Place(PodName(ns, name, pod.metadata.uid), names[i % len(names)], device)
                for i, ((ns, name), pod) in enumerate(sorted(pods.objects.items()))
                if not pod.spec.node_name
            ]
        )

        async def worker() -> None:
            for place in waiting:
                await writers.bind(client, place)

        await asyncio.gather(*(worker() for _ in range(_WIDTH)))
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
