"""Upgrade the controller, roll it back, and take the statuses away, under jobs and services that run: who is touched?

    python -m tests.controllers.upgrade --from COMMIT --jobs 50 --services 50

A real API server; the controller of an earlier commit makes the pods. Then this commit's controller and definitions
take over, the earlier one comes back, and at last this one finds objects without a status, as a restored backup has
them. A pod is touched when it is gone, is new, or has been written.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.controllers.builders import job_object, revision, role, service_object
from tests.controllers.test_identity import GPUS, RICH
from tests.waiting import eventually

from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import NodeSpec

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "upgrade"
NODES = [NodeSpec(f"upgrade-{number}", 256_000, 1024 * 1024, 16, "A100") for number in range(20)]
QUIET = 20.0
"""Seconds without a write to our objects after which a controller has done what it wants to do."""


@dataclass(frozen=True)
class Stage:
    """The cluster, and where the two versions are."""

    sandbox: Sandbox
    folder: Path
    old: Path

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self.sandbox.kubectl("-n", NAMESPACE, *arguments, input=text).stdout

    def items(self, kinds: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.json.decode(self.kubectl("get", kinds, "-o", "json"))["items"]
        return found

    def pods(self) -> dict[str, tuple[str, str]]:
        """By name: uid and version."""
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["metadata"]["resourceVersion"])
            for pod in self.items("pods")
        }

    @contextlib.contextmanager
    def controller(self, root: Path) -> Iterator[None]:
        """The controller of a version runs."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(root / "crds"))
        command = [sys.executable, "-m", "tangram", "controller", "--no-leader-election"]
        command += ["--health-port", "0", "--metrics-port", "0"]
        environment = os.environ | {"KUBECONFIG": str(self.sandbox.kubeconfig), "PYTHONPATH": str(root / "operator")}
        with (self.folder / f"controller-{time.monotonic_ns()}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)
        try:
            yield
            assert process.poll() is None, f"the controller has ended: see {log.name}"
        finally:
            process.kill()
            process.wait()

    def settle(self) -> None:
        """Wait until all run, and nothing has been written to them for a while."""
        seen: tuple[float, set[str]] = (time.monotonic(), set())

        def is_quiet() -> bool:
            nonlocal seen
            found = self.items("tj,infer")
            versions = {item["metadata"]["uid"] + item["metadata"]["resourceVersion"] for item in found}
            done = all(item.get("status", {}).get("phase") in ("Running", "Ready") for item in found)
            if versions != seen[1] or not done:
                seen = time.monotonic(), versions
            return done and time.monotonic() - seen[0] >= QUIET

        eventually(is_quiet, "all to run", seconds=900.0, step=1.0)


def workloads(jobs: int, services: int) -> str:
    """Gangs of two roles, and services of a rich and of a plain template."""
    found = [
        job_object(role("master"), role("worker", 2, gpus={"count": 1}), name=f"job-{number}") for number in range(jobs)
    ]
    for number in range(services):
        rich = {"name": "v1", "template": RICH, "gpus": GPUS}
        made = revision(gpus={"share": 20}) if number % 2 else rich
        found.append(service_object(made, name=f"service-{number}", replicas=2, port=8000))
    for item in found:
        item["metadata"] = {"name": item["metadata"]["name"], "namespace": NAMESPACE}
    return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": found}).decode()


def touched(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> str:
    """The pods that are gone, new or written, in one line."""
    gone = sorted(name for name, (uid, _) in before.items() if after.get(name, ("",))[0] != uid)
    new = sorted(after.keys() - before.keys())
    written = sorted(
        name
        for name, (uid, version) in before.items()
        if after.get(name, ("",))[0] == uid and after[name][1] != version
    )
    names = f": {', '.join([*gone, *new, *written][:5])}" if gone or new or written else ""
    return f"{len(gone)} gone, {len(new)} new, {len(written)} written of {len(before)} pods{names}"


def play(stage: Stage, jobs: int, services: int) -> list[str]:
    """The four acts; what each has touched."""
    stage.sandbox.kubectl("create", "namespace", NAMESPACE)
    stage.sandbox.create_nodes(NODES)
    said: list[str] = []
    with stage.controller(stage.old):
        stage.sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        stage.kubectl("create", "-f", "-", text=workloads(jobs, services))
        stage.settle()
    pods = stage.pods()
    for act, root in (("upgrade", ROOT), ("rollback", stage.old), ("upgrade again", ROOT)):
        with stage.controller(root):
            stage.settle()
        said.append(f"{act}: {touched(pods, stage.pods())}")
        print(said[-1], flush=True)
    for item in stage.items("tj,infer"):
        path = f"{item['kind'].lower()}/{item['metadata']['name']}"
        stage.kubectl("patch", path, "--subresource=status", "--type=merge", "-p", '{"status": null}')
    with stage.controller(ROOT):
        stage.settle()
    said.append(f"without a status: {touched(pods, stage.pods())}")
    print(said[-1], flush=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.controllers.upgrade")
    parser.add_argument("--from", dest="commit", default="HEAD~1")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--services", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder, old = Path(made), Path(made) / "old"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", old, given.commit], cwd=ROOT, check=True)
        sandbox = up("upgrade", Wish(fsync=False, tied_to_parent=True), state_root=folder / "state")
        nodes = ",".join(node.name for node in NODES)
        command = [sys.executable, "-m", "tests.controllers.binder", str(sandbox.kubeconfig), nodes]
        try:
            with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as binder:
                said = play(Stage(sandbox, folder, old), given.jobs, given.services)
                assert binder.stdin is not None
                binder.stdin.close()
        finally:
            down("upgrade", state_root=folder / "state")
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
    sys.exit(any("0 gone, 0 new, 0 written" not in one for one in said))


if __name__ == "__main__":
    main()
