"""The node agent: calls of the driver, Allocate with 800 device ids, a hundred pods on a real node, memory and CPU."""

import asyncio
import http.client
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.node.calls import Clock, counted_calls, minute
from tests.node.kubelet import FakeKubelet
from tests.node.machine import Machine, machine, pod, with_phase
from tests.node.rig import Rig, container, rig
from tests.node.rig import pod as manifest

from tangram.api.names import FRACTION_RESOURCE
from tangram.errors import MissingTool
from tangram.node.events import WAIT_SECONDS
from tangram.node.nvidia import NvidiaProbe
from tangram.sandbox.cluster import Wish, down, up
from tangram.sandbox.nvml import build, state
from tangram.sandbox.realnode import why_not
from tangram.settings import NodeSettings

GPUS, SHARE, POD_COUNT = 8, 5, 100
RATES = {name: getattr(NodeSettings(), name) for name in ("probe_interval", "reading_interval", "compare_interval")}
IDLE_SECONDS, LONGEST = 20.0, 300.0


def run() -> None:
    """Print all figures beside their targets."""
    _questions()
    asyncio.run(_calls())
    if reason := why_not():
        print(f"SKIPPED, nothing was measured on a real node: {reason}")
        return
    root = Path(tempfile.mkdtemp(prefix="tg-"))
    cluster = up("bench", state_root=root, wish=Wish(real_node=True, fsync=False, tied_to_parent=True))
    try:
        (root / "rig").mkdir()
        with rig(cluster, root / "rig") as there:
            _real_node(there)
    finally:
        down("bench", state_root=root)
        shutil.rmtree(root, ignore_errors=True)


def _questions() -> None:
    """How often the driver is asked in a minute at the default rates: 8 GPUs with 10 processes each, of the mock."""
    try:
        build.load_here()
    except MissingTool as error:
        print(f"SKIPPED, calls of the driver were not counted: {error}")
        return
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        os.environ[build.STATE_VARIABLE] = str(Path(folder) / "gpus.state")
        processes = [state.MockProcess(pid=100 + number, memory_mib=10) for number in range(10)]
        gpus = [state.MockGpu(processes=processes) for _ in range(GPUS)]
        state.write(state.MockMachine(gpus=gpus), Path(folder) / "gpus.state")
        clock = Clock()
        probe = NvidiaProbe(clock=clock)
        with counted_calls() as calls:
            probe.check(), probe.readings()
            before = calls.total()
            minute(probe, clock)
        probe.close()
        del os.environ[build.STATE_VARIABLE]
    waits = round(60 / WAIT_SECONDS)
    count = calls.total() - before
    print(f"{GPUS} GPUs, one minute: {count} calls of the driver and {waits} waits for events")


async def _calls() -> None:
    """Fill 8 GPUs with pods of 5 hundredths over real gRPC, twice: the kubelet's list grows to 800 ids."""
    folder = Path(tempfile.mkdtemp(prefix="tg-"))
    durations: dict[str, list[_Took]] = {"GetPreferredAllocation": [], "Allocate": []}
    try:
        async with machine(folder, count=GPUS, **RATES) as node:
            _time_calls(node.kubelet, durations)
            for number in range(2):
                await _fill(node, number)
    finally:
        shutil.rmtree(folder)
    for call, took in durations.items():
        print(
            f"{call}: {len(took)} calls with {GPUS * 100} ids: {_spread([one.wall for one in took])} (target: Allocate "
            f"p99 5 ms); CPU of both sides: {_spread([one.cpu for one in took])}; load {os.getloadavg()[0]:.0f}"
        )


class _Took(NamedTuple):
    """Seconds of one call: by the clock, and of CPU, which other work on the machine does not lengthen as much."""

    wall: float
    cpu: float


def _spread(seconds: list[float]) -> str:
    milliseconds = sorted(1000 * one for one in seconds)
    p99 = milliseconds[int(0.99 * len(milliseconds))]
    return f"median {statistics.median(milliseconds):.1f} ms, p99 {p99:.1f} ms, most {milliseconds[-1]:.1f} ms"


