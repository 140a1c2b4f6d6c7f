"""What every test room may use: one real local cluster for the whole run, and one with a real node."""

import asyncio
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.budget import examples

from tangram.errors import MissingTool
from tangram.sandbox import packages
from tangram.sandbox.binaries import missing_programs
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.realnode import RealNode, why_not


def pytest_configure() -> None:
    """Set Hypothesis's budget, and say that the main thread has no event loop of its own.

    Else pytest-asyncio's look at "the current loop" before the first asynchronous test makes one that nobody closes,
    and its ResourceWarning fails whichever test the garbage collector happens to run in.
    """
    asyncio.set_event_loop(None)
    # A deadline measures the machine, not the code.
    slow = [HealthCheck.too_slow]
    settings.register_profile("tangram", deadline=None, max_examples=examples(100), suppress_health_check=slow)
    settings.load_profile("tangram")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for real servers is in the cluster tier, which `make fast` leaves out.

    They mostly wait, so `make test` has one process for all of them beside one for all others: never more clusters at
    once than a single process starts, for each takes inotify instances, of which a kernel gives out few.
    """
    for item in items:
        needs = getattr(item, "fixturenames", ())
        if "sandbox_programs" in needs:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("servers"))


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what stays for the whole run: modules, compiled code and the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def sandbox_programs() -> None:
    """Skip where the real servers have not been built: building them takes minutes, so no test does it."""
    if missing := missing_programs():
        pytest.skip(
            f"the local cluster's programs are not built ({', '.join(missing)}): "
            "run `tangram sandbox build` once (about 8 minutes), or `make test`, which does"
        )


@pytest.fixture(scope="session")
def sandbox(sandbox_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A running etcd, kube-apiserver, kube-controller-manager and kwok, shared by the tests of this process.

    It has no nodes: a test creates what it needs under names of its own and removes it again.
    """
    root = tmp_path_factory.mktemp("sandbox")
    name = f"test-{os.getpid()}"
    running = up(name, state_root=root, wish=Wish(fsync=False, tied_to_parent=True))
    try:
        yield running
    finally:
        down(name, state_root=root)


@pytest.fixture(scope="session")
def node_programs(sandbox_programs: None) -> None:
    """Skip where no real node can be had: it takes Linux, root, a kubelet and four Debian packages."""
    if reason := why_not():
        pytest.skip(reason)
    if missing_programs(("kubelet",)):
        pytest.skip("the kubelet is not built: run `tangram sandbox build --with kubelet` once, or `make test`")
    try:
        packages.fetch()
    except MissingTool as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_cluster(node_programs: None) -> Iterator[Sandbox]:
    """A sandbox of its own with a kubelet and containerd, shared by the tests of this process.

    Others may run at the same time: each has process ids, mounts, control groups and a bridge of its own.
    """
    name = f"node-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tangram-") as root:  # a short path: those of sockets are limited
        running = up(name, state_root=Path(root), wish=Wish(real_node=True, fsync=False, tied_to_parent=True))
        try:
            yield running
        finally:
            down(name, state_root=Path(root))


@pytest.fixture(scope="session")
def real_node(real_cluster: Sandbox) -> RealNode:
    """The node of `real_cluster`, to be restarted and looked into; whoever stops something starts it again."""
    return real_cluster.real_node
