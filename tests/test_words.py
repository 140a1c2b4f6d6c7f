"""One word has one meaning: what the glossary has retired stays out of names and out of what users read."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml
from tests.documents import LOADER
from tests.sources import FILES, ROOT, nodes_of, parsed
from tests.sources import SOURCES as OPERATOR

SOURCES = OPERATOR / "tangram"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GLOSSARY = ROOT / "docs" / "glossary.md"
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
MESSAGES = [
    *(SOURCES / name for name in ("plan.py", "errors.py", "units.py")),
    *sorted(
        path
        for room in ("decide", "questions", "controllers", "cli", "scheduler")
        for path in (SOURCES / room).rglob("*.py")
    ),
]
"""Files whose strings users read: in conditions, Events, errors, answers and help."""


@cache
def retired(where: str) -> list[str]:
    """The words that the glossary's table retires from names, text or messages."""
    table = GLOSSARY.read_text().partition("## Retired words")[2]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    return [word for words, _, places in rows if places == where for word in words.split(", ")]


@cache
def parts(name: str) -> str:
    """The words of a name in lower case with underscores around each: ``_next_look_`` for NextLook and next_look."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return "_" + "_".join(found).lower() + "_"


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Every identifier that a file defines or uses, with its line; the file's own name comes first."""
    yield 0, path.stem
    for node in nodes_of(path):
        for field in ("id", "attr", "name", "arg", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name.rpartition(".")[2]


def strings_in(path: Path) -> Iterator[tuple[int, str]]:
    """String literals of a file; of docstrings only those of the command line's functions, which are help."""
    tree = parsed(path)
    blocks = (owner.body for owner in nodes_of(path) if isinstance(getattr(owner, "body", None), list))
    prose = {id(one.value) for block in blocks for one in block if isinstance(one, ast.Expr)}
    hidden = prose - set(_help(tree)) if path.parent.name == "cli" else prose
    for node in nodes_of(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.lineno, node.value


def _help(tree: ast.AST) -> Iterator[int]:
    """Docstrings of functions with decorators: click shows them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.decorator_list and isinstance(node.body[0], ast.Expr):
            yield id(node.body[0].value)


def found_in(text: str, words: list[str]) -> list[str]:
    """Those of the words that stand in a text as words of their own."""
    low = text.lower()
    there = [word for word in words if word.lower() in low]
    return [word for word in there if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE)]


def prose(page: Path) -> str:
    """A page without its code, without what it prints and without the glossary's own list of retired words."""
    text = page.read_text().partition("## Retired words")[0]
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def described(node: object) -> Iterator[str]:
    """Descriptions and messages of a CRD."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("description", "message") and isinstance(value, str):
                yield value
            else:
                yield from described(value)
    elif isinstance(node, list):
        for value in node:
            yield from described(value)


def test_the_glossary_says_what_is_retired() -> None:
    assert {"told", "look", "settle"} <= set(retired("names"))
    assert retired("text")
    assert retired("messages")
    assert parts("NextLook") == parts("next_look") == "_next_look_"


def test_names_are_the_field_s() -> None:
    words = retired("names")
    wrong = {
        f"{path.relative_to(SOURCES)}, line {line}: {name} ({word})"
        for path in FILES
        for line, name in names_in(path)
        for said in (parts(name),)
        for word in words
        if f"_{word}_" in said
    }
    assert not wrong


def test_messages_are_the_field_s() -> None:
    words = [*retired("text"), *retired("messages")]
    wrong = {
        f"{path.relative_to(SOURCES)}, line {line}: {text!r} ({word})"
        for path in MESSAGES
        for line, text in strings_in(path)
        for word in found_in(text, words)
    }
    assert not wrong


def test_pages_are_the_field_s() -> None:
    wrong = {
        f"{page.name}: {line.strip()[:100]} ({word})"
        for page in PAGES
        for line in prose(page).splitlines()
        for word in found_in(line, retired("text"))
    }
    assert not wrong


def test_descriptions_are_the_field_s() -> None:
    wrong = {
        f"{path.name}: {text[:100]} ({word})"
        for path in CRDS
        for text in described(yaml.load(path.read_text(), Loader=LOADER))
        for word in found_in(text, retired("text"))
    }
    assert not wrong
