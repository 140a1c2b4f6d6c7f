"""Building once, keeping it, and what happens when building is not possible."""

import re
import shutil
import threading
from collections import namedtuple

import pytest

from tangram.errors import InvalidInput, MissingTool, SandboxError
from tangram.sandbox.binaries import build, missing_programs, program_paths
from tangram.sandbox.golang import build_environment
from tangram.sandbox.recipes import DEFAULT_PROGRAMS, MODULES, check_optional

pytestmark = pytest.mark.slow  # asks programs for their versions


def leftovers(workshop):
    return [path.name for path in workshop.cache.rglob("*") if ".part" in path.name or path.suffix == ".lock"]


def test_what_is_missing_is_built_with_one_go_build_for_each_module(workshop, lines):
    paths = build(report=lines.append)

    assert set(paths) == set(DEFAULT_PROGRAMS)
    assert all(path.stat().st_mode & 0o100 for path in paths.values())
    assert len(workshop.builds) == len(MODULES)
    assert "-trimpath" in workshop.builds[0]
    assert "gitVersion=v1.36.3" in workshop.builds[0]
    assert lines[0].startswith("building kubernetes v1.36.3 (kube-apiserver, kube-controller-manager, kubectl)")
    assert leftovers(workshop) == []


def test_what_is_there_is_not_built_again(workshop, lines):
    build()
    (workshop.home / "builds").unlink()

    build(report=lines.append)

    assert workshop.builds == []
    assert lines == []


def test_an_optional_program_is_built_when_asked_for_beside_what_is_there(workshop):
    build()
    assert missing_programs((*DEFAULT_PROGRAMS, "kube-scheduler")) == ("kube-scheduler",)

    paths = build((*DEFAULT_PROGRAMS, "kube-scheduler"))

    assert paths["kube-scheduler"].parent == paths["kube-apiserver"].parent
    assert workshop.builds[-1].endswith("k8s.io/kubernetes/cmd/kube-scheduler")


def test_a_program_that_nobody_knows_is_refused():
    with pytest.raises(InvalidInput, match="allowed: kube-scheduler, kubelet"):
        check_optional(["kube-proxy"])


def test_a_failing_compiler_leaves_nothing_and_says_why(workshop, monkeypatch):
    monkeypatch.setenv("FAKE_GO_FAILS", "yes")

    with pytest.raises(SandboxError, match=r"building kubernetes .* failed: main.go:1: undefined: x .*kubernetes.log"):
        build()

    assert set(missing_programs()) == set(DEFAULT_PROGRAMS)
    assert leftovers(workshop) == []


def test_two_builds_at_once_build_once(workshop):
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert missing_programs() == ()
    assert len(workshop.builds) == len(MODULES)


def test_another_module_file_is_another_folder(workshop, monkeypatch, tmp_path):
    before = program_paths(["etcd"])["etcd"]
    shutil.copytree(MODULES[1].folder, tmp_path / "modules" / "etcd")
    with (tmp_path / "modules" / "etcd" / "go.sum").open("a") as file:
        file.write("more\n")
    monkeypatch.setattr("tangram.sandbox.recipes.MODULES_FOLDER", tmp_path / "modules")

    assert program_paths(["etcd"])["etcd"] != before


def test_a_full_disk_is_found_before_the_build(workshop, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 100 << 20))

    with pytest.raises(SandboxError, match=r"needs about \d+ MiB of disk and .* has 100 MiB free"):
        build()

    assert workshop.builds == []


def test_a_cache_that_cannot_be_made_is_a_clear_error(workshop, monkeypatch):
    (workshop.home / "file").write_text("")
    monkeypatch.setenv("TANGRAM_CACHE", str(workshop.home / "file" / "cache"))

    with pytest.raises(SandboxError, match=r"cache folder .* cannot be made"):
        build()


@pytest.mark.parametrize("version", ["go1.25.9", "nonsense"])
def test_without_a_recent_go_and_without_pypi_the_error_says_what_to_install(workshop, monkeypatch, version):
    monkeypatch.setenv("FAKE_GO_VERSION", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(MissingTool, match=r"install Go 1\.26 or newer"):
        build()

    assert leftovers(workshop) == []


def test_the_users_go_settings_are_honoured_and_what_would_change_the_result_is_not(monkeypatch):
    monkeypatch.setenv("GOFLAGS", "-p=1")
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOOS", "plan9")

    environment = build_environment()

    assert environment["GOFLAGS"] == "-p=1"
    assert environment["GOPROXY"] == "off"
    assert "GOOS" not in environment
    assert environment["CGO_ENABLED"] == "0"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_each_wrapper_module_pins_the_version_that_the_recipe_names(module):
    text = (module.folder / "go.mod").read_text()

    assert re.search(rf" {re.escape(module.version)}( // indirect)?$", text, re.MULTILINE)
    assert (module.folder / "go.sum").stat().st_size > 0
    for package in module.programs.values():
        assert package == "." or package in text, f"{package} is no tool of {module.name}"
