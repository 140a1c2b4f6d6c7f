"""The process ``tangram controller``: leadership, probes, a quick end, servers that are not there."""

import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tests.controllers.conftest import Cluster, Start
from tests.waiting import eventually

from tangram.sandbox.cluster import Sandbox


def test_a_second_process_takes_over_and_only_the_holder_of_the_lease_writes(
    cluster: Cluster, start_controller: Start
) -> None:
    options = ("--lease-namespace", cluster.namespace, "--lease-name", "controllers")
    first = start_controller(*options)
    cluster.until(lambda: "held by us" in first.text(), "the first to lead")
    second = start_controller(*options)
    cluster.running_job()
    assert "held by us" not in second.text()
    assert first.stop() == 0
    cluster.until(lambda: "held by us" in second.text(), "the second to lead")
    cluster.finish("train-worker-0")
    cluster.finish("train-worker-1")
    cluster.wait_for("tj", "train", "Complete")
    made = [line for line in second.text().splitlines() if "create" in line and cluster.namespace in line]
    assert not made, "what was there was taken over, not made again"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_probes_metrics_and_a_quick_clean_end(cluster: Cluster, start_controller: Start) -> None:
    health, metrics = free_port(), free_port()
    ports = ("--health-port", str(health), "--metrics-port", str(metrics), "--host", "127.0.0.1")
    ports += ("--metrics-access", "open")
    process = start_controller("--no-leader-election", *ports)
    cluster.until(lambda: asked(health, "/readyz") == (200, "ok"), "the process to be ready")
    assert asked(health, "/healthz") == (200, "ok")
    cluster.running_job()
    _, figures = asked(metrics, "/metrics")
    assert 'tangram_reconciles_total{kind="TrainingJob",result="changed"}' in figures
    assert "tangram_leader 1.0" in figures
    assert process.stop() == 0
    assert "Traceback" not in process.text()


def test_fault_26_metrics_are_for_those_only_who_may_read_them(cluster: Cluster, start_controller: Start) -> None:
    port = free_port()
    process = start_controller("--no-leader-election", "--metrics-port", str(port), "--health-port", str(free_port()))
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    def status() -> int:
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/metrics", timeout=5, context=trusting) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    cluster.until(lambda: status() == 401, "the metrics to ask for a token")
    assert process.stop() == 0


def test_an_unreachable_server_is_one_line_and_waited_for(
    sandbox: Sandbox, start_controller: Start, tmp_path: Path
) -> None:
    config = tmp_path / "nowhere"
    config.write_text(sandbox.kubeconfig.read_text().replace(sandbox.server, "https://127.0.0.1:1"))
    process = start_controller("--no-leader-election", kubeconfig=config)
    eventually(lambda: "https://127.0.0.1:1 cannot be reached" in process.text(), "the line", why=process.text)
    assert "Traceback" not in process.text()
    assert process.stop() == 0
