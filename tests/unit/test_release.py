"""`make release`: what it writes, and what it refuses before anything is built."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import tangram
from tangram.errors import SandboxError

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.2.0 - 2026-01-01\n\n- Old.\n"


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_unreleased_becomes_the_release(release) -> None:
    assert release.cut(CHANGELOG, "0.3.0", "2026-02-01") == (
        "# Changelog\n\n## Unreleased\n\n## 0.3.0 - 2026-02-01\n\n- New.\n\n## 0.2.0 - 2026-01-01\n\n- Old.\n"
    )


@pytest.mark.parametrize(
    ("version", "changelog", "sentence"),
    [
        ("", CHANGELOG, "VERSION: '' is not a version; allowed are three numbers, such as 1.2.3"),
        ("v0.3.0", CHANGELOG, "VERSION: 'v0.3.0' is not a version"),
        ("0.2.0", CHANGELOG, "VERSION: 0.2.0 is not above 0.2.0, which CHANGELOG.md has already"),
        ("0.1.9", CHANGELOG, "VERSION: 0.1.9 is not above 0.2.0"),
        ("0.3.0", CHANGELOG.replace("- New.\n", ""), "nothing stands under Unreleased"),
    ],
)
def test_a_release_that_would_mislead_is_refused(release, version, changelog, sentence) -> None:
    with pytest.raises(release.Refused, match=re.escape(sentence)):
        release.cut(changelog, version, "2026-02-01")


def test_the_version_is_written_wherever_it_stands(release) -> None:
    """And is the same everywhere today."""
    for name in release.VERSIONS:
        text = (ROOT / name).read_text()
        assert release.with_version(name, text, tangram.__version__) == text
        assert "9.8.7" in release.with_version(name, text, "9.8.7")


def test_a_file_that_has_lost_its_version_is_named(release) -> None:
    with pytest.raises(release.Refused, match=r"pyproject.toml: no version stands where one is expected"):
        release.with_version("pyproject.toml", "[project]\n", "1.2.3")


def test_what_is_announced_is_the_version_s_part_of_the_changelog(release) -> None:
    cut = release.cut(CHANGELOG, "0.3.0", "2026-02-01")
    assert release.notes(cut, "0.3.0") == "- New.\n"
    assert release.notes(cut, "0.2.0") == "- Old.\n"


def test_everything_that_is_handed_out_has_a_checksum(release, tmp_path: Path) -> None:
    for name in ("b.whl", "a.tgz", ".gitignore"):
        (tmp_path / name).write_text(name)
    text = release.sums(tmp_path)
    assert [line.split("  ")[1] for line in text.splitlines()] == ["a.tgz", "b.whl"]
    (tmp_path / "SHA256SUMS").write_text(text)
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False)
    assert check.returncode == 0


def test_a_tool_that_is_missing_is_one_sentence(release, tmp_path: Path) -> None:
    with pytest.raises(release.Refused, match=r"uv: No such file or directory; `make release` brings the tools"):
        release.run(tmp_path / "uv", "build")


def test_a_version_that_has_a_tag_is_refused(release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "run", lambda *_: "v0.3.0\n")
    with pytest.raises(release.Refused, match=r"VERSION: the tag v0.3.0 exists"):
        release.new_tag("0.3.0")


def test_what_the_sandbox_raises_is_one_line_too(release, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fails(*_: object, **__: object) -> None:
        raise SandboxError("etcd did not start")

    monkeypatch.setattr(release, "make", fails)
    assert release.main(["0.3.0"]) == 1
    assert capsys.readouterr().err == "error: etcd did not start\n"
