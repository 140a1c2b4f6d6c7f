"""Stop the process that holds the Lease for a while, under a stream of work, again and again; the API server's audit
log tells who wrote what.

    python -m tests.cluster.stalls --stalls 40

A scheduler and a controller, two processes of each, on a real API server. Whoever holds a Lease is stopped (SIGSTOP)
for 1 to 40 s. After it goes on, somebody must do new work within the Lease's duration and five seconds; and nobody may
have written while somebody else held the Lease, or longer than the Lease was its own.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.waiting import eventually_async

from tangram.api import names
from tangram.cluster import objects, paths
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import NodeSpec
from tangram.settings import LeaseSettings

NAMESPACE = "stalls"
LATE = 5.0
"""Seconds beyond the Lease's duration within which work goes on."""
NODES = [NodeSpec(f"stalls-{number}", 64_000, 524_288, 16, "A100") for number in range(10)]
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass
class Kind:
    """One of the two sorts of process."""

    verb: str
    replicas: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long it took after each stop until new work was done."""


class Stage:
    """The processes, and what they are given to do."""

    def __init__(self, sandbox: Sandbox, client: Client, folder: Path, lease: LeaseSettings) -> None:
        self.sandbox, self.client, self.folder, self.lease = sandbox, client, folder, lease
        self.kinds = (Kind("scheduler"), Kind("controller"))
        self._numbers = itertools.count()

    def start(self, kind: Kind) -> None:
        log, times = self.folder / f"{kind.verb}-{len(kind.logs)}.log", self.lease
        kind.logs.append(log)
        command = [
            sys.executable, "-m", "tangram", kind.verb, "--kubeconfig", str(self.sandbox.kubeconfig),
            "--scheduler-name", NAMESPACE, "--lease-namespace", NAMESPACE, "--lease-name", kind.verb,
            "--health-port", "0", "--metrics-port", "0", "--lease-duration", str(int(times.duration)),
            "--lease-renew-deadline", str(times.renew_deadline), "--lease-retry-period", str(times.retry_period),
        ]  # fmt: skip
        with log.open("wb") as output:
            kind.replicas.append(subprocess.Popen(command, stderr=output, stdout=output))

    def end(self) -> None:
        for kind in self.kinds:
            for process in kind.replicas:
                process.kill()
                process.wait()

    async def holder(self, kind: Kind) -> "subprocess.Popen[bytes] | None":
        found = await objects.get(self.client, paths.LEASES, kind.verb, NAMESPACE)
        identity = str(found["spec"].get("holderIdentity") or "") if found else ""
        return next((one for one in kind.replicas if f"_{one.pid}_" in identity), None)

    async def done(self, kind: Kind, name: str) -> bool:
        """Whether a sort of process has done its part: pods are made, or bound."""
        if kind.verb == "controller":
            return await objects.get(self.client, paths.PODS, f"{name}-worker-0", NAMESPACE) is not None
        found = await objects.get(self.client, paths.PODS, name, NAMESPACE)
        return bool(found and found["spec"].get("nodeName"))

    async def stream(self) -> None:
        """New work all the time, and an end of what is older."""
        for number in itertools.count():
            await objects.create(self.client, pod(f"s-{number}"))
            await objects.create(self.client, job(f"s-{number}"))
            if number >= 20:
                old = f"s-{number - 20}"
                await objects.delete(self.client, paths.PODS.path(old, NAMESPACE))
                await objects.delete(self.client, paths.TRAINING_JOBS.path(old, NAMESPACE))
            await asyncio.sleep(0.3)

    async def stall(self, kind: Kind, seconds: float) -> None:
        """Stop the holder for so long, and see that work goes on afterwards."""
        holder: subprocess.Popen[bytes] = await eventually_async(lambda: self.holder(kind), f"a {kind.verb} leads")
        holder.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        holder.send_signal(signal.SIGCONT)
        went_on = time.monotonic()
        name = f"{kind.verb}-{next(self._numbers)}"
        made = await objects.create(self.client, job(name) if kind.verb == "controller" else pod(name))
        assert made.done, made
        with contextlib.suppress(AssertionError):
            await eventually_async(lambda: self.done(kind, name), "work goes on", step=0.05)
        kind.seconds.append(time.monotonic() - went_on)
        assert all(process.poll() is None for process in kind.replicas), f"a {kind.verb} has ended"


def pod(name: str) -> dict[str, Any]:
    limits = {names.FRACTION_RESOURCE: "10"}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "schedulerName": NAMESPACE, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "none", "resources": {"limits": limits}}],
        },
    }  # fmt: skip


def job(name: str) -> dict[str, Any]:
    template = {"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "none"}]}}
    return {
        "apiVersion": names.API_VERSION, "kind": "TrainingJob", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"framework": "custom", "roles": [{"name": "worker", "replicas": 1, "template": template}]},
    }  # fmt: skip


def prepare(sandbox: Sandbox) -> None:
    subprocess.run([sys.executable, "-m", "tangram", "scheduler", "--warm-up"], check=True)  # once for all of them
    sandbox.kubectl("create", "namespace", NAMESPACE, check=False)
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/")
    sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=40s")
    sandbox.create_nodes(NODES)


@contextlib.asynccontextmanager
async def stage(sandbox: Sandbox, folder: Path, lease: LeaseSettings) -> AsyncIterator[Stage]:
    await asyncio.to_thread(prepare, sandbox)
    async with Client(load_access(sandbox.kubeconfig), user_agent="stalls") as client:
        made = Stage(sandbox, client, folder, lease)
        for kind in made.kinds:
            for _ in range(2):
                made.start(kind)
        streaming = asyncio.create_task(made.stream())
        try:
            yield made
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            made.end()


@dataclass
class Result:
    """What came of it."""

    seconds: dict[str, list[float]]
    writes: int
    faults: list[str]

    def __str__(self) -> str:
        told = "; ".join(
            f"{verb}: {len(seconds)} stops, new work done after {max(seconds):.1f} s at most"
            for verb, seconds in self.seconds.items()
        )
        return f"{told}; {self.writes} writes, {len(self.faults)} outside a held epoch or late"


async def play(sandbox: Sandbox, folder: Path, stalls: int, lease: LeaseSettings, seed: int = 0) -> Result:
    """Stop the holders of both Leases so often, both sorts at the same time."""
    chance = random.Random(seed)
    longest = lease.duration * 40 / 15

    async def all_of(kind: Kind) -> None:
        for _ in range(stalls):
            await here.stall(kind, chance.uniform(1.0, longest))
            print(f"{kind.verb}: new work done after {kind.seconds[-1]:.2f} s", flush=True)
            await asyncio.sleep(chance.uniform(0.0, 2.0))

    async with stage(sandbox, folder, lease) as here:
        await asyncio.gather(*(all_of(kind) for kind in here.kinds))
    limit = lease.duration + LATE
    late = [f"{one.verb}: new work only after {s:.1f} s" for one in here.kinds for s in one.seconds if s > limit]
    lines = sandbox.audit_log.read_text().splitlines()
    writes, faults = judge((json.loads(line) for line in lines if "tangram-" in line), lease)
    return Result({one.verb: one.seconds for one in here.kinds}, writes, late + faults)


def judge(events: Iterable[dict[str, Any]], lease: LeaseSettings) -> tuple[int, list[str]]:
    """How many writes the audit log tells of, and which of them were made without a right to."""
    holders: dict[str, tuple[str, float]] = {}
    writes, faults = 0, []
    for event in sorted(events, key=lambda one: str(one["requestReceivedTimestamp"])):
        agent, verb, about = event["userAgent"], event["verb"], event.get("objectRef", {})
        if verb not in WRITES or about.get("resource", "").endswith("reviews"):
            continue
        which, at = agent.partition(" ")[0], datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
        if about.get("resource") == "leases":
            if event["responseStatus"]["code"] < 300:
                holders[which] = agent, at
            continue
        writes += 1
        holder, renewed = holders.get(which, ("nobody", 0.0))
        if holder != agent or at > renewed + lease.duration:
            age = f"{at - renewed:.2f} s after its renewal" if holder == agent else f"while {holder} held the Lease"
            faults.append(f"{agent}: {verb} {about.get('resource')} {about.get('name', '')} {age}")
    return writes, faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Stop the holders of the Leases under load, again and again.")
    parser.add_argument("--stalls", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tangram-") as root:
        name, bad = f"stalls-{os.getpid()}", True
        sandbox = up(name, state_root=Path(root), wish=Wish(fsync=False, tied_to_parent=True, audit=True))
        try:
            result = asyncio.run(play(sandbox, Path(root), chosen.stalls, LeaseSettings(), chosen.seed))
            print(*result.faults, result, sep="\n")
            bad = bool(result.faults)
        finally:
            down(name, state_root=Path(root))
            for log in sorted(Path(root).glob("*-*.log")) if bad else ():
                print(f"--- {log.name}", log.read_text()[-20_000:], sep="\n")
    sys.exit(bad)


if __name__ == "__main__":
    main()
