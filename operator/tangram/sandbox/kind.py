"""The same sandbox on a container engine, by the ``kind`` command."""

import shutil
import subprocess
from pathlib import Path

from tangram.errors import MissingTool, SandboxError

_ENGINES = ("docker", "podman", "nerdctl")
_ANSWER_SECONDS = 20
_START_SECONDS = 600


def cluster_name(name: str) -> str:
    """The name under which kind knows the sandbox."""
    return f"tangram-{name}"


def check_engine() -> None:
    """Raise ``MissingTool``, in one line, when no container engine answers or ``kind`` is not installed."""
    reasons = []
    for engine in _ENGINES:
        if not shutil.which(engine):
            continue
        answer = _run([engine, "ps", "--quiet"], _ANSWER_SECONDS)
        if answer.returncode == 0:
            break
        reasons.append(f"{engine}: {_last_line(answer)}")
    else:
        seen = "; ".join(reasons) or f"none of {', '.join(_ENGINES)} is installed"
        raise MissingTool(f"no container engine answers ({seen}); start one, or use --provider local, which needs none")
    if not shutil.which("kind"):
        raise MissingTool("kind is not installed; install it, or use --provider local, which needs nothing")


def create(name: str, kubeconfig: Path) -> None:
    """Create the cluster and write its kubeconfig; raises ``SandboxError`` when kind fails."""
    command = ["kind", "create", "cluster", "--name", cluster_name(name), "--kubeconfig", str(kubeconfig)]
    answer = _run([*command, "--wait", "120s"], _START_SECONDS)
    if answer.returncode != 0:
        raise SandboxError(f"kind could not create the cluster: {_last_line(answer)}")
    kubeconfig.chmod(0o600)


def delete(name: str, kubeconfig: Path) -> None:
    """Delete the cluster; one that is not there is no error. Raises ``SandboxError`` when kind fails."""
    command = ["kind", "delete", "cluster", "--name", cluster_name(name), "--kubeconfig", str(kubeconfig)]
    answer = _run(command, _START_SECONDS)
    if answer.returncode != 0:
        raise SandboxError(f"kind could not delete {cluster_name(name)}: {_last_line(answer)}")


def exists(name: str) -> bool:
    """Whether kind knows the cluster now."""
    answer = _run(["kind", "get", "clusters"], _ANSWER_SECONDS)
    return answer.returncode == 0 and cluster_name(name) in answer.stdout.split()


def _run(command: list[str], timeout: float) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in {timeout:.0f} s")


def _last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    words = [line.strip() for line in (answer.stderr or answer.stdout).splitlines() if line.strip()]
    return words[-1] if words else f"exit status {answer.returncode}"
