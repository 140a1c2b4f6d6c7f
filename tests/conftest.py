"""What every test room may use: one real local cluster for the whole run."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tangram.sandbox.binaries import missing_programs
from tangram.sandbox.cluster import Sandbox, down, up


def pytest_configure() -> None:
    """Say that the main thread has no event loop of its own.

    Else pytest-asyncio's look at "the current loop" before the first asynchronous test makes one that nobody closes,
    and its ResourceWarning fails whichever test the garbage collector happens to run in.
    """
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the sandbox is in the cluster tier: `make fast` leaves it out."""
    for item in items:
        if "sandbox" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


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
    running = up(name, state_root=root, fsync=False, tied_to_parent=True)
    try:
        yield running
    finally:
        down(name, state_root=root)
