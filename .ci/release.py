"""Make a release: the version in every file, the changelog cut, wheel, sdist and chart built, and each installed.

``make release VERSION=1.2.3``. All of it happens in a copy of what is committed. Only when everything that is to be
handed out has been installed do the changed files come into the checkout, and the artifacts into ``dist/VERSION``, with
their checksums and the version's part of the changelog; to commit, to tag and to publish is left to a person.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path(sys.executable)
NAMESPACE = ("--namespace", "tangram-system", "--create-namespace")

VERSIONS = {
    "pyproject.toml": (r'(?m)^(version = ")[^"]+(")$',),
    "operator/tangram/__init__.py": (r'(__version__ = ")[^"]+(")',),
    "charts/tangram/Chart.yaml": (r"(?m)^(version: ).+()$", r"(?m)^(appVersion: ).+()$"),
    "docs/installing.md": (r"(ml/tangram:)\d+\.\d+\.\d+()",),
    "docs/quickstart.md": (r"(ml/tangram:)\d+\.\d+\.\d+()",),
    "examples/sharing/verify.yaml": (r"(image: tangram:)\d+\.\d+\.\d+()",),
}
"""Where the version stands: what is before it, and behind it."""


class Refused(Exception):
    """Why there is no release, as a sentence."""


def cut(changelog: str, version: str, day: str) -> str:
    """The changelog with what is unreleased under the version. Raises Refused."""
    released = [tuple(map(int, one.split("."))) for one in re.findall(r"(?m)^## (\d+\.\d+\.\d+)", changelog)]
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise Refused(f"VERSION: {version!r} is not a version; allowed are three numbers, such as 1.2.3")
    if released and tuple(map(int, version.split("."))) <= max(released):
        newest = ".".join(map(str, max(released)))
        raise Refused(f"VERSION: {version} is not above {newest}, which CHANGELOG.md has already")
    head, mark, rest = changelog.partition("## Unreleased\n")
    entries, *_ = re.split(r"(?m)^## ", rest, maxsplit=1)
    if not mark or not entries.strip():
        raise Refused("CHANGELOG.md: nothing stands under Unreleased; a release tells its users what is new")
    return f"{head}{mark}\n## {version} - {day}\n{rest}"


def with_version(name: str, text: str, version: str) -> str:
    """The text of a file with the version in each of its places. Raises Refused."""
    for place in VERSIONS[name]:
        text, found = re.subn(place, rf"\g<1>{version}\g<2>", text)
        if not found:
            raise Refused(f"{name}: no version stands where one is expected ({place})")
    return text


def prepare(copy: Path, version: str, day: str) -> list[str]:
    """Write the version and the changelog in a copy; the names of the files. Raises Refused."""
    changelog = copy / "CHANGELOG.md"
    changelog.write_text(cut(changelog.read_text(), version, day))
    for name in VERSIONS:
        path = copy / name
        path.write_text(with_version(name, path.read_text(), version))
    return ["CHANGELOG.md", *VERSIONS]


def run(*command: str | Path, where: Path = ROOT, **environment: str) -> str:
    """What a command prints. Raises Refused with what it said, when it fails."""
    words = [str(word) for word in command]
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}  # else sources hide what is tested
    try:
        done = subprocess.run(words, cwd=where, env=kept | environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Refused(f"{words[0]}: {error.strerror}; `make release` brings the tools that a release needs") from None
    if done.returncode:
        raise Refused(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def new_tag(version: str) -> None:
    """Raises Refused where the tag of the version exists: it stays what it was."""
    if run("git", "tag", "--list", f"v{version}"):
        raise Refused(f"VERSION: the tag v{version} exists")


def notes(changelog: str, version: str) -> str:
    """What the changelog says of a version, for where the release is announced."""
    _, _, rest = changelog.partition(f"## {version} - ")
    section, *_ = re.split(r"(?m)^## ", rest.partition("\n")[2], maxsplit=1)
    return section.strip() + "\n"


def sums(folder: Path) -> str:
    """What ``sha256sum --check`` reads, of all that is handed out."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def copy_of_what_is_committed(folder: Path) -> None:
    """Copy the checkout. Raises Refused when something in it is not committed."""
    if changes := run("git", "status", "--porcelain"):
        raise Refused(f"not everything is committed:\n{changes.rstrip()}")
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    run("git", "archive", "--output", archive, "HEAD")
    shutil.unpack_archive(archive, folder, filter="data")


