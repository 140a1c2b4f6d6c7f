"""A cluster with tangram on it, as a reader of the pages has it: the chart installed, both processes at work."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.pages.reading import ROOT
from tests.sources import SOURCES
from tests.waiting import eventually

from tangram.cli import demo
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import parse_nodes


@dataclass
class Reader:
    """Somebody at a shell, in the checkout, with kubectl, its plugin and helm in the PATH."""

    sandbox: Sandbox
    folder: Path

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a line of a page; both outputs are one, as on a screen."""
        programs = {str(Path(path).parent) for path in self.sandbox.state.programs.values()}
        path = os.pathsep.join((str(self.folder), *sorted(programs), os.environ["PATH"]))
        environment = os.environ | {"PATH": path, "KUBECONFIG": str(self.sandbox.kubeconfig)}
        return subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def clean_up(self) -> str:
        """Remove what a page has left on the cluster; says what that was."""
        kinds = ("hybridpolicies", "namespaces --field-selector metadata.name!=default")
        left = " ".join(self.run(f"kubectl get {kind} -o name").stdout for kind in kinds).split()
        ours = [one for one in left if not one.startswith(("namespace/kube-", f"namespace/{demo.SYSTEM}"))]
        for name in ours:
            self.run(f"kubectl delete {name}")
        return " ".join(ours)


@pytest.fixture(scope="module")
def cluster(sandbox_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A cluster of the pages' own, for the chart's rules and policies hold for all of a cluster."""
    state_root, folder = tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("bin")
    for name in ("tangram", "kubectl-tangram"):
        code = f"import sys; from tangram.cli.main import main; sys.argv[0] = '{name}'; main()"
        script = folder / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCES} exec {sys.executable} -c "{code}" "$@"\n')
        script.chmod(0o755)
    wish = Wish(nodes=parse_nodes("2x8xA100,1x4xT4"), fsync=False, tied_to_parent=True)
    sandbox = up("pages", state_root=state_root, wish=wish)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        demo.install(sandbox, ROOT)
        processes += [demo.start(sandbox, process) for process in ("scheduler", "controller")]
        eventually(lambda: demo.leading(sandbox, processes), "the processes are at work")
        yield Reader(sandbox, folder)
    finally:
        for process in processes:
            demo.stop(process)
        down("pages", state_root=state_root)


@pytest.fixture
def reader(cluster: Reader) -> Iterator[Reader]:
    """A reader who begins with nothing on the cluster."""
    yield cluster
    cluster.clean_up()
