"""``tangram demo``: the main job on a local cluster, from nothing to a table of pods, nodes, GPUs and shares.

Everything in it is real but the nodes: etcd, kube-apiserver, the chart by helm, and tangram's two processes with the
rights that the chart gives them. kwok plays the nodes and says that the containers run.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.api import names
from tangram.errors import NotReachable, TangramError

if TYPE_CHECKING:
    from tangram.sandbox.cluster import Sandbox

SYSTEM = "tangram-system"
DEADLINE = 60.0
Say = Callable[[str], None]


@click.command()
@click.option("--nodes", default="2x8xA100,1x4xT4", show_default=True, help="Fake nodes of the demo's cluster.")
@click.option("--keep", is_flag=True, help="Leave the cluster and tangram running.")
@click.option("--empty", is_flag=True, help="Apply no examples, and leave the cluster and tangram running.")
def demo(nodes: str, keep: bool, empty: bool) -> None:
    """Show the main job on a local cluster: policy, gang, fractions, service, and pending pods with their reasons."""
    from tangram.sandbox.cluster import Wish, down, up
    from tangram.sandbox.nodes import parse_nodes

    begun = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - begun:5.1f} s] {text}")

    repository = find_repository()
    keep = keep or empty
    name = "demo" if keep else f"demo-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        if not keep:
            stack.callback(down, name)
        sandbox = up(name, wish=Wish(nodes=parse_nodes(nodes)), report=say)
        say(f"helm install tangram charts/tangram -n {SYSTEM}: CRDs, RBAC, admission policies")
        install(sandbox, repository)
        processes = [start(sandbox, process) for process in ("scheduler", "controller")]
        if not keep:
            for running in processes:
                stack.callback(stop, running)
        if empty:
            until(lambda: leading(sandbox, processes), "no scheduler and controller hold their Leases")
        else:
            show(sandbox, repository, processes, say)
        say("done")
        if keep:
            click.echo(
                f"\nexport KUBECONFIG={sandbox.kubeconfig}\n{end_of(name, processes)}   # when you have seen enough"
            )


def end_of(name: str, processes: "list[subprocess.Popen[bytes]]") -> str:
    """What ends a demo that was kept: one command where the sandbox finds its processes by their environment."""
    down = f"tangram sandbox down --name {name}"
    return down if platform.system() == "Linux" else f"kill {' '.join(str(one.pid) for one in processes)}; {down}"


def find_repository() -> Path:
    """The checkout that holds the chart and the examples; raises NotReachable outside of one."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        if (folder / "charts" / "tangram" / "Chart.yaml").exists() and (folder / "examples" / "demo").is_dir():
            return folder
    raise NotReachable("the demo needs tangram's checkout (charts/tangram and examples/demo): run it from there")


def install(sandbox: "Sandbox", repository: Path) -> None:
    """Install the chart; its two Deployments have no replicas, as fake nodes cannot run them."""
    none = ["--set", "scheduler.replicas=0", "--set", "controller.replicas=0"]
    sandbox.helm("upgrade", "--install", "tangram", str(repository / "charts/tangram"), "-n", SYSTEM,
                 "--create-namespace", *none)  # fmt: skip
    until(lambda: sandbox.kubectl("get", "trainingjobs,inferenceservices,hybridpolicies,gpunodes", "-A",
                                  check=False).returncode == 0, "the custom resources are not served")  # fmt: skip


