"""`make release`: what it writes, and what it refuses before anything is built."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import tangram

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