def build(source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The sdist, the wheel that is made of it, and the chart; tools and their hashes are those of build-hashes.txt."""
    moment = run("git", "log", "-1", "--format=%ct").strip()
    pinned = ("--build-constraint", "build-hashes.txt", "--require-hashes")
    run(PYTHON.with_name("uv"), "build", *pinned, "--out-dir", folder, where=source, SOURCE_DATE_EPOCH=moment)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    run(helm(), "package", source / "charts" / "tangram", "--destination", folder)
    (chart,) = folder.glob("*.tgz")
    return sdist, wheel, chart


def helm() -> Path:
    """The sandbox's helm."""
    from tangram.sandbox.binaries import program_paths

    return program_paths(("helm",))["helm"]


def check_distribution(artifact: Path, source: Path, folder: Path, version: str) -> None:
    """Install a wheel or an sdist into an environment of its own, and use it. Raises Refused."""
    run(PYTHON, "-m", "venv", folder)
    pip = (folder / "bin" / "pip", "install", "--quiet")
    for name in ("hashes.txt", *(["build-hashes.txt"] if artifact.suffix == ".gz" else [])):
        run(*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", source / name)
    run(*pip, "--no-index", "--no-build-isolation", "--no-deps", artifact)
    tangram, away = folder / "bin" / "tangram", folder.parent
    said = run(tangram, "--version", where=away)
    if version not in said:
        raise Refused(f"{artifact.name}: says that it is {said.strip()!r}")
    run(tangram, "crds", "--write", folder / "crds", where=away)
    for path in sorted((source / "crds").glob("*.yaml")):
        if (folder / "crds" / path.name).read_text() != path.read_text():
            raise Refused(f"{artifact.name}: has another {path.name} than the sources")
    # Everything that is no Python has to have come along: protocols, and the sandbox's sources.
    run(folder / "bin" / "python", "-c", "import tangram.node.wire.deviceplugin_pb2_grpc", where=away)
    inside = next((folder / "lib").glob("python*/site-packages/tangram"))
    for path in (source / "operator" / "tangram").rglob("*"):
        if path.is_file() and not (inside / path.relative_to(source / "operator" / "tangram")).exists():
            raise Refused(f"{artifact.name}: {path.relative_to(source)} is missing")


def check_chart(chart: Path, folder: Path) -> None:
    """Lint the packaged chart, and install it on a real API server. Raises Refused, or what the sandbox raises."""
    from tangram.sandbox import cluster

    run(helm(), "lint", "--strict", chart)
    name = f"release-{os.getpid()}"
    sandbox = cluster.up(name, state_root=folder, wish=cluster.Wish(fsync=False, tied_to_parent=True))
    try:
        for options in (("--dry-run=server",), ()):
            sandbox.helm("install", "tangram", str(chart), *NAMESPACE, *options)
        sandbox.helm("uninstall", "tangram", *NAMESPACE[:2])
    finally:
        cluster.down(name, state_root=folder)


def make(version: str, *, keep: bool) -> None:
    """All of it; ``keep``: change the checkout at the end. Raises Refused."""
    with tempfile.TemporaryDirectory(prefix="tangram-release-") as temporary:
        folder = Path(temporary)
        source, made = folder / "source", folder / "dist"
        copy_of_what_is_committed(source)
        new_tag(version)
        changed = prepare(source, version, datetime.now(UTC).date().isoformat())
        say("building")
        sdist, wheel, chart = build(source, made)
        for artifact in (wheel, sdist):
            say(f"installing {artifact.name}")
            check_distribution(artifact, source, folder / f"env-{artifact.suffix[1:]}", version)
        say(f"installing {chart.name} on an API server")
        check_chart(chart, folder / "sandbox")
        (made / "SHA256SUMS").write_text(sums(made))
        (made / "NOTES.md").write_text(notes((source / "CHANGELOG.md").read_text(), version))
        if keep:
            for name in changed:
                shutil.copyfile(source / name, ROOT / name)
            shutil.copytree(made, ROOT / "dist" / version, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))


def say(text: str) -> None:
    """One line for whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(description="Build, install and check a release, and cut the changelog.")
    parser.add_argument("version", nargs="?", default="", help="such as 1.2.3")
    parser.add_argument("--check", action="store_true", help="change nothing in the checkout")
    chosen = parser.parse_args(arguments)
    from tangram.errors import TangramError  # what the sandbox raises

    try:
        make(chosen.version, keep=not chosen.check)
    except (Refused, TangramError) as why:
        sys.stderr.write(f"error: {why}\n")
        return 1
    if not chosen.check:
        say(f"dist/{chosen.version} holds the release")
        say(f"next: git commit -am 'Release {chosen.version}' && git tag v{chosen.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