def start(sandbox: "Sandbox", process: str) -> "subprocess.Popen[bytes]":
    """Start one of the two processes as the service account that the chart made for it."""
    from tangram.sandbox.client import free_ports
    from tangram.sandbox.processes import IDENTITY_VARIABLE

    token = sandbox.kubectl("create", "token", f"tangram-{process}", "-n", SYSTEM, "--duration=8h").stdout.strip()
    config = json.loads(sandbox.kubectl("config", "view", "--raw", "-o", "json").stdout)
    config["users"] = [{"name": process, "user": {"token": token}}]
    for context in config["contexts"]:
        context["context"]["user"] = process
    kubeconfig = sandbox.state_dir / f"{process}.kubeconfig"
    kubeconfig.touch(0o600)
    kubeconfig.write_text(json.dumps(config))
    health, metrics = free_ports(2)
    command = [sys.executable, "-m", "tangram", process, "--kubeconfig", str(kubeconfig), "--lease-namespace", SYSTEM,
               "--health-port", str(health), "--metrics-port", str(metrics)]  # fmt: skip
    environment = os.environ | {IDENTITY_VARIABLE: sandbox.state.identity}  # it ends with the sandbox
    with (sandbox.state_dir / f"{process}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def leading(sandbox: "Sandbox", processes: "list[subprocess.Popen[bytes]]") -> bool:
    """Whether both processes hold their Leases, and so work; raises TangramError when one has ended."""
    _dead(sandbox, processes)
    holders = "jsonpath={range .items[*]}{.spec.holderIdentity}{'\\n'}{end}"
    answer = sandbox.kubectl("get", "leases", "-n", SYSTEM, "-o", holders)
    return len(answer.stdout.split()) == len(processes)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, politely first."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def show(sandbox: "Sandbox", repository: Path, processes: "list[subprocess.Popen[bytes]]", say: Say) -> None:
    """Apply the examples one by one, wait for what each promises, and print the tables."""
    examples = repository / "examples"
    sandbox.kubectl("create", "namespace", "demo", check=False)

    def apply(file: Path, meaning: str) -> None:
        say(f"kubectl apply -f {file.relative_to(repository)}: {meaning}")
        sandbox.kubectl("apply", "-f", str(file))

    def wait(done: Callable[[], bool], failure: str) -> None:
        until(lambda: done() or _dead(sandbox, processes), failure)

    apply(examples / "policy.yaml", "the sample HybridPolicy")
    apply(examples / "demo/1-gang.yaml", "a gang of 4 PyTorch pods of 2 GPUs")
    wait(lambda: placed(sandbox, f"{names.JOB}=llama") == 4, "the gang was not bound")
    apply(examples / "demo/2-fractions.yaml", "three pods on 30, 30 and 40 % of a GPU")
    apply(examples / "demo/3-service.yaml", "an InferenceService of 2 replicas on half a GPU each")
    wait(lambda: placed(sandbox, "") == 9, "fractions and service were not bound")
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    service = ("get", "inferenceservice", "chat", "-n", "demo", "-o", ready)
    wait(lambda: "True" in sandbox.kubectl(*service).stdout, "the service did not become ready")
    apply(examples / "demo/4-waiting.yaml", "what cannot fit")
    wait(lambda: len(waiting(sandbox)) == 3, "no reason was reported for the pending pods")
    click.echo()
    table(("POD", "NODE", "GPU", "SHARE"), list(placements(sandbox)))
    click.echo()
    table(("PENDING POD", "REASON"), waiting(sandbox))
    click.echo()
    for kind in ("hybridpolicies", "trainingjobs", "inferenceservices"):
        click.echo(sandbox.kubectl("get", kind, "-n", "demo").stdout)
    click.echo("rendezvous of llama-worker-0: " + " ".join(rendezvous(sandbox)) + "\n")


def until(done: Callable[[], bool], failure: str) -> None:
    """Wait for a condition; raises NotReachable with the failure when it does not come true in time."""
    end = time.monotonic() + DEADLINE
    while not done():
        if time.monotonic() > end:
            raise NotReachable(f"{failure} within {DEADLINE:.0f} s")
        time.sleep(0.2)


def pods(sandbox: "Sandbox", selector: str) -> list[dict[str, Any]]:
    """The demo's pods, by name."""
    answer = sandbox.kubectl("get", "pods", "-n", "demo", "-l", selector, "-o", "json")
    found: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
    return found


def placed(sandbox: "Sandbox", selector: str) -> int:
    """How many pods have a node."""
    return sum(1 for pod in pods(sandbox, selector) if pod["spec"].get("nodeName"))


def placements(sandbox: "Sandbox") -> Iterator[tuple[str, ...]]:
    """(pod, node, GPU, share) of every bound pod."""
    for pod in pods(sandbox, ""):
        node = pod["spec"].get("nodeName")
        if node:
            recorded = json.loads(pod["metadata"].get("annotations", {}).get(names.GPUS, "{}"))
            shares = [share for container in recorded.values() for share in container]
            gpus = ",".join(share["id"] for share in shares)
            yield pod["metadata"]["name"], node, gpus, amount([share["share"] for share in shares])


def amount(percents: list[int]) -> str:
    """Fractions of GPUs in percent, whole GPUs by their number."""
    whole, parts = percents.count(100), [f"{percent} %" for percent in percents if percent != 100]
    return " + ".join(([f"{whole} GPU{'s' * (whole > 1)}"] if whole else []) + parts)


def waiting(sandbox: "Sandbox") -> list[tuple[str, ...]]:
    """(pod, message) of every pending pod that carries a reason."""
    return [
        (pod["metadata"]["name"], condition["message"])
        for pod in pods(sandbox, "")
        for condition in pod["status"].get("conditions", ())
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("message")
    ]


def rendezvous(sandbox: "Sandbox") -> list[str]:
    """The environment by which the gang's first pod finds the others."""
    first = pods(sandbox, f"{names.JOB}=llama,{names.INDEX}=0")[0]
    environment = first["spec"]["containers"][0].get("env", [])
    wanted = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "PET_NNODES", "PET_NPROC_PER_NODE")
    return [f"{entry['name']}={entry.get('value', '')}" for entry in environment if entry["name"] in wanted]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print columns that fit their widest entry."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _dead(sandbox: "Sandbox", processes: "list[subprocess.Popen[bytes]]") -> bool:
    for process, name in zip(processes, ("scheduler", "controller"), strict=True):
        if process.poll() is not None:
            lines = (sandbox.state_dir / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise TangramError(f"tangram {name} ended with {process.returncode}: {lines[-1] if lines else 'no output'}")
    return False
