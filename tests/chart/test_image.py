"""The image's recipe, checked without a container engine."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_every_stage_starts_from_one_exact_version():
    (argument,) = values("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", argument)
    assert [line.split()[0] for line in values("FROM")] == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}"]


def test_the_base_image_has_a_python_that_the_package_supports():
    minor = int(re.findall(r"python:3\.(\d+)", values("ARG")[0])[0])
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert minor >= int(required.removeprefix(">=3."))


def copied() -> list[str]:
    lines = [shlex.split(line) for line in values("COPY") if "--from=" not in line]
    return [source for words in lines for source in [w for w in words if not w.startswith("--")][:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_not_ignored(source):
    assert (ROOT / source).exists()
    assert f"!{source.removeprefix('./')}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_it_runs_as_nobody_and_starts_tangram():
    final = instructions()[max(i for i, (name, _) in enumerate(instructions()) if name == "FROM") :]
    user = [rest for name, rest in final if name == "USER"][-1]
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) >= 1000
    assert [rest for name, rest in final if name == "ENTRYPOINT"] == ['["tangram"]']
    assert not [rest for name, rest in final if name in ("RUN", "ADD")]


def hashes(name: str) -> dict[str, tuple[str, int]]:
    """Distribution -> its version, and how many files of it may be installed."""
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)((?:.*\\\n +--hash=sha256:[0-9a-f]{64})+)", (ROOT / name).read_text(), re.M
    )
    return {one.lower().replace("_", "-"): (version, files.count("--hash=")) for one, version, files in entries}


def pinned() -> dict[str, str]:
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    return {name.lower().replace("_", "-"): version for name, version in lines}


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0].lower() for one in requirements}


def test_every_file_that_is_installed_has_a_hash():
    """In versions that are tested, and from whatever index: no file names one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    process, build = hashes("hashes.txt"), hashes("build-hashes.txt")
    assert distributions(project["project"]["dependencies"]) <= set(process)
    assert distributions(project["build-system"]["requires"]) <= set(build)
    tested = pinned()
    tested |= {"setuptools": build["setuptools"][0]}  # which pip does not list
    for found in (process, build):
        assert {name: version for name, (version, _) in found.items()} == {name: tested[name] for name in found}
    for name in ("hashes.txt", "build-hashes.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert text.count("==") == len(hashes(name))


def test_no_installation_takes_a_file_without_a_hash():
    commands = [part for run in values("RUN") for part in run.split("&&") if re.search(r"pip (install|wheel)", part)]
    assert len(commands) == 4
    for command in commands:
        assert "--require-hashes" in command or "--no-index" in command, command


def test_installation_is_pinned_and_kernels_are_compiled():
    runs = " ".join(values("RUN"))
    assert "--no-cache-dir" in runs or "PIP_NO_CACHE_DIR=1" in " ".join(values("ENV"))
    assert "tangram scheduler --warm-up" in runs
    assert not re.search(r"curl|wget|apt-get|sudo", runs)


def test_the_chart_runs_the_user_and_the_folders_of_the_image(render):
    scheduler = next(o for o in render() if o["kind"] == "Deployment" and o["metadata"]["name"] == "tangram-scheduler")
    pod = scheduler["spec"]["template"]["spec"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == values("USER")[-1]
    folder = pod["initContainers"][0]["command"][2].removesuffix("/.")
    assert f"NUMBA_CACHE_DIR={folder}" in " ".join(values("ENV"))
