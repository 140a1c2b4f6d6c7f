"""Take the Lease's holder out of the middle of a burst, and see from the pods themselves what came of it.

    python -m tests.cluster.failover --rounds 50

Two scheduler processes on a real API server share a Lease. In each round 300 pods ask for parts of GPUs; at a moment
that the round's seed chooses the holder is killed, stopped until another one works and then let go on, or asked to
end. All pods fit, so all of them must be bound in the end, once, and no GPU may be given away for more than it has.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from tests.waiting import eventually_async

from tangram.api import names
from tangram.api.objects import Pod
from tangram.cluster import objects, paths
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import NodeSpec
from tangram.settings import LeaseSettings

PODS, LATE = 300, 20
"""Pods of a round, and how many of them come only after the holder is gone."""
SHARES = (30, 50, 25, 70)
NODES = [NodeSpec(f"failover-{number}", 64_000, 524_288, 16, "A100") for number in range(10)]
NAMESPACE = SCHEDULER = LEASE = "failover"
QUICK = LeaseSettings(duration=5.0, renew_deadline=3.5, retry_period=0.5)
"""Short, to have a round take little time; shorter ones are lost by themselves where the machine is busy."""
HOW = ("killed", "killed", "stopped", "stopped", "ended")


@dataclass
class Replica:
    """A scheduler process."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def watches(self) -> bool:
        """Whether it takes part in the election, which it does only once nodes and pods are known."""
        assert self.process.poll() is None, self.log.read_text()
        return "taking part" in self.log.read_text()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    @property
    def losses(self) -> int:
        """How often it has told that it has lost the Lease."""
        return self.log.read_text().count("lost; holder now")


@dataclass
class Round:
    """What came of one round."""

    seed: int
    how: str
    bound_before: int
    seconds: float
    """From the end of the holder to the first binding of its successor."""
    lease: LeaseSettings
    faults: list[str] = field(default_factory=list)

    @property
    def in_time(self) -> bool:
        return self.seconds <= self.lease.duration + 1

    def __str__(self) -> str:
        said = "; ".join(self.faults) or "as it should be"
        return (
            f"seed {self.seed}: {self.how} after {self.bound_before} bindings, "
            f"the next one binds after {self.seconds:.2f} s; {said}"
        )


