"""`tangram version`: this command's, and the server's and the scheduler's where they can be reached."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.conftest import Api, kubeconfig

from tangram import __version__
from tangram.api import names
from tangram.cli.main import tangram
from tangram.cluster.paths import LEASES
from tangram.scheduler.published import publishing
from tangram.settings import SchedulerSettings


def test_the_scheduler_publishes_its_version_on_its_lease(api: Api) -> None:
    api.put(LEASES, {"metadata": {"name": "tangram-scheduler", "annotations": publishing(SchedulerSettings())}})
    api.put(LEASES, {"metadata": {"name": "odd", "annotations": {names.SCHEDULER_SETTINGS: "["}}})
    lines = [f"Client Version: {__version__}", "Server Version: v1.99.0", f"Scheduler Version: {__version__} (tangram)"]
    assert api.run("version").output.splitlines() == lines
    assert json.loads(api.run("version", "-o", "json").output) == {
        "clientVersion": __version__,
        "serverVersion": "v1.99.0",
        "schedulerVersions": {"tangram": __version__},
    }


def test_schedulers_that_say_different_things_stand_beside_each_other(api: Api) -> None:
    for name, said in {"a": {"version": "1"}, "b": {"version": "2"}, "c": {}}.items():
        text = json.dumps({"schedulerName": "tangram"} | said)
        api.put(LEASES, {"metadata": {"name": name, "annotations": {names.SCHEDULER_SETTINGS: text}}})
    assert api.run("version").output.splitlines()[2] == "Scheduler Version: 1, 2, not published (tangram)"


@pytest.mark.parametrize("refused", [True, False])
def test_a_scheduler_that_cannot_be_seen_is_not_known(api: Api, refused: bool) -> None:
    if refused:
        api.refused[LEASES.collection()] = (403, "forbidden")
    done = api.run("version")
    assert done.exit_code == 0
    assert done.output.splitlines()[2].startswith("Scheduler Version: not known")


def test_a_server_that_cannot_be_reached_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(kubeconfig("http://127.0.0.1:1"))
    done = CliRunner().invoke(tangram, ["version", "--kubeconfig", str(tmp_path / "config")])
    assert (done.exit_code, done.stdout) == (0, f"Client Version: {__version__}\n")
    assert "127.0.0.1:1" in done.stderr


def test_no_cluster_is_asked_where_none_is_meant(tmp_path: Path) -> None:
    done = CliRunner().invoke(tangram, ["version", "--client", "--kubeconfig", str(tmp_path / "none")])
    assert (done.output, done.exit_code) == (f"Client Version: {__version__}\n", 0)