async def _fill(node: Machine, number: int) -> None:
    count = GPUS * 100 // SHARE
    pods = [pod(f"p{number}-{n}", {"main": [(f"GPU-{n % GPUS}", SHARE)]}) for n in range(count)]
    for one in pods:
        await node.start(one)
    for one in pods:
        node.kubelet.remove(one)
        node.show(with_phase(one, "Succeeded"))


def _time_calls(kubelet: FakeKubelet, durations: dict[str, list[_Took]]) -> None:
    stub = kubelet.endpoints[FRACTION_RESOURCE].stub
    for name, seconds in durations.items():
        setattr(stub, name, _timed(getattr(stub, name), seconds))


def _timed(call: Any, seconds: list[_Took]) -> Any:
    async def timed(request: Any) -> Any:
        began, used = time.perf_counter(), time.process_time()
        answer = await call(request)
        seconds.append(_Took(time.perf_counter() - began, time.process_time() - used))
        return answer

    return timed


def _real_node(there: Rig) -> None:
    process = there.processes["node"]
    before = _cpu_seconds(process.pid)
    time.sleep(IDLE_SECONDS)
    idle, memory = (_cpu_seconds(process.pid) - before) / IDLE_SECONDS, _resident_mib(process.pid)
    print(f"agent, idle: {100 * idle:.2f} % of a core (target 0.5 %), {memory:.0f} MiB (target 80 MiB)")
    with _followed(there) as seen:
        there.create(*(manifest(f"p{n}", container("main", 2, script="exec sleep 3600")) for n in range(POD_COUNT)))
        next(one for one in seen if one.bound)
        began, before, calls = time.monotonic(), _cpu_seconds(process.pid), _calls_total(there)
        running: set[str] = set()
        while len(running) < POD_COUNT:
            running |= {one.pod for one in (next(seen),) if one.phase == "Running"}
        wall = time.monotonic() - began
    calls, used = _calls_total(there) - calls, _cpu_seconds(process.pid) - before
    print(
        f"{POD_COUNT} pods on a real node, first Bound -> all Running: {wall:.1f} s; a call of the agent was under way "
        f"for {calls:.2f} s of it, {100 * calls / wall:.1f} % (target 5 %), and all its work was {used:.2f} s of CPU, "
        f"{100 * used / wall:.1f} %; {_resident_mib(process.pid):.0f} MiB; load average {os.getloadavg()[0]:.0f} on "
        f"{os.cpu_count()} cores"
    )
    there.delete_all()


class _Seen(NamedTuple):
    """A pod at a change."""

    pod: str
    bound: bool
    phase: str


@contextmanager
def _followed(there: Rig) -> Iterator[Iterator[_Seen]]:
    """Pods as they change. To ask for them again and again would take more of the machine than the agent does."""
    form = 'jsonpath={.metadata.name},{.spec.nodeName},{.status.phase}{"\\n"}'
    command = [str(there.cluster.program("kubectl")), "--kubeconfig", str(there.cluster.kubeconfig), "get", "pods"]
    watch = subprocess.Popen([*command, "-l", "rig=yes", "--watch", "-o", form], stdout=subprocess.PIPE, text=True)
    limit = threading.Timer(LONGEST, watch.kill)
    limit.start()
    try:
        assert watch.stdout is not None
        yield (_Seen(pod, bool(node), phase) for pod, node, phase in (line.strip().split(",") for line in watch.stdout))
    finally:
        limit.cancel()
        watch.kill()
        watch.wait()


def _calls_total(there: Rig) -> float:
    """Seconds in which a call was under way: the kubelet makes one at a time."""
    connection = http.client.HTTPConnection("127.0.0.1", there.metrics_port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(float(value) for value in re.findall(r"tangram_node_call_seconds_sum\{[^}]*\} (\S+)", text))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
