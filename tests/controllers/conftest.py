"""A running ``tangram controller``, fake nodes, and somebody trivial who binds pods."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.controllers.builders import job_object
from tests.waiting import eventually

from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nodes import NodeSpec

NODES = ("controllers-0", "controllers-1")
DEADLINE = 90.0
"""Seconds that any step may take on a busy machine; nothing asserts that one takes long or short."""


@dataclass
class Cluster:
    """The sandbox as these tests use it: a namespace of their own, waiting by conditions."""

    sandbox: Sandbox
    namespace: str

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        return self.sandbox.kubectl("-n", self.namespace, *arguments, input=text, check=check).stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        for item in objects:
            metadata = {"name": item["metadata"]["name"], "namespace": self.namespace}
            item = {**item, "metadata": metadata} if item["kind"] != "HybridPolicy" else item
            self.kubectl("apply", "-f", "-", text=msgspec.json.encode(item).decode())

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "") -> dict[str, dict[str, Any]]:
        text = self.kubectl("get", kind, "-l", selector, "-o", "json")
        return {item["metadata"]["name"]: item for item in msgspec.json.decode(text)["items"]}

    def wait_for(self, kind: str, name: str, condition: str) -> None:
        """``kubectl wait`` as users call it."""
        self.kubectl("wait", f"--for=condition={condition}", f"{kind}/{name}", f"--timeout={DEADLINE:.0f}s")

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait until something is true; say what was waited for when it does not come true."""
        return eventually(holds, what, why=lambda: f"\n{self.kubectl('get', 'tj,infer,pods', '-o', 'wide')}")

    def phase(self, kind: str, name: str, *phases: str) -> dict[str, Any]:
        """Wait for a phase; the object."""

        def reached() -> dict[str, Any] | None:
            item = self.get(kind, name)
            return item if item.get("status", {}).get("phase") in phases else None

        found: dict[str, Any] = self.until(reached, f"{kind} {name} to be {' or '.join(phases)}")
        return found

    def running_job(self, *roles: dict[str, Any], **spec: Any) -> dict[str, Any]:
        """A TrainingJob called train, running."""
        self.apply(job_object(*roles, **spec))
        return self.phase("tj", "train", "Running")

    def finish(self, pod: str, code: int = 0) -> None:
        """Let the containers of a pod end, as a kubelet would write it."""
        ended = {"exitCode": code, "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        container = {"name": "main", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{**container, "state": {"terminated": ended}}],
        }
        patch = msgspec.json.encode({"status": status}).decode()
        self.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture(scope="module")
def installed(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox with our kinds and two nodes of 8 GPUs."""
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/")
    sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=40s")
    sandbox.create_nodes([NodeSpec(name, 64_000, 512 * 1024, 8, "A100") for name in NODES])
    command = [sys.executable, "-m", "tests.controllers.binder", str(sandbox.kubeconfig), ",".join(NODES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as binder:
        try:
            yield sandbox
        finally:
            assert binder.stdin is not None
            binder.stdin.close()
            binder.wait(DEADLINE)
    sandbox.kubectl("delete", "node", *NODES, "--ignore-not-found")


@pytest.fixture
def cluster(installed: Sandbox) -> Iterator[Cluster]:
    """A namespace of the test's own; pods in it that ask for tangram are placed and run."""
    namespace = f"controllers-{uuid.uuid4().hex[:8]}"
    installed.kubectl("create", "namespace", namespace)
    yield Cluster(installed, namespace)
    installed.kubectl("delete", "namespace", namespace, "--wait=false")


@dataclass
class Controller:
    """A ``tangram controller`` process."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE)


Start = Callable[..., Controller]


@pytest.fixture
def start_controller(sandbox: Sandbox, tmp_path: Path) -> Iterator[Start]:
    """Start ``tangram controller`` processes; those that still run at the end of the test are stopped."""
    with starting(sandbox, tmp_path) as start:
        yield start


@contextlib.contextmanager
def starting(sandbox: Sandbox, folder: Path) -> Iterator[Start]:
    """A function that starts ``tangram controller`` with options."""
    started: list[Controller] = []

    def start(*options: str, kubeconfig: Path | None = None) -> Controller:
        log = folder / f"controller-{len(started)}.log"
        ports = ("--health-port", "0", "--metrics-port", "0") if "--health-port" not in options else ()
        command = [sys.executable, "-m", "tangram", "controller", *ports, *options]
        environment = os.environ | {"KUBECONFIG": str(kubeconfig or sandbox.kubeconfig)}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stderr=output, stdout=output, env=environment)
        started.append(Controller(process, log))
        return started[-1]

    try:
        yield start
    finally:
        for controller in started:
            controller.process.kill()
            controller.process.wait()
