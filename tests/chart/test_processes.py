"""The scheduler as the chart starts it, with the rights that the chart gives it and behind the rules that it sets."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.waiting import eventually

from tangram.sandbox.nodes import parse_nodes

SECONDS = 90


def wait_for(what: str, found: Callable[[], Any], process: "subprocess.Popen[bytes]", log: Path) -> Any:
    def answer() -> Any:
        assert process.poll() is None, f"the process ended while waiting for {what}: {log.read_text()}"
        return found()

    return eventually(answer, what, SECONDS)


def kubeconfig(release, folder: Path, account: str) -> Path:
    """Access as the service account and as nobody else."""
    token = release.kubectl("create", "token", account, "-n", "tangram-system").stdout.strip()
    path = folder / "kubeconfig"
    server = {"server": release.server, "certificate-authority": str(release.ca_file)}
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": server}],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": account}}],
        "current-context": "sandbox",
    }
    path.write_text(yaml.safe_dump(access))
    return path


@pytest.fixture
def scheduler(release, render, tmp_path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """The process, started with the arguments of the Deployment (ports aside), and its log."""
    release.create_nodes(parse_nodes("1x4xA100"))
    (pod,) = [
        o["spec"]["template"]["spec"]
        for o in render()
        if o["kind"] == "Deployment" and o["metadata"]["name"] == "tangram-scheduler"
    ]
    arguments = [a.split("=")[0] + "=0" if "-port=" in a else a for a in pod["containers"][0]["args"]]
    command = [str(Path(sys.executable).with_name("tangram")), *arguments]
    access = kubeconfig(release, tmp_path, pod["serviceAccountName"])
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--kubeconfig", str(access)], stdout=output, stderr=output)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


def test_the_scheduler_places_pods_with_its_own_rights(release, scheduler):
    process, log = scheduler
    release.kubectl("create", "namespace", "jobs")
    for name, hundredths in (("share", "30"), ("whole", "200"), ("huge", "900")):
        limits = {"scheduling.example.com/gpu": hundredths}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "jobs"},
            "spec": {
                "schedulerName": "tangram",
                "containers": [{"name": "main", "image": "example", "resources": {"limits": limits}}],
            },
        }
        release.kubectl("create", "-f", "-", input=json.dumps(pod))

    def read(name: str) -> dict[str, Any]:
        return json.loads(release.kubectl("get", "pod", name, "-n", "jobs", "-o", "json").stdout)

    def devices(name: str) -> list[dict[str, Any]]:
        recorded = read(name)["metadata"].get("annotations", {}).get("scheduling.example.com/gpus", '{"main": []}')
        return json.loads(recorded)["main"]

    def told() -> list[dict[str, Any]]:
        return [c for c in read("huge").get("status", {}).get("conditions", []) if c.get("reason") == "Unschedulable"]

    assert [d["share"] for d in wait_for("a share", lambda: devices("share"), process, log)] == [30]
    assert [d["share"] for d in wait_for("whole GPUs", lambda: devices("whole"), process, log)] == [100, 100]
    wait_for("the reason of the pod that never fits", told, process, log)
    events = ("get", "events", "-n", "jobs", "--field-selector=involvedObject.name=huge", "-o", "name")
    wait_for("an Event about it", lambda: release.kubectl(*events).stdout, process, log)
    holder = ("get", "lease", "tangram-scheduler", "-n", "tangram-system", "-o", "jsonpath={.spec.holderIdentity}")
    assert release.kubectl(*holder).stdout

    process.terminate()
    assert process.wait(SECONDS) == 0
    assert release.kubectl(*holder).stdout == "", "the Lease is handed on when the process is asked to stop"
    assert "forbidden" not in log.read_text().lower()
