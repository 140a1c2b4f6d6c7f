"""A real node with mock GPUs, the real agent and the real scheduler, and what three witnesses say of its containers."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.node.listing import list_held
from tests.waiting import eventually

from tangram.api import names
from tangram.node.mps import supervisor
from tangram.node.mps.daemons import forget_wanted
from tangram.node.slots import shares_of
from tangram.sandbox import mps
from tangram.sandbox.client import free_ports
from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.image import IMAGE
from tangram.sandbox.nvml import build, state
from tangram.sandbox.realnode import RealNode

PATIENCE = 90.0
MEMORY_MIB = 81559
"""Of an H100, as the mock tells."""


def container(name: str, share: int = 0, *, script: str = "env; exec sleep 3600", **more: Any) -> dict[str, Any]:
    """A container that prints its environment and stays."""
    limits = {names.FRACTION_RESOURCE: str(share)} if share else {}
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "resources": {"limits": limits, "requests": {"cpu": "1m"}},
    } | more


def pod(
    name: str, *containers: dict[str, Any], init: Iterable[dict[str, Any]] = (), annotations: Any = None, **spec: Any
) -> dict[str, Any]:
    """A pod for our scheduler."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"rig": "yes"}, "annotations": annotations or {}},
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "hostNetwork": True,
            "initContainers": list(init),
            "containers": list(containers),
        }
        | spec,
    }


