"""A history lived through: two controller processes, everybody else, and what is drawn; then peace, and a judgement."""

import asyncio
import logging
import random
from unittest import mock

from tests.controllers.builders import revision
from tests.controllers.histories.checks import Checks
from tests.controllers.histories.drawing import SECONDS, Happening, History
from tests.controllers.histories.findings import Count, Finding
from tests.controllers.histories.neighbours import Neighbours, is_serving, label, owner_of
from tests.controllers.histories.process import Process
from tests.controllers.histories.server import ENDED, Object, Server
from tests.virtual_time import VirtualClock, VirtualLoop

from tangram.api import names
from tangram.controllers import live as controllers

PEACE, QUIET = 1300.0, 150.0
"""Seconds of peace, in the last of which nothing may be written: the longest memory of a service is 600 s."""
_WATCHED = ("pods", "services", "poddisruptionbudgets", "trainingjobs", "inferenceservices")
_HANDOVER = 4.0
"""Seconds between the end of one term and the beginning of the next, at least: as far apart as the Lease keeps them."""


def live(history: History, *, verbose: bool = False) -> list[Finding]:
    """What is found in a history."""
    clock = VirtualClock()
    numbers = random.Random(f"chance {history.seed}")

    class Chance(random.Random):
        """Of the product's own generators: as the seed says too."""

        def __init__(self, seed: object = None) -> None:
            super().__init__(numbers.random() if seed is None else seed)  # type: ignore[arg-type]

    logger = logging.getLogger("tangram")
    level, logger.disabled = logger.level, False
    logger.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with (
            mock.patch("random.Random", Chance),
            mock.patch.dict(controllers._WORKERS, dict.fromkeys(controllers._WORKERS, 2)),  # there are three objects
            asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner,
        ):
            return runner.run(_Life(history, clock, numbers, verbose).live())
    finally:
        logger.setLevel(level)


