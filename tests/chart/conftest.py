"""What the chart's tests share: a helm to render with, and a control plane on which the release is installed."""

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documents import LOADER

from tangram.sandbox import cluster
from tangram.sandbox.binaries import missing_programs, program_paths
from tangram.sandbox.cluster import Wish

Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[dict[str, Any]]]

NAMESPACE = "tangram-system"


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def chart(root: Path) -> Path:
    return root / "charts" / "tangram"


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Run helm without a cluster: ``helm("template", ...)``."""
    path = shutil.which("helm") if missing_programs(("helm",)) else str(program_paths(("helm",))["helm"])
    if path is None:
        pytest.skip("no helm here: `tangram sandbox build` builds it")

    hurried = os.environ | {"GOGC": "off"}  # it ends before anything is worth collecting

    def run(*arguments: str, values: dict[str, Any] | None = None) -> "subprocess.CompletedProcess[str]":
        command = [path, *arguments, *(["--values", "-"] if values else [])]
        return subprocess.run(
            command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False, env=hurried
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm, chart: Path) -> Render:
    """The objects that the chart makes of some values; fails the test when helm refuses them.

    A helm takes half a second: what several tests ask for is made once.
    """
    made: dict[str, bytes] = {}

    def run(values: dict[str, Any] | None = None, *arguments: str, name: str = "tangram") -> list[dict[str, Any]]:
        asked = json.dumps([values, arguments, name], sort_keys=True)
        if asked not in made:
            answer = helm("template", name, str(chart), "--namespace", NAMESPACE, *arguments, values=values)
            assert answer.returncode == 0, answer.stderr
            made[asked] = pickle.dumps([one for one in yaml.load_all(answer.stdout, Loader=LOADER) if one])
        objects: list[dict[str, Any]] = pickle.loads(made[asked])
        return objects

    return run


@pytest.fixture(scope="session")
def sandbox(sandbox_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Sandbox]:
    """A control plane of the chart's own: its admission rules would hold for everybody else's tests as well."""
    state_root = tmp_path_factory.mktemp("chart")
    running = cluster.up("chart", state_root=state_root, wish=Wish(fsync=False, tied_to_parent=True))
    try:
        yield running
    finally:
        cluster.down("chart", state_root=state_root)


@pytest.fixture(scope="session")
def release(sandbox: cluster.Sandbox, chart: Path) -> cluster.Sandbox:
    """The sandbox with the chart installed as a user installs it, and its admission rules in force."""
    sandbox.helm("install", "tangram", str(chart), "--namespace", NAMESPACE, "--create-namespace")
    return sandbox
