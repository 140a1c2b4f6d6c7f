"""Rules of the repository that no linter knows."""

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from tests.sources import FILES, ROOT, SOURCES, nodes_of, parsed

from tangram import settings

MOST_LINES = 450
"""The habit is 400; this is where a file must be split."""

FORBIDDEN = ("open", "print", "input", "hash", "id", "__import__")
FORBIDDEN_OF_NUMPY = r"(np|numpy)\.(random|load|save|fromfile|datetime64)"


def named(path: Path) -> str:
    return str(path.relative_to(SOURCES))


def test_operator_is_a_source_root_and_never_a_package() -> None:
    """An ``operator/__init__.py`` would shadow the module of that name in the standard library."""
    assert not (SOURCES / "__init__.py").exists()


def test_a_rooms_init_holds_a_docstring_and_nothing_else() -> None:
    """Python runs it at every import of the room, and the import contracts do not see through it."""
    for path in (path for path in FILES if path.name == "__init__.py"):
        body = parsed(path).body
        if path.parent.name == "tangram":
            body = [part for part in body if not (isinstance(part, ast.Assign) and part.targets[0].id == "__version__")]
        assert (len(body), bool(ast.get_docstring(parsed(path)))) == (1, True), named(path)


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {named(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {path: count for path, count in lines.items() if count > MOST_LINES}


def test_decisions_know_no_chance_no_files_and_no_clock() -> None:
    """What the import contracts cannot see: ``np.random``, ``open``, printing, and the environment."""
    calls = [
        (ast.unparse(call.func), f"{named(path)}, line {call.lineno}")
        for path in (SOURCES / "tangram" / "decide").rglob("*.py")
        for call in nodes_of(path)
        if isinstance(call, ast.Call)
    ]
    assert calls
    assert not [(name, at) for name, at in calls if name in FORBIDDEN or re.match(FORBIDDEN_OF_NUMPY, name)]


def described_fields(owner: type) -> set[str]:
    """Fields of a class that a docstring follows."""
    body = ast.parse(inspect.getsource(owner)).body[0].body  # type: ignore[attr-defined]
    found = set()
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found.add(field.target.id)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(
    "owner", [one for _, one in inspect.getmembers(settings, dataclasses.is_dataclass)], ids=lambda one: one.__name__
)
def test_every_setting_says_what_it_means_and_cannot_be_changed(owner: type) -> None:
    assert {field.name for field in dataclasses.fields(owner)} == described_fields(owner)
    assert owner.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_the_import_contracts_hold() -> None:
    """The arrows between the rooms, see pyproject.toml."""
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is not installed: run `make setup`"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_the_package_costs_nothing() -> None:
    """The node agent must stay small: no numpy, no client, no controller framework comes with the name."""
    heavy = (
        "{'numpy', 'numba', 'kopf', 'kubernetes', 'pydantic', 'aiohttp'} & {name.split('.')[0] for name in sys.modules}"
    )
    code = f"import sys, tangram; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCES)
    assert done.stdout.strip() == "[]"


def is_work(part: ast.stmt) -> bool:
    """Whether a statement at a module's top does something: a bare call, a loop, a block."""
    bare = isinstance(part, ast.Expr) and not isinstance(part.value, ast.Constant)
    return bare or isinstance(part, ast.For | ast.While | ast.With | ast.Try)


def test_no_work_at_import() -> None:
    """Modules hold definitions and values: no bare calls, loops or prints at their top."""
    modules = (path for path in FILES if path.name != "__main__.py")
    assert not [f"{named(path)}, line {part.lineno}" for path in modules for part in parsed(path).body if is_work(part)]


def test_every_hook_is_one_sentence() -> None:
    hooks = importlib.import_module("tangram.decide.hooks")
    for hook in hooks.HOOKS:
        assert re.fullmatch(r"[A-Z][^.]+\.", inspect.getdoc(hook) or ""), hook


MOST_PARAMETERS = 5
"""Besides ``self``; what belongs together is one value. A command has as many as it has options."""

PLAIN_VALUES: dict[str, set[str]] = {
    "tangram/decide/plugins/bid_price.py": {
        "_score",
    },
    "tangram/decide/preempt/legal.py": {
        "lost_below",
        "shared",
    },
    "tangram/decide/preempt/victims.py": {
        "least_on",
        "move",
        "places_of",
        "search_sets",
        "spare",
        "uneven",
    },
}
"""Functions, by file, that take more, see docs/decisions/012; the list only becomes shorter."""


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many values a function is called with, the object of a method not counted."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    more = [one for one in (function.args.vararg, function.args.kwarg) if one is not None]
    return len(named) + len(more) - (bool(named) and named[0].arg in ("self", "cls"))


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(re.search(r"\b(command|group)\(", ast.unparse(one)) for one in function.decorator_list)


def test_what_belongs_together_is_passed_as_one_value() -> None:
    found: dict[str, set[str]] = {}
    for path in FILES:
        for part in nodes_of(path):
            if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) or is_command(part):
                continue
            if parameters(part) > MOST_PARAMETERS:
                found.setdefault(named(path), set()).add(part.name)
    assert found == PLAIN_VALUES


def test_what_is_imported_is_declared() -> None:
    """What comes only with another distribution goes with its next version."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [*declared["project"]["dependencies"], *declared["build-system"]["requires"]]
    parts += declared["project"]["optional-dependencies"]["quality"]
    told = {re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0].lower().replace("_", "-") for one in parts}
    ours = set(sys.stdlib_module_names) | {"tangram"}
    imported = set[str]()
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {one.name.partition(".")[0] for one in node.names}
    # Those of the build and of `make quality` need not be installed here; pydantic goes with one version of its core.
    homes = importlib.metadata.packages_distributions()
    homes |= {"grpc_tools": ["grpcio-tools"], "highspy": ["highspy"], "pydantic_core": ["pydantic"]}
    assert {one for one in imported - ours if not told & {h.lower().replace("_", "-") for h in homes[one]}} == set()
