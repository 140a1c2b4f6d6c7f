"""Write the tables of the documentation from the code, the chart's README included: ``make docs``.

A test fails when they differ. A page holds its generated parts between ``<!-- generated: NAME -->`` and
``<!-- end -->``; the rest is written by hand.
"""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "charts/tangram/README.md",
    *(f"docs/{name}.md" for name in ("cli", "gpu-sharing", "metrics", "pod-fields", "settings", "writing-a-plugin")),
    *(f"docs/{name}.md" for name in ("compatibility", "feature-status", "quickstart")),
    *(f"docs/tutorial-{name}.md" for name in ("admin", "serving", "training")),
)
_REGION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH = 100

# Which process has the options of which settings, and what these begin with.
_OPTIONS = {
    "SchedulerSettings": ("scheduler", ""),
    "LeaseSettings": ("scheduler", "lease-"),
    "NodeSettings": ("node", ""),
}
_OTHERWISE = {("SchedulerSettings", "debug"): "--debug-invariants"}


def _option(settings: str, field: str) -> str:
    """The option by which a setting is set; empty: there is none."""
    from tangram.cli.main import tangram

    verb, prefix = _OPTIONS.get(settings, ("", ""))
    command = tangram.get_command(click.Context(tangram), verb) if verb else None
    known = {name for parameter in command.params for name in parameter.opts} if command is not None else set()
    name = _OTHERWISE.get((settings, field), f"--{prefix}{field.replace('_', '-')}")
    return f"`{name}`" if name in known else ""


