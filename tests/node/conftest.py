"""A machine with GPUs for every test of the node's room, through the real NVML bindings and without a GPU."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.node.rig import Rig, rig

from tangram.errors import MissingTool
from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nvml import build, state


class Machine:
    """Its GPUs may be changed at will; ``tell`` shows the change to whoever uses them."""

    def __init__(self, path: Path, gpus: int = 8) -> None:
        self.path = path
        self.put(state.MockMachine(gpus=[state.MockGpu() for _ in range(gpus)]))

    @property
    def gpus(self) -> list[state.MockGpu]:
        return self.written.gpus

    def put(self, written: state.MockMachine) -> None:
        self.written = written
        self.tell()

    def tell(self) -> None:
        state.write(self.written, self.path)

    def uuid(self, index: int) -> str:
        return state.uuid_of(self.written, index)


@pytest.fixture(scope="session")
def mock_library() -> Path:
    """The mock of NVML, compiled; skips where there is no C compiler."""
    try:
        return build.build_mock()
    except MissingTool as error:
        pytest.skip(str(error))


@pytest.fixture
def machine(mock_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Eight H100s that this very process sees; programs that a test starts see them with ``build.environment``."""
    import pynvml

    build.load_here()
    path = tmp_path / "gpus.state"
    monkeypatch.setenv(build.STATE_VARIABLE, str(path))
    yield Machine(path)
    while True:  # whatever a test left initialised
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has at most 107 letters."""
    made = Path(tempfile.mkdtemp(prefix="tg-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the sockets of one test."""
    with short_folder() as made:
        yield made


@pytest.fixture(scope="module")
def real_rig(mock_library: Path, real_cluster: Sandbox) -> Iterator[Rig]:
    """The real node with its agent and the scheduler."""
    with short_folder() as made, rig(real_cluster, made) as running:
        yield running
