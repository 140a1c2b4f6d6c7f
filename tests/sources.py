"""The Python of the product, parsed once for all tests that look into it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "operator"
FILES = sorted(path for path in SOURCES.rglob("*.py") if "modules" not in path.parts and "_pb2" not in path.stem)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; nobody changes it."""
    return ast.parse(path.read_text())


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All that is in the tree of a file, in the order of ``ast.walk``."""
    return tuple(ast.walk(parsed(path)))