def settings() -> str:
    """A table for each dataclass of settings.py, from its source: values and the sentences below the fields."""
    parts = []
    for node in ast.parse((ROOT / "operator/tangram/settings.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            rows = [
                (f"`{name}`", f"`{value}`", _option(node.name, name), meaning) for name, value, meaning in _fields(node)
            ]
            parts.append(f"### {node.name}\n\n{ast.get_docstring(node)}\n")
            parts.append(_table(("setting", "default", "option", "meaning"), rows))
    return "\n".join(parts)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and field.value is not None:
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            meaning = str(after.value.value) if told else ""  # type: ignore[union-attr]
            yield ast.unparse(field.target), ast.unparse(field.value), " ".join(meaning.split())


def values() -> str:
    """The chart's values: path, default, and the ``# --`` comment above each."""
    text = (ROOT / "charts/tangram/values.yaml").read_text()
    defaults, path, comment = yaml.safe_load(text), list[tuple[int, str]](), list[str]()
    rows = []
    for line in text.splitlines():
        found = re.match(r"( *)(# -- |# |)(.*)", line)
        assert found is not None
        indent, mark, rest = len(found[1]), found[2], found[3]
        if mark == "# -- ":
            comment = [rest]
        elif mark and comment:
            comment.append(rest)
        elif not mark:
            name = re.match(r"([A-Za-z]+):", rest)
            if name is None:
                continue
            path = [(depth, key) for depth, key in path if depth < indent] + [(indent, name[1])]
            if comment:
                keys = [key for _, key in path]
                rows.append((f"`{'.'.join(keys)}`", _shown(_at(defaults, keys)), " ".join(comment)))
            comment = []
    return _table(("value", "default", "meaning"), rows)


def _at(tree: Any, keys: list[str]) -> object:
    for key in keys:
        tree = tree[key]
    return tree


def _shown(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    return "" if value in ("", None) else f"`{text}`"


def metrics() -> str:
    """The table from which all processes export."""
    from tangram.metrics.table import TABLE

    rows = [
        (f"`{row.metric.name}`", ", ".join(row.owners), row.metric.type, ", ".join(row.metric.labels), row.metric.help)
        for row in TABLE
    ]
    return _table(("metric", "process", "type", "labels", "meaning"), rows)


def isolation() -> str:
    """What each way to share a GPU promises."""
    from tangram.node.isolation import CONTRACTS

    rows = [
        (
            f"`{mode.value}`",
            *(("yes" if part else "no") for part in (c.fractions, c.compute, c.memory, c.faults)),
            c.meaning,
        )
        for mode, c in CONTRACTS.items()
    ]
    return _table(("mode", "fractions", "compute enforced", "memory enforced", "fault isolation", "meaning"), rows)


def isolation_variables() -> str:
    """What containers find in their environment."""
    from tangram.node.isolation import VARIABLES

    rows = [(f"`{one.name}`", ", ".join(mode.value for mode in one.modes), one.meaning) for one in VARIABLES]
    return _table(("variable", "modes", "meaning"), rows)


def cli() -> str:
    """``--help`` of every verb, and of the verbs below them."""
    from tangram.cli.main import tangram

    return "\n".join(_help(tangram, click.Context(tangram, info_name="tangram", **_context())))


def _context() -> dict[str, Any]:
    return {"terminal_width": _WIDTH, "max_content_width": _WIDTH, "help_option_names": ["-h", "--help"]}


def _help(command: click.Command, context: click.Context) -> Iterator[str]:
    if context.parent is not None:
        yield f"## `{context.command_path}`\n"
    yield f"```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _help(below, click.Context(below, parent=context, info_name=name, **_context()))


def hooks() -> str:
    """Every extension point with its exact arguments."""
    from tangram.decide.hooks import HOOKS

    rows = []
    for hook in HOOKS:
        for name, method in inspect.getmembers(hook, inspect.isfunction):
            if not name.startswith("_"):
                arguments = [word for word in inspect.signature(method).parameters if word != "self"]
                doc = " ".join((inspect.getdoc(hook) or "").split())
                answer = " ".join((inspect.getdoc(method) or "").split())
                rows.append((f"`{name}({', '.join(arguments)})`", f"`{hook.__name__}`", doc, answer))
    return _table(("method", "protocol", "is for", "answers"), rows)


def plugin_attributes() -> str:
    """What a plugin says of itself, from the source of ``Declares``."""
    from tangram.decide.hooks import Declares

    (node,) = ast.parse(inspect.getsource(Declares)).body
    assert isinstance(node, ast.ClassDef)
    rows = [
        (f"`{ast.unparse(field.target)}`", f"`{ast.unparse(field.annotation)}`", str(after.value.value))
        for field, after in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]
    return _table(("attribute", "type", "meaning"), rows)


def pod_fields() -> str:
    """What the scheduler makes of each field of a pod, the fields with one reason in one row."""
    from tangram.api.verdicts import VERDICTS

    rows: dict[tuple[str, str], list[str]] = {}
    for one in VERDICTS:
        rows.setdefault((one.verdict.value, one.why), []).append(f"`{one.path}`")
    table = [(", ".join(_without_init(paths)), verdict, why) for (verdict, why), paths in rows.items()]
    return _table(("field of `spec`", "verdict", "what for, or why"), table)


def _without_init(paths: list[str]) -> list[str]:
    """The paths, those of init containers left out where containers have the same."""
    return [path for path in paths if not path.startswith("`initContainers[]")]


def without_effect() -> str:
    """The fields that nothing acts on yet, those of one reason in one row."""
    from tangram.api.crd import without_effect as lines

    rows: dict[tuple[str, str], list[str]] = {}
    for line in lines():
        (kind, path), why = line.partition(": ")[0].split(), line.partition(": ")[2]
        rows.setdefault((kind, why), []).append(f"`{path}`")
    return _table(("kind", "fields", "why"), [(kind, ", ".join(paths), why) for (kind, why), paths in rows.items()])


# What each program of the sandbox is tried by.
_TRIED_BY = {
    "kube-apiserver": ("Kubernetes: API server, controller manager, kubectl", "tests/cluster"),
    "kubelet": ("kubelet", "tests/node/test_kubelet.py"),
    "kube-scheduler": ("kube-scheduler, which is asked the same as ours", "tests/cluster/test_oracle.py"),
    "etcd": ("etcd", "tests/cluster"),
    "kwok": ("kwok, which plays nodes", "tests/cluster"),
    "helm": ("Helm", "tests/chart"),
}


def tried() -> str:
    """The versions that the tests run with, from what the sandbox is built of and from the package's requirements."""
    from tangram.sandbox.packages import PACKAGES
    from tangram.sandbox.recipes import MODULES

    versions = {program: module.version for module in MODULES for program in module.programs}
    rows = [(name, versions[program], _tests(tests)) for program, (name, tests) in _TRIED_BY.items()]
    rows += [(name, "Debian's package", _tests("tests/node")) for name in ("containerd", "runc") if name in PACKAGES]
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows.append(("Python", needs["requires-python"].replace(">=", "from "), _tests("tests")))
    return _table(("part", "version", "by"), rows)


def _tests(path: str) -> str:
    assert (ROOT / path).exists(), path
    return f"[{path}](../{path})"


def vendors() -> str:
    """The vendors' resources and labels."""
    from tangram.api.names import VENDORS

    rows = [
        (
            vendor.name,
            f"`{vendor.resource}`",
            f"`{vendor.model_label}`" * bool(vendor.model_label),
            f"`{vendor.memory_label}`" * bool(vendor.memory_label),
        )
        for vendor in VENDORS
    ]
    return _table(("vendor", "resource", "label of the model", "label of the memory"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "cli": cli,
    "hooks": hooks,
    "isolation": isolation,
    "isolation-variables": isolation_variables,
    "metrics": metrics,
    "plugin-attributes": plugin_attributes,
    "pod-fields": pod_fields,
    "settings": settings,
    "tried": tried,
    "values": values,
    "vendors": vendors,
    "without-effect": without_effect,
}


def page(name: str) -> str:
    """A page as it should be."""
    text = (ROOT / name).read_text()
    text = _REGION.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}{found[3]}", text)
    told = r"(<!-- the same as (\S+) -->\n```[a-z]+\n).*?(```\n)"
    return re.sub(told, lambda found: f"{found[1]}{(ROOT / found[2]).read_text()}{found[3]}", text, flags=re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Write all pages, or with ``--check`` name those that are behind; the exit code."""
    if "--check" not in arguments:
        for name in PAGES:
            (ROOT / name).write_text(page(name))
        return 0
    behind = [name for name in PAGES if (ROOT / name).read_text() != page(name)]
    for name in behind:
        print(f"{name} is behind the code: run `make docs`")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