class _Life:
    def __init__(self, history: History, clock: VirtualClock, chance: random.Random, verbose: bool) -> None:
        self.history, self.clock, self.chance, self.verbose = history, clock, chance, verbose
        self.server = Server(clock)
        self.checks = Checks(self.server, history.kind == "calm")
        self.neighbours = Neighbours(self.server, chance)
        self.processes: list[Process] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def live(self) -> list[Finding]:
        for item in self.history.objects:
            self._submit(item)
        self.processes = [Process(self.server, f"controller-{number}", self.chance) for number in range(2)]
        self.processes[0].term.take()
        for happening in self.history.happenings:
            await self._until(happening.second)
            if self.verbose:
                print(f"{self.clock():8.2f} {happening.what} {happening.number}")
            await self._happen(happening)
        await self._until(SECONDS)
        await self._peace()
        for process in self.processes:
            if process.fault is not None:
                self.checks.found(Count.EXCEPTIONS, f"a process ended: {process.fault!r}")
            await process.stop()
        for task in self.tasks:
            task.cancel()
        return self.checks.findings

    async def _until(self, second: float) -> None:
        while self.clock() < second:
            await asyncio.sleep(min(1.0 + self.chance.random(), second - self.clock()))
            self.neighbours.step()

    def _submit(self, item: Object) -> None:
        metadata = {key: item["metadata"][key] for key in ("name", "namespace")}
        resource = "trainingjobs" if item["kind"] == "TrainingJob" else "inferenceservices"
        self.server.commit(resource, {**item, "metadata": metadata})

    async def _happen(self, happening: Happening) -> None:
        what = getattr(self, f"_{happening.what}")(happening.number)
        if what is not None:
            await what

    async def _peace(self) -> None:
        """Nothing bad happens any more, and users want their work to run."""
        self.server.quota = 10_000
        self.neighbours.make_well()
        for process in self.processes:
            process.wire.trouble.__init__()  # type: ignore[misc]
        if not any(process.term.held for process in self.processes):
            await self._until(self.clock() + _HANDOVER)
            if not any(process.term.held for process in self.processes):
                self.processes[0].term.take()
        for item in self.server.all("trainingjobs"):
            self._edit_spec(item, {"runPolicy": {"suspend": False}})
        for item in self.server.all("inferenceservices"):
            self._edit_spec(item, {"paused": False})
        end = self.clock() + PEACE
        await self._until(self.clock() + 60.0)
        for pod in self.server.all("pods"):  # the images are corrected
            if "containerStatuses" in pod["status"] and pod["status"]["phase"] not in ENDED:
                self.server.change("pods", pod["metadata"]["name"], {"status": {"containerStatuses": None}})
        while self.clock() < end and not self.checks.settled(QUIET):
            await asyncio.sleep(3.0)
            if self.history.ends:
                self._finish_all()
            self.neighbours.step()
        self.checks.at_rest(QUIET)

    def _finish_all(self) -> None:
        for pod in self.server.all("pods"):
            if label(pod, names.JOB) and is_serving(pod) and self.chance.random() < 0.05:
                self.neighbours.codes.setdefault(pod["metadata"]["uid"], [0])

    # What happens.

    def _one(self, resource: str, number: int) -> Object | None:
        found = self.server.all(resource)
        return found[number % len(found)] if found else None

    def _edit_spec(self, item: Object, change: Object) -> None:
        resource = "trainingjobs" if item["kind"] == "TrainingJob" else "inferenceservices"
        self.server.change(resource, item["metadata"]["name"], {"spec": change})

    def _edit(self, number: int) -> None:
        """A user changes the spec of something."""
        if (job := self._one("trainingjobs", number)) is not None and number % 2:
            if "elastic" in job["spec"]:
                self._edit_spec(job, {"elastic": {"replicas": 1 + number // 2 % 4}})
            elif number % 3 == 0:
                roles = [{**job["spec"]["roles"][0], "replicas": 1 + number // 3 % 4}]
                self._edit_spec(job, {"roles": roles})
        if (service := self._one("inferenceservices", number)) is not None and not number % 2:
            image = f"registry.test/serve:{number}"
            change = (
                {"replicas": number // 4 % 5},
                {"revisions": [revision(f"v{1 + number % 3}", image=image)]}
                | ({} if number % 5 else {"port": 8080 + number % 3}),
                {"paused": number % 8 == 0},
            )[number // 2 % 3]
            self._edit_spec(service, change)

    def _suspend(self, number: int) -> None:
        if (job := self._one("trainingjobs", number)) is not None:
            suspended = job["spec"]["runPolicy"].get("suspend", False)
            self._edit_spec(job, {"runPolicy": {"suspend": not suspended}})

    def _finish(self, number: int) -> None:
        """The pods of a job come to their end, one shortly after the other."""
        if (job := self._one("trainingjobs", number)) is not None:
            for pod in self.server.all("pods"):
                if owner_of(pod) == job["metadata"]["uid"]:
                    self.neighbours.codes.setdefault(pod["metadata"]["uid"], [0])

    def _pod(self, number: int) -> Object | None:
        return self._one("pods", number)

    def _fail(self, number: int) -> None:
        pod = self._pod(number)
        if pod is not None and pod["status"]["phase"] == "Running" and label(pod, names.JOB):
            self.neighbours.end(pod, (1, 1, 1, 2, 3)[number % 5])

    def _crash(self, number: int) -> None:
        pod = self._pod(number)
        if pod is None or not label(pod, names.SERVICE) or pod["status"]["phase"] != "Running":
            return
        terminated = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": self.server.now}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        status = {"name": "main", "restartCount": number % 5, "state": waiting, "lastState": terminated}
        change = {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [status]}
        self.server.change("pods", pod["metadata"]["name"], {"status": change})

    def _evict(self, number: int) -> None:
        """The scheduler or an administrator evicts a pod; the kubelet, when it refuses one."""
        if (pod := self._pod(number)) is None or pod["status"]["phase"] in ENDED:
            return
        if number % 3 == 0 and pod["spec"].get("nodeName"):
            self.neighbours.end(pod, 0, "Evicted")
            return
        target = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
        self.server.change("pods", pod["metadata"]["name"], {"status": {"conditions": target}})
        self.server.delete("pods", pod["metadata"]["name"])

    def _vanish(self, number: int) -> None:
        """Somebody deletes a pod by force."""
        if (pod := self._pod(number)) is not None and pod["status"]["phase"] not in ENDED:
            self.server.remove("pods", pod["metadata"]["name"])

    def _node_dies(self, number: int) -> None:
        node = self.neighbours.nodes[f"node-{number % 3}"]
        node.silent = self.clock() if node.silent is None else node.silent

    def _node_returns(self, number: int) -> None:
        node = self.neighbours.nodes[f"node-{number % 3}"]
        if node.there:
            node.silent = None

    def _node_removed(self, number: int) -> None:
        """A node that is silent is taken out of the cluster."""
        node = self.neighbours.nodes[f"node-{number % 3}"]
        if node.silent is not None and node.there:
            node.there, node.gone = False, self.clock()

    def _quota(self, number: int) -> None:
        self.server.quota = (0, 1, 2, 3, 5, 10_000)[number % 6]

    def _no_room(self, number: int) -> None:
        self.neighbours.room = number % 2 == 0

    async def _recreate(self, number: int) -> None:
        """An object is deleted and created again under the same name."""
        resource = ("trainingjobs", "inferenceservices")[number % 2]
        if (item := self._one(resource, number)) is None:
            return
        self.server.remove(resource, item["metadata"]["name"])
        if number % 3:
            await self._until(self.clock() + number % 7)
        self._submit({key: value for key, value in item.items() if key != "status"})

    async def _lose_status(self, number: int) -> None:
        """A backup without statuses is restored over an object; sometimes its user says that it is to run again."""
        resource = ("trainingjobs", "inferenceservices")[number % 2]
        if number % 4 > 1 or (item := self._one(resource, number)) is None:
            return
        self.checks.truths[item["metadata"]["uid"]].forgotten = True
        self.server.change(resource, item["metadata"]["name"], {"status": None})
        if resource == "trainingjobs" and number % 8 > 3:
            await self._until(self.clock() + number % 20)
            self.server.change(resource, item["metadata"]["name"], {"metadata": {"annotations": {names.STARTED: None}}})

    def _blind(self, number: int) -> None:
        """One process sees nothing new of one resource for some time."""
        trouble = self.processes[number % 2].wire.trouble
        trouble.blind[_WATCHED[number % 5]] = self.clock() + (0.5, 2.0, 10.0, 40.0)[number // 10 % 4]

    def _break_watches(self, number: int) -> None:
        self.processes[number % 2].wire.trouble.breaks = (0.0, 0.1, 0.3)[number % 3]

    def _slow(self, number: int) -> None:
        self.processes[number % 2].wire.trouble.slow = (0.0, 0.5, 2.0)[number % 3]

    def _lose_requests(self, number: int) -> None:
        trouble = self.processes[number % 2].wire.trouble
        trouble.lost_before, trouble.lost_after = ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.3, 0.3))[number % 4]

    def _lose_lease(self, number: int) -> None:
        """The term of the holder ends, at once, wherever it is; somebody's begins later."""
        self.tasks.append(asyncio.create_task(self._next_term(number)))

    async def _next_term(self, number: int) -> None:
        await asyncio.sleep(self.chance.random())  # in the middle of something, with luck
        for process in self.processes:
            process.term.lose()
        await asyncio.sleep(_HANDOVER + (0.0, 0.0, 5.0, 30.0)[number % 4])
        if not any(process.term.held for process in self.processes):
            self.processes[number // 4 % 2].term.take()

    async def _restart(self, number: int) -> None:
        """A process is started again, with nothing in its memory."""
        process = self.processes[number % 2]
        held = process.term.held
        await process.restart()
        if held:
            self._lose_lease(number // 2)