@dataclass
class Rig:
    """The node and its processes."""

    cluster: Sandbox
    node: RealNode
    folder: Path
    machine: state.MockMachine
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    health_ports: dict[str, int] = field(default_factory=dict)
    metrics_port: int = 0

    @property
    def state_file(self) -> Path:
        return self.folder / "gpus.state"

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until a condition holds; a failure tells how pods and processes are."""
        try:
            return eventually(condition, what, seconds)
        except AssertionError as error:
            for name, one in self.pods().items():
                status = one["status"]
                record = one["metadata"].get("annotations", {}).get(names.GPUS)
                error.add_note(
                    f"{name}: {status['phase']} {record} {status.get('message') or status.get('conditions')}"
                )
            error.add_note(self.cluster.kubectl("get", "gpunodes,nodes", "-o", "yaml").stdout)
            for name in self.processes:
                error.add_note(f"{name}: {self.log(name)[-6000:]}")
            raise

    def tell(self) -> None:
        """Programs see the machine's GPUs as they are now."""
        state.write(self.machine, self.state_file)

    def uuid(self, index: int) -> str:
        return state.uuid_of(self.machine, index)

    def start_agent(self, *options: str) -> None:
        """Start the agent and wait until it says that it is ready."""
        self._start(
            "node",
            f"--node={self.node.name}",
            f"--device-plugins={self.node.device_plugins}",
            f"--pod-resources={self.node.pod_resources}",
            f"--mps-root={self.mps_root}",
            *options,
        )

    def start_without_memory(self) -> None:
        """Start the agent where the kernel ends it for its memory, and wait until it has."""
        group = next(
            line.partition(":")[2].partition(":")[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.split(":")[1] == "memory"
        )
        folder = Path(f"/sys/fs/cgroup/memory{group}/agent")
        folder.mkdir(exist_ok=True)
        try:
            (folder / "memory.limit_in_bytes").write_text(str(20 << 20))
            shell = f"echo $$ >{folder}/cgroup.procs && exec {sys.executable} -m tangram node --node={self.node.name}"
            environment = self._environment() | build.environment(self.state_file)
            assert subprocess.run(["sh", "-c", shell], env=environment, check=False).returncode == -signal.SIGKILL
        finally:
            folder.rmdir()

    def start_supervisor(self) -> None:
        """Start who runs the MPS daemons."""
        command = [sys.executable, "-m", "tangram", "mps", f"--mps-root={self.mps_root}", "--shared-memory=64Mi"]
        with (self.folder / "mps.log").open("ab") as log:
            self.processes["mps"] = subprocess.Popen(
                command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        eventually((self.mps_root / supervisor.STATE).exists, "the supervisor has looked")

    @property
    def mps_root(self) -> Path:
        return self.folder / "mps"

    def start_scheduler(self) -> None:
        self._start("scheduler", "--no-leader-election")

    def kill(self, name: str) -> None:
        """As a crash does."""
        self.processes[name].kill()
        self.processes.pop(name).wait(10)

    def stop(self) -> None:
        if agent := self.processes.pop("node", None):
            agent.terminate()
            agent.wait(20)
        forget_wanted(self.mps_root)  # so that no shared memory stays mounted
        eventually(lambda: not (self.mps_root / supervisor.STATE).read_text(), "all MPS daemons have ended")
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)

    def ready(self, name: str) -> bool:
        assert self.processes[name].poll() is None, self.log(name)[-3000:]
        return http_ok(self.health_ports[name])

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self.folder / f"{name}.log").read_text()

    def allocatable(self) -> int:
        node = json.loads(self.cluster.kubectl("get", "node", self.node.name, "-o", "json").stdout)
        return int(node["status"]["allocatable"].get(names.FRACTION_RESOURCE, 0))

    def node_ready(self) -> bool:
        """The kubelet tells that it works."""
        node = json.loads(self.cluster.kubectl("get", "node", self.node.name, "-o", "json").stdout)
        return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])

    def all_healthy(self) -> bool:
        """The scheduler is told that every GPU, or slice of one, takes new work."""
        told = self.cluster.kubectl("get", "gpunode", self.node.name, "-o", "json", check=False)
        status = json.loads(told.stdout or "{}").get("status", {})
        devices = sum(max(1, len(gpu.slices)) for gpu in self.machine.gpus)
        return status.get("health") == "Healthy" and len(status.get("devices", ())) == devices

    def create(self, *pods: dict[str, Any]) -> None:
        self.cluster.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))

    def pods(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.cluster.kubectl("get", "pods", "-l", "rig=yes", "-o", "json").stdout)
        return {one["metadata"]["name"]: one for one in listed["items"]}

    def phase(self, name: str) -> str:
        return str(self.pods()[name]["status"].get("phase"))

    def waits_for(self, name: str) -> str:
        """The reason for which a pod waits, as the scheduler tells it."""
        told = [one for one in self.pods()[name]["status"].get("conditions", ()) if one["type"] == "PodScheduled"]
        return str(told[0].get("message", "")).partition(":")[0] if told else ""

    def delete_all(self) -> None:
        """Delete the pods, and wait until neither the API server nor the kubelet knows them."""
        self.cluster.kubectl("delete", "pods", "-l", "rig=yes", "--timeout=120s", "--grace-period=0", "--force")
        eventually(lambda: not list_held(self.node.pod_resources), "no container holds devices")

    def environments(self) -> dict[tuple[str, str], dict[str, str]]:
        """(pod, container) -> the variables that it has printed."""
        text = self.cluster.kubectl(
            "logs", "-l", "rig=yes", "--prefix", "--all-containers", "--tail=-1", "--max-log-requests=200",
            "--ignore-errors",
        ).stdout  # fmt: skip
        found: dict[tuple[str, str], dict[str, str]] = {}
        for line in text.splitlines():
            if not line.startswith("[pod/"):
                continue  # kubectl's own words, such as that a container has no log yet
            where, _, variable = line.partition("] ")
            _, name, inner = where.strip("[").split("/")
            key, _, value = variable.partition("=")
            found.setdefault((name, inner), {})[key] = value
        return found

    def recorded(self, one: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """Container -> uuid -> hundredths, as the pod's record says."""
        record = json.loads(one["metadata"]["annotations"].get(names.GPUS, "{}"))
        known = {str(index): self.uuid(index) for index in range(len(self.machine.gpus))}
        return {
            inner: {known.get(share["id"], share["id"]): share["share"] for share in shares}
            for inner, shares in record.items()
        }

    def check_agreement(self) -> int:
        """Record, kubelet and environment of every running container say the same, and no GPU is overfilled.

        Returns the number of containers that were compared.
        """
        held = list_held(self.node.pod_resources)
        running = {name: one for name, one in self.pods().items() if one["status"]["phase"] == "Running"}
        environments: dict[tuple[str, str], dict[str, str]] = {}

        def all_have_printed() -> bool:
            environments.update(self.environments())  # the kubelet may have no log to show for a moment
            return running.keys() <= {name for name, _ in environments}

        self.wait(all_have_printed, "every container has printed its variables")
        totals: Counter[str] = Counter()
        compared = 0
        for name, one in running.items():
            for inner, shares in self.recorded(one).items():
                if inner not in {c["name"] for c in one["spec"]["containers"]}:
                    continue
                assert dict(shares_of(held[name, inner])) == shares, (name, inner)
                variables = environments[name, inner]
                assert sorted(variables["NVIDIA_VISIBLE_DEVICES"].split(",")) == sorted(shares), (name, inner)
                (share, *others) = shares.values()
                if share < 100:
                    assert not others
                    assert variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == str(share), (name, inner)
                    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"].startswith("0="), (name, inner)
                totals.update(shares)
                compared += 1
        assert all(total <= 100 for total in totals.values()), totals
        return compared

    def _environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        python = {"PYTHONPATH": ":".join(sys.path), "KUBECONFIG": str(self.cluster.kubeconfig)}
        return {**os.environ, **python, "PATH": path}

    def _start(self, name: str, *arguments: str) -> None:
        health, metrics = free_ports(2)
        self.health_ports[name] = health
        if name == "node":
            self.metrics_port = metrics
        open_metrics = ("--metrics-access=open",) if name == "node" else ()
        environment = self._environment() | (build.environment(self.state_file) if name == "node" else {})
        ports = ("--host=127.0.0.1", f"--health-port={health}", f"--metrics-port={metrics}")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tangram", name, *arguments, *open_metrics, *ports],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: self.ready(name), f"{name} is ready")


@contextmanager
def rig(cluster: Sandbox, folder: Path, gpus: int = 2) -> Iterator[Rig]:
    """The agent and the scheduler on the cluster's real node."""
    made = Rig(cluster, cluster.real_node, folder, state.MockMachine(gpus=[state.MockGpu() for _ in range(gpus)]))
    made.tell()
    mps.install(folder / "bin")
    crds = Path(__file__).resolve().parents[2] / "crds"
    cluster.kubectl("apply", "-f", str(crds))
    cluster.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    labels = ("nvidia.com/gpu.product=H100", f"nvidia.com/gpu.memory={MEMORY_MIB}")
    cluster.kubectl("label", "node", made.node.name, "--overwrite", *labels)
    try:
        made.start_supervisor()
        made.start_agent()
        made.start_scheduler()
        made.wait(lambda: made.allocatable() == 100 * gpus and made.all_healthy(), "the GPUs are known")
        yield made
    finally:
        made.stop()
        cluster.kubectl("label", "node", made.node.name, *(f"{label.partition('=')[0]}-" for label in labels))


def http_ok(port: int, path: str = "/readyz") -> bool:
    """Whether a process on this machine says that it is well."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def sigterm(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that was asked to end."""
    process.send_signal(signal.SIGTERM)
    return process.wait(20)
