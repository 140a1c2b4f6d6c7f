"""``tangram node`` as a process."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("numpy", "numba", "kopf", "kubernetes", "pydantic", "tangram.snapshot", "tangram.decide", "tangram.scheduler")


def test_the_agent_needs_the_name_of_its_node() -> None:
    command = [sys.executable, "-m", "tangram", "node"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 2
    assert "--node or the variable NODE_NAME must name this node" in done.stderr


def test_a_failure_predictor_that_nobody_offers_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "tangram", "node", "--node", "n0", "--failure-predictor", "oracle"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 2
    assert "failure predictor 'oracle' is unknown; known: trend" in done.stderr


def test_slices_as_device_files_are_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "tangram", "node", "--node", "n0", "--mode", "mig"]
    command += ["--device-injection", "device-nodes"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 2
    assert "--mode mig needs --device-injection env or cdi" in done.stderr


def test_the_agent_says_what_it_serves_before_it_asks_the_cluster(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tangram", "node", "--node", "n0", "--serve-whole-gpus", "--mode", "mps"]
    command += ["--kubeconfig", str(tmp_path / "missing"), "--metrics-access", "open"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 1
    assert "serving scheduling.example.com/gpu and nvidia.com/gpu on node n0: mode mps" in done.stderr


@pytest.mark.parametrize("module", ["tangram.node.agent", "tangram.cli.node"])
def test_the_agent_stays_small(module: str) -> None:
    """Every GPU node runs it: nothing that is large may be imported, not even by the way."""
    modules = [
        module, "tangram.node.nvidia", "tangram.node.exporter", "tangram.cluster.watch", "tangram.cluster.events",
        "tangram.cluster.kubeconfig", "tangram.cli.serving", "tangram.cli.processes",
    ]  # fmt: skip
    script = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    assert done.stdout.strip() == "[]"
