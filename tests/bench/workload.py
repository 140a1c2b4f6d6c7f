"""What is scheduled: the nodes and pods of a production trace where it is at hand, else a generated like of it."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces" / "openb"
_MODELS = (("T4", 4), ("V100", 8), ("G2", 8), ("P100", 2), ("A10", 1))


@dataclass(frozen=True)
class Machine:
    """A node: milli-CPU, MiB, GPUs, model."""

    name: str
    cpu: int
    memory: int
    gpus: int
    model: str


@dataclass(frozen=True)
class Task:
    """A pod: milli-CPU, MiB, GPUs, milli-GPU of each."""

    cpu: int
    memory: int
    gpus: int
    milli: int


def machines(count: int = 1213) -> tuple[list[Machine], str]:
    """The nodes and where they come from."""
    path = TRACES / "openb_node_list_gpu_node.csv"
    if path.exists():
        rows = list(csv.DictReader(path.open()))
        return [
            Machine(r["sn"], int(r["cpu_milli"]), int(r["memory_mib"]), int(r["gpu"]), r["model"]) for r in rows[:count]
        ], "openb"
    rng = random.Random(7)
    chosen = [rng.choice(_MODELS) for _ in range(count)]
    return [
        Machine(f"node-{i:04}", 12_000 * max(gpus, 4), 49_152 * max(gpus, 4), gpus, model)
        for i, (model, gpus) in enumerate(chosen)
    ], "generated (the openb trace is not at hand)"


def tasks(count: int = 2000) -> list[Task]:
    """The pods, in arrival order of seed 42."""
    rng = random.Random(42)
    path = TRACES / "openb_pod_list_default.csv"
    if path.exists():
        found = [
            Task(int(r["cpu_milli"]), int(r["memory_mib"]), int(r["num_gpu"]), int(r["gpu_milli"]))
            for r in csv.DictReader(path.open())
        ]
        rng.shuffle(found)
        return found[:count]
    kinds = [(0, 0)] * 2 + [(1, 1000)] * 5 + [(1, 460)] * 3 + [(1, 250)] + [(2, 1000), (8, 1000)]
    return [Task(4000 * max(1, gpus), 16_384, gpus, milli) for gpus, milli in (rng.choice(kinds) for _ in range(count))]


def node_manifest(machine: Machine) -> dict[str, Any]:
    """A Node that nobody heartbeats: its pods stay bound and nothing else happens to them."""
    amounts = {
        "cpu": f"{machine.cpu}m",
        "memory": f"{machine.memory}Mi",
        "pods": "256",
        "nvidia.com/gpu": str(machine.gpus),
        "scheduling.example.com/gpu": str(100 * machine.gpus),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": machine.name,
            "labels": {"kubernetes.io/hostname": machine.name, "nvidia.com/gpu.product": machine.model},
        },
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "fake"}],
        },
    }


def pod_manifest(name: str, task: Task, scheduler: str) -> dict[str, Any]:
    """A Pod for the named scheduler."""
    amounts = {"cpu": f"{task.cpu}m", "memory": f"{task.memory}Mi"}
    if task.gpus == 1 and task.milli < 1000:
        amounts["scheduling.example.com/gpu"] = str(task.milli // 10)
    elif task.gpus:
        amounts["nvidia.com/gpu"] = str(task.gpus)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {
            "schedulerName": scheduler,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none", "resources": {"requests": amounts, "limits": amounts}}],
        },
    }
