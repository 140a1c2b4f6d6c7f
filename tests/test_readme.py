"""The README says what is true: its commands exist, its links lead somewhere, its output is the demo's."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"`make ([a-z-]+)`", document.read_text()):
            assert target in targets, f"{document.name}: make {target}"


def test_every_link_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not link.startswith(("http://", "https://")):
                assert (document.parent / link).exists(), f"{document.relative_to(ROOT)}: {link}"


def test_the_demo_s_output_is_shown_with_every_example() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text()
    shown = page.partition("<!-- demo output: begin -->")[2].partition("<!-- demo output: end -->")[0]
    for example in sorted((ROOT / "examples" / "demo").glob("*.yaml")):
        assert f"examples/demo/{example.name}" in shown


def test_ci_runs_the_readme_s_test_command() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_map_names_files_that_exist() -> None:
    rooms = ROOT / "operator" / "tangram"
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)", (ROOT / "docs" / "map.md").read_text()):
        assert (rooms / name).exists() or (ROOT / name).exists(), name
