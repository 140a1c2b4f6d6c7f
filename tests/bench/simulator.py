"""Decisions per second of the simulator on the production trace: the whole loop, no network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.workload import TRACES


def run() -> dict[str, Any]:
    """Run and print the replay."""
    pods = TRACES / "openb_pod_list_default.csv"
    if not pods.exists():
        print(f"simulator: skipped, the openb trace is not at {TRACES}")
        return {}
    command = [str(Path(sys.executable).with_name("tangram")), "simulate", "-o", "json", "--seeds", "42,43,44"]
    command += ["--nodes", str(TRACES / "openb_node_list_gpu_node.csv"), "--pods", str(pods)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    print("simulator, openb default, load 1.0")
    for found in answer["runs"]:
        print(
            f"  seed {found['seed']}: {found['gpu_allocation_percent']:.2f} % allocated, "
            f"{found['pods']} pods in {found['seconds']:.2f} s, {found['decisions_per_second']:.0f} decisions/s"
        )
    print(f"  mean allocation {answer['mean_gpu_allocation_percent']:.2f} %")
    return answer
