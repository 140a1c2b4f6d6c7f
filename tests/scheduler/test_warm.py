"""No kernel is compiled in the middle of a cycle: it would hold the process for seconds, and cost it the Lease."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tangram.decide

ROOM = Path(tangram.decide.__file__).parent
READY = """
import importlib, sys
from tangram.scheduler.warm import warm_kernels
warm_kernels()
for name in sys.argv[1:]:
    module, _, kernel = name.rpartition(".")
    if not getattr(importlib.import_module(module), kernel).overloads:
        print(name)
"""


def is_kernel(function: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id in ("kernel", "lean_kernel") for one in function.decorator_list)


def functions(file: Path) -> list[ast.FunctionDef]:
    return [one for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.FunctionDef)]


def kernels_called_from_python() -> set[str]:
    """Names with their modules, without those that other kernels call: they are compiled, and kept, with these."""
    files = {"tangram.decide." + ".".join(f.relative_to(ROOM).with_suffix("").parts): f for f in ROOM.rglob("*.py")}
    kernels = {(module, one.name) for module, file in files.items() for one in functions(file) if is_kernel(one)}
    called: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for module, file in files.items():
        known = {name: module for where, name in kernels if where == module}
        for line in ast.walk(ast.parse(file.read_text())):
            if isinstance(line, ast.ImportFrom):
                known |= {one.name: line.module or "" for one in line.names}
        for function in functions(file):
            calls = (one.func for one in ast.walk(function) if isinstance(one, ast.Call))
            names = {one.id for one in calls if isinstance(one, ast.Name)}
            called[is_kernel(function)] |= {(known.get(name, ""), name) for name in names} & kernels
    return {f"{module}.{name}" for module, name in called[False] - called[True]}


@pytest.mark.slow
def test_after_the_warm_up_every_kernel_that_python_calls_is_ready() -> None:
    wanted = sorted(kernels_called_from_python())
    assert len(wanted) >= 10

    asked = subprocess.run([sys.executable, "-c", READY, *wanted], capture_output=True, text=True, check=True)

    assert asked.stdout == ""
