"""Somebody trivial who places pods: each to the next node in turn.

``python -m tests.controllers.binder KUBECONFIG NODES``

Pods that say ``test/place: never`` are left alone. It ends when its parent closes its standard input.
"""

import asyncio
import sys
from pathlib import Path

from tangram.api.objects import Pod
from tangram.cluster import writers
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.plan import Place, PodName


async def bind(kubeconfig: Path, nodes: list[str]) -> None:
    """Bind until cancelled."""
    wake = asyncio.Event()
    async with Client(load_access(kubeconfig)) as client:
        watch = ListWatch(client, "/api/v1/pods", Pod, lambda *_: wake.set(), Options(field_selector="spec.nodeName="))
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run())
            turns: dict[str, int] = {}
            while True:
                await wake.wait()
                wake.clear()
                for pod in list(watch.objects.values()):
                    meta = pod.metadata
                    wanted = pod.spec.scheduler_name == "tangram" and meta.deletion_timestamp is None
                    if wanted and meta.annotations.get("test/place") != "never":
                        turn = turns.setdefault(meta.uid, len(turns))  # the watch may still show a pod that is bound
                        place = Place(PodName(meta.namespace, meta.name, meta.uid), nodes[turn % len(nodes)])
                        await writers.bind(client, place)


async def main() -> None:
    """Bind until standard input ends."""
    work = asyncio.ensure_future(bind(Path(sys.argv[1]), sys.argv[2].split(",")))
    asyncio.get_running_loop().add_reader(sys.stdin, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


if __name__ == "__main__":
    asyncio.run(main())
