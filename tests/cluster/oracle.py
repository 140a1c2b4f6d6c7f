"""The real kube-scheduler as an oracle: which nodes it finds feasible for a pod, all of them.

It runs with an HTTP extender, which it asks last: what it sends are the nodes that passed all its own filters. The
extender answers with one of them, chosen by a seed, so that worlds grow in more ways than kube-scheduler's own taste.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from aiohttp import web

from tangram.api.objects import Pod

NAME = "oracle"


class Oracle:
    """Collects kube-scheduler's answers by pod uid."""

    def __init__(self) -> None:
        self.random = Random(0)
        self.feasible: dict[str, list[str]] = {}
        self._asked: dict[str, Pod] = {}
        self._never_bound: set[str] = set()
        self._ended: dict[str, asyncio.Future[Pod]] = {}

    async def filter(self, request: web.Request) -> web.Response:
        """The extender's only verb."""
        asked: dict[str, Any] = await request.json()
        found = sorted(asked["NodeNames"])
        uid = asked["Pod"]["metadata"]["uid"]
        self.feasible[uid] = found
        self._asked[uid] = msgspec.convert(asked["Pod"], Pod)
        self._end(uid)
        return web.json_response({"NodeNames": [self.random.choice(found)]})

    def never_bound(self, uid: str) -> None:
        """Nobody makes the volumes of this pod: that kube-scheduler chooses a node is its last word on it."""
        self._never_bound.add(uid)
        self._end(uid)

    def _end(self, uid: str) -> None:
        if uid in self._never_bound and uid in self._asked and not self.end_of(uid).done():
            self.end_of(uid).set_result(self._asked[uid])

    def seen(self, _change: str, _old: Pod | None, new: Pod | None) -> None:
        """Follow pods until they are bound or were found not to fit."""
        if new is None or new.spec.scheduler_name != NAME:
            return
        failed = any(one.type == "PodScheduled" and one.status == "False" for one in new.status.conditions)
        if new.spec.node_name or failed:
            future = self.end_of(new.metadata.uid)
            if not future.done():
                future.set_result(new)

    def end_of(self, uid: str) -> "asyncio.Future[Pod]":
        """The pod as it is once kube-scheduler has decided."""
        return self._ended.setdefault(uid, asyncio.get_running_loop().create_future())


@contextlib.asynccontextmanager
async def running_oracle(program: Path, kubeconfig: Path, folder: Path) -> AsyncIterator[Oracle]:
    """Start kube-scheduler and the extender, and stop both."""
    oracle = Oracle()
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/filter", oracle.filter)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    extender = {
        "urlPrefix": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "filterVerb": "filter",
        "nodeCacheCapable": True,
        "httpTimeout": "20s",
    }
    configuration = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 5000, "burst": 5000},
        "percentageOfNodesToScore": 100,
        "profiles": [{"schedulerName": NAME}],
        "extenders": [extender],
    }
    file = folder / "oracle.json"
    file.write_bytes(msgspec.json.encode(configuration))
    with (folder / "oracle.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(program), f"--config={file}", "--secure-port=0", stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield oracle
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await runner.cleanup()
