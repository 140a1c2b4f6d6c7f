"""The provider for machines with a container engine, with stand-ins for the engine and for kind."""

import pytest

from tangram.errors import MissingTool, SandboxError
from tangram.sandbox.cluster import Wish, down, find, up

ANSWERS = "#!/bin/sh\nexit 0\n"
SILENT = "#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n"
KIND = """#!/bin/sh
echo "$*" >> "$FAKE_HOME/kind-calls"
case "$1" in
  create) echo '{}' > "$6"; touch "$FAKE_HOME/cluster";;
  delete) rm -f "$FAKE_HOME/cluster";;
  get) [ ! -f "$FAKE_HOME/cluster" ] || echo tangram-one;;
esac
"""


@pytest.fixture
def machine(workshop, monkeypatch):
    """A machine on which the commands of this machine's own engine are not found."""
    for name in ("basename", "cp", "chmod", "rm", "touch", "printf", "sleep", "sh", "cat"):
        (workshop.tools / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(workshop.tools))
    return workshop


def test_no_engine_is_said_in_one_line(machine, tmp_path):
    with pytest.raises(
        MissingTool, match=r"no container engine answers \(none of docker, podman, nerdctl is installed\)"
    ):
        up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root")


def test_an_engine_that_does_not_answer_is_quoted(machine, tmp_path):
    machine.tool("docker", SILENT)

    with pytest.raises(
        MissingTool, match=r"no container engine answers \(docker: Cannot connect to the daemon\); start"
    ):
        up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root")

    assert list((tmp_path / "root").iterdir()) == []
    assert machine.builds == []


def test_an_engine_without_kind_is_said(machine, tmp_path):
    machine.tool("docker", SILENT)
    machine.tool("podman", ANSWERS)

    with pytest.raises(MissingTool, match="kind is not installed"):
        up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root")


def test_kind_creates_and_deletes_a_cluster_of_the_same_shape_of_state(machine, tmp_path):
    machine.tool("docker", ANSWERS)
    machine.tool("kind", KIND)

    started = up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root")

    assert started.running
    assert started.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert find("one", state_root=tmp_path / "root").running
    assert up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root").state == started.state
    assert down("one", state_root=tmp_path / "root")
    calls = (machine.home / "kind-calls").read_text()
    assert calls.count("create cluster --name tangram-one") == 1
    assert calls.count("delete cluster --name tangram-one") == 1
    assert list((tmp_path / "root").iterdir()) == []


def test_a_failing_kind_leaves_nothing(machine, tmp_path):
    machine.tool("docker", ANSWERS)
    machine.tool("kind", '#!/bin/sh\n[ "$1" = delete ] && exit 0\necho "ERROR: no space left" >&2\nexit 1\n')

    with pytest.raises(SandboxError, match="kind could not create the cluster: ERROR: no space left"):
        up("one", wish=Wish(provider="kind"), state_root=tmp_path / "root")

    assert list((tmp_path / "root").iterdir()) == []