class Stage:
    """Nodes, the two processes, and what a watch has shown of the pods."""

    def __init__(self, sandbox: Sandbox, client: Client, folder: Path, lease: LeaseSettings) -> None:
        self.sandbox, self.client, self.folder, self.lease = sandbox, client, folder, lease
        self.replicas: list[Replica] = []
        self.bound: dict[str, tuple[str, str]] = {}
        """By the pod's uid: its node and its devices, as first seen."""
        self.moments: list[float] = []
        self.faults: list[str] = []
        self.watch = ListWatch(client, f"/api/v1/namespaces/{NAMESPACE}/pods", Pod, self._on_pod)
        self._files: list[IO[bytes]] = []

    def _on_pod(self, change: str, old: Pod | None, new: Pod | None) -> None:
        if new is None or not new.spec.node_name:
            return
        where = new.spec.node_name, new.metadata.annotations.get(names.GPUS, "")
        if new.metadata.uid not in self.bound:
            self.moments.append(time.time())
        first = self.bound.setdefault(new.metadata.uid, where)
        if first != where:
            self.faults.append(f"{new.metadata.name} was bound to {first} and then to {where}")

    def start(self) -> None:
        """One more process, as a user would start it."""
        log = self.folder / f"scheduler-{len(self._files)}.log"
        output = log.open("wb")
        self._files.append(output)
        times = self.lease
        command = [
            sys.executable, "-m", "tangram", "scheduler", "--kubeconfig", str(self.sandbox.kubeconfig),
            "--scheduler-name", SCHEDULER, "--lease-namespace", NAMESPACE, "--lease-name", LEASE,
            "--health-port", "0", "--metrics-port", "0", "--lease-duration", str(int(times.duration)),
            "--lease-renew-deadline", str(times.renew_deadline), "--lease-retry-period", str(times.retry_period),
        ]  # fmt: skip
        self.replicas.append(Replica(subprocess.Popen(command, stderr=output), log))

    def end(self) -> None:
        for replica in self.replicas:
            replica.process.kill()
            replica.process.wait()
        for file in self._files:
            file.close()

    async def holder(self) -> Replica | None:
        """The process that holds the Lease: identities tell the process id."""
        found = await objects.get(self.client, paths.LEASES, LEASE, NAMESPACE)
        identity = str(found["spec"].get("holderIdentity") or "") if found else ""
        return next((one for one in self.replicas if f"_{one.process.pid}_" in identity), None)

    async def ready(self) -> None:
        """Wait until a process holds the Lease and another one is ready to take it over."""
        self.replicas = [one for one in self.replicas if one.process.poll() is None]
        while len(self.replicas) < 2:
            self.start()
        await eventually_async(lambda: all(one.watches for one in self.replicas), "both processes watch")
        await eventually_async(self.holder, "a process holds the Lease")

    async def submit(self, pods: list[tuple[str, int]]) -> None:
        waiting = iter(pods)

        async def creator() -> None:
            for name, share in waiting:
                assert (await objects.create(self.client, pod(name, share))).done

        await asyncio.gather(*(creator() for _ in range(16)))

    async def clear(self) -> None:
        """Delete all pods, and wait until they are gone."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        await self.client.request("DELETE", path, params={"gracePeriodSeconds": "0"})
        await eventually_async(lambda: not self.watch.objects, "all pods are gone")
        self.bound.clear()

    async def round(self, seed: int) -> Round:
        """Play one round; its faults are in what it returns."""
        rng = random.Random(seed)
        how, when = rng.choice(HOW), rng.randint(10, PODS - LATE - 60)
        pods = [(f"r{seed}-{number}", rng.choice(SHARES)) for number in range(PODS)]
        await self.ready()
        self.moments, self.faults = [], []
        creating = asyncio.create_task(self.submit(pods[:-LATE]))
        await eventually_async(lambda: len(self.bound) >= when, f"{when} pods are bound", step=0.001)
        await asyncio.sleep(rng.uniform(0.0, 0.03))
        holder: Replica = await eventually_async(self.holder, "a process holds the Lease", step=0.001)

        losses = holder.losses

        def is_over() -> bool:
            return holder.has_ended or (how == "stopped" and holder.losses > losses)

        holder.process.send_signal({"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "ended": signal.SIGTERM}[how])
        gone, before = time.time(), len(self.bound)
        await creating
        await self.submit(pods[-LATE:])
        first = await self._first_of_another(holder)
        if how == "stopped":
            await asyncio.sleep(rng.uniform(0.0, 0.1))  # in the middle of the other one's burst
            holder.process.send_signal(signal.SIGCONT)
        result = Round(seed, how, before, first - gone, self.lease)
        with contextlib.suppress(AssertionError):
            await eventually_async(lambda: len(self.bound) >= PODS, "all pods are bound")
        await eventually_async(is_over, "the one that was holder ends, or knows that it is not")
        if how == "ended" and holder.process.returncode:
            result.faults.append(f"the one that was asked to end says {holder.process.returncode}")
        await self.judge(pods, result)
        await self.clear()
        return result

    async def _first_of_another(self, gone: Replica) -> float:
        """When the first binding was seen of the process that then took the Lease, which tells when."""

        async def bound() -> list[float]:
            found = await objects.get(self.client, paths.LEASES, LEASE, NAMESPACE)
            spec = found["spec"] if found else {}
            if not spec.get("holderIdentity") or f"_{gone.process.pid}_" in spec["holderIdentity"]:
                return []
            since = datetime.fromisoformat(spec["acquireTime"]).timestamp()
            return [moment for moment in self.moments if moment > since]

        moments: list[float] = await eventually_async(bound, "another process binds")
        return moments[0]

    async def judge(self, pods: list[tuple[str, int]], result: Round) -> None:
        """Read all pods anew, and note what must not be."""
        found = await self.stored()
        missing = {name for name, _ in pods} - {one.metadata.name for one in found}
        if missing:
            result.faults.append(f"{len(missing)} pods are lost")
        if waiting := [one.metadata.name for one in found if not one.spec.node_name]:
            result.faults.append(f"{len(waiting)} pods wait though all fit: {', '.join(waiting[:3])}")
        used: Counter[tuple[str, str]] = Counter()
        for one in found:
            for devices in json.loads(one.metadata.annotations.get(names.GPUS, "{}")).values():
                for device in devices:
                    used[one.spec.node_name, device["id"]] += device["share"]
        for (node, device), share in used.items():
            if share > 100:
                result.faults.append(f"GPU {device} of {node} is given away for {share} hundredths")
        asked = sum(share for _, share in pods)
        if not waiting and sum(used.values()) != asked:
            result.faults.append(f"{sum(used.values())} hundredths are given away and {asked} were asked for")
        result.faults += self.faults

    async def stored(self) -> list[Pod]:
        """All pods of the namespace, from the server."""
        body = await self.client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")
        items: list[Pod] = msgspec.convert(msgspec.json.decode(body)["items"], list[Pod])
        return items


def pod(name: str, share: int) -> dict[str, Any]:
    limits = {names.FRACTION_RESOURCE: str(share)}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "schedulerName": SCHEDULER, "automountServiceAccountToken": False, "nodeSelector": {"failover": "yes"},
            "containers": [{"name": "main", "image": "none", "resources": {"limits": limits}}],
        },
    }  # fmt: skip


def prepare(sandbox: Sandbox) -> None:
    subprocess.run([sys.executable, "-m", "tangram", "scheduler", "--warm-up"], check=True)  # once for all of them
    sandbox.kubectl("create", "namespace", NAMESPACE, check=False)
    sandbox.create_nodes(NODES)
    sandbox.kubectl("label", "nodes", *(node.name for node in NODES), "failover=yes", "--overwrite")


def tidy_up(sandbox: Sandbox) -> None:
    sandbox.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--grace-period=0", "--force")
    sandbox.kubectl("delete", "nodes", *(node.name for node in NODES))


@contextlib.asynccontextmanager
async def stage(sandbox: Sandbox, folder: Path, lease: LeaseSettings = QUICK) -> AsyncIterator[Stage]:
    """Nodes and two processes; all of it is gone afterwards."""
    await asyncio.to_thread(prepare, sandbox)
    async with Client(load_access(sandbox.kubeconfig)) as client:
        made = Stage(sandbox, client, folder, lease)
        watching = asyncio.create_task(made.watch.run())
        try:
            await asyncio.wait_for(made.watch.synced.wait(), 30)
            yield made
        finally:
            made.end()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await asyncio.to_thread(tidy_up, sandbox)


async def play(sandbox: Sandbox, folder: Path, seeds: range, lease: LeaseSettings = QUICK) -> list[Round]:
    """Play rounds one after the other; each begins with the processes that the one before has left."""
    rounds = []
    async with stage(sandbox, folder, lease) as here:
        for seed in seeds:
            rounds.append(await here.round(seed))
            print(rounds[-1], flush=True)
    return rounds


def summary(rounds: list[Round]) -> Iterator[str]:
    """A line for each way to go."""
    for how in dict.fromkeys(HOW):
        if seconds := sorted(one.seconds for one in rounds if one.how == how):
            middle, most = statistics.median(seconds), seconds[-1]
            yield f"{how}: {len(seconds)} rounds, first binding after {middle:.2f} s (median), {most:.2f} s (most)"
    late, bad = sum(not one.in_time for one in rounds), sum(bool(one.faults) for one in rounds)
    yield f"{len(rounds)} rounds, {bad} with faults, {late} later than the Lease's duration and one second"


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the scheduler's leader out in mid-burst, again and again.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--default-lease", action="store_true", help="with the Lease's default times")
    chosen = parser.parse_args()
    lease = LeaseSettings() if chosen.default_lease else QUICK
    with tempfile.TemporaryDirectory(prefix="tangram-") as root:
        name, bad = f"failover-{os.getpid()}", True
        sandbox = up(name, state_root=Path(root), wish=Wish(fsync=False, tied_to_parent=True))
        try:
            seeds = range(chosen.first_seed, chosen.first_seed + chosen.rounds)
            rounds = asyncio.run(play(sandbox, Path(root), seeds, lease))
            bad = any(one.faults or not one.in_time for one in rounds)
        finally:
            down(name, state_root=Path(root))
            for log in sorted(Path(root).glob("scheduler-*.log")) if bad else ():
                print(f"--- {log.name}", log.read_text(), sep="\n")
    print(*summary(rounds), sep="\n")
    sys.exit(bad)


if __name__ == "__main__":
    main()
