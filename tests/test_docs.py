"""The documentation is true: its Python runs, its tables are the code's, and whatever users can touch is in it."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from tangram import settings
from tangram.api import names
from tangram.api.acts import KEYS
from tangram.api.inference import parse_inference_service
from tangram.api.policy import parse_policy
from tangram.api.training import parse_training_job
from tangram.cli.main import VERBS, tangram
from tangram.controllers.reasons import Why
from tangram.decide.hooks import HOOKS, Declares
from tangram.decide.registry import BUILT_IN, GROUP, Registry
from tangram.metrics.table import TABLE
from tangram.node.allocation import RefusalReason
from tangram.plan import Cause, Reason
from tangram.simulate.policy import check_plugins, read_policy

ROOT = Path(__file__).resolve().parents[1]
DOCS, EXAMPLE = ROOT / "docs", ROOT / "examples" / "custom-plugin"
PLUGIN_PAGE = DOCS / "writing-a-plugin.md"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(language: str) -> list[str]:
    """The code of one language on the plugin page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PLUGIN_PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every verb, with the verbs below it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(tangram))


def test_generated_tables_are_up_to_date() -> None:
    # In a process of its own: click keeps the help option of whoever called a command first.
    check = [sys.executable, str(DOCS / "generate.py"), "--check"]
    told = subprocess.run(check, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_setting_has_its_sentence() -> None:
    page = (DOCS / "settings.md").read_text()
    for name, kind in vars(settings).items():
        if is_dataclass(kind):
            section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
            for field in fields(kind):
                assert re.search(rf"^\| `{field.name}` \|.*\| \S.* \|$", section, re.MULTILINE), f"{name}.{field.name}"


def test_every_chart_value_has_its_sentence() -> None:
    def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, value in tree.items():
            here = f"{path}{key}"
            if f"| `{here}` |" in page:
                yield here
            elif isinstance(value, dict) and value:
                yield from leaves(value, f"{here}.")
            else:
                missing.append(here)

    page, missing = (ROOT / "charts/tangram/README.md").read_text(), list[str]()
    told = list(leaves(yaml.safe_load((ROOT / "charts/tangram/values.yaml").read_text())))
    assert not missing, "no comment that begins with `# --` above these values"
    for path in told:
        assert re.search(rf"^\| `{re.escape(path)}` \|.*\| \S.* \|$", page, re.MULTILINE), path


def test_every_metric_is_described() -> None:
    page = (DOCS / "metrics.md").read_text()
    for row in TABLE:
        metric, owners = row.metric, ", ".join(row.owners)
        assert f"| `{metric.name}` | {owners} | {metric.type} | {', '.join(metric.labels)} | {metric.help} |" in page
        assert metric.help.endswith(".")


def test_every_metric_that_a_document_names_exists() -> None:
    known = {row.metric.name for row in TABLE}
    for document in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        for name in re.findall(r"\btangram_[a-z_]+[a-z]\b", document.read_text()):
            assert name in known, f"{document.name}: {name}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_verb_and_option_says_what_it_does(path: str) -> None:
    section = (DOCS / "cli.md").read_text().partition(f"## `tangram {path}`\n")[2].partition("\n## ")[0]
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), f"{path} {parameter.name}"
        for name in parameter.opts if isinstance(parameter, click.Option) else ():
            assert re.search(rf"^  (-\w, )?{name}\b", section, re.MULTILINE) or f"{name}," in section, name


def test_the_table_of_verbs_says_what_the_verbs_say() -> None:
    """``tangram --help`` reads no verb's module, so its sentences stand in a table of their own."""
    assert set(VERBS) == {path for path in COMMANDS if " " not in path}
    assert all(verb.help.endswith(".") for verb in VERBS.values())


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_described_with_its_exact_arguments_and_shown(hook: type) -> None:
    page = PLUGIN_PAGE.read_text()
    (method,) = [name for name, _ in inspect.getmembers(hook, inspect.isfunction) if not name.startswith("_")]
    arguments = list(inspect.signature(getattr(hook, method)).parameters)
    assert f"| `{method}({', '.join(arguments[1:])})` | `{hook.__name__}` |" in page
    shown = [
        [argument.arg for argument in node.args.args]
        for block in blocks("python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.FunctionDef) and node.name == method
    ]
    assert shown, f"no example has {method}"
    assert all(one == arguments for one in shown)


def test_every_hook_of_the_module_is_in_its_list() -> None:
    module = inspect.getmodule(HOOKS[0])
    assert module is not None
    protocols = {
        one
        for one in vars(module).values()
        if getattr(one, "_is_protocol", False) and one.__module__ == module.__name__
    }
    assert protocols == {*HOOKS, Declares}


def test_the_python_of_the_plugin_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are one session from top to bottom; their asserts are the test."""
    monkeypatch.syspath_prepend(EXAMPLE)
    session: dict[str, Any] = {"__name__": "writing_a_plugin"}
    found = blocks("python")
    assert len(found) >= 4
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{PLUGIN_PAGE.name} (block {number})", "exec"), session)


def test_the_example_distribution_offers_the_plugins_that_its_policy_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    found = [EntryPoint(name, value, GROUP) for name, value in project["entry-points"][GROUP].items()]
    registry = Registry()
    registry.add_entry_points(found)
    assert set(registry.names()) == {*BUILT_IN, "cheap-region", "gpu-reserve", "team-cells"}
    check_plugins(read_policy(EXAMPLE / "policy.yaml"), registry)


def test_the_yaml_and_toml_of_the_plugin_page_are_the_example_s() -> None:
    (policy,), (project,) = blocks("yaml"), blocks("toml")
    chosen = parse_policy(yaml.safe_load(policy), unknown="forbid").spec.placement.plugins
    example = read_policy(EXAMPLE / "policy.yaml").spec.placement.plugins
    assert chosen == tuple(plugin for plugin in example if plugin.name != "gpu-reserve")
    whole = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert tomllib.loads(project)["project"].items() <= whole["project"].items()


def test_every_reason_label_and_annotation_is_in_the_reference() -> None:
    text = (DOCS / "reasons.md").read_text(encoding="utf-8")
    written = set(re.findall(r"`([A-Za-z][A-Za-z0-9.-]*)`", text))
    reasons = {str(one) for kind in (Reason, Why, Cause) for one in kind} - {str(Reason.SCHEDULED)}
    keys = {getattr(names, key).partition("/")[2] for key in KEYS}
    assert (reasons | keys) - written == set()


PARSERS: dict[str, Any] = {
    "HybridPolicy": parse_policy,
    "TrainingJob": parse_training_job,
    "InferenceService": parse_inference_service,
}
ANCHORS = re.compile(r"^#+ +(.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]*?)(?:#([^)\s]+))?\)")
MARKDOWN = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by: small letters, without punctuation, with hyphens for blanks."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in ANCHORS.findall(prose))
    return {one.replace(" ", "-") for one in words}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in LINK.findall(prose):
        if anchor and not target.startswith("http"):
            there = (page.parent / target) if target else page
            assert anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_troubleshooting_speaks_of_reasons_that_exist() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    written = {code for row in rows for code in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", row)}
    known = {str(one) for one in Reason} | {str(one) for one in Why} | {str(one) for one in RefusalReason}
    assert len(written) > 30
    assert written - known == {"CrashLoopBackOff", "TangramCyclesSlow", "UnexpectedAdmissionError"} - known


def test_every_manifest_of_a_page_is_one() -> None:
    """Blocks of YAML can be read, and whole objects of our kinds have no fields that do not exist."""
    found = 0
    for page in MARKDOWN:
        for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for obj in yaml.safe_load_all(block):
                if isinstance(obj, dict) and obj.get("kind") in PARSERS:
                    found += 1
                    obj["metadata"] |= {"uid": "u"}
                    PARSERS[obj["kind"]](obj, unknown="forbid")
    assert found > 10


def test_the_tables_for_those_who_migrate_name_fields_that_exist() -> None:
    """Paths in the columns of tangram are some of the kinds' fields, or values of the chart."""
    fields_ = (DOCS / "api-fields.md").read_text(encoding="utf-8").replace("[]", "")
    chart = (ROOT / "charts/tangram/README.md").read_text(encoding="utf-8")
    known = re.findall(r"^\| `([\w.]+)` \|", fields_ + chart, re.MULTILINE)
    found = 0
    for table in re.findall(r"(?:^\|.*\|\n)+", (DOCS / "migrating.md").read_text(encoding="utf-8"), re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in row.strip("|\n").split(" | ")] for row in table.splitlines())
        ours = next(number for number, name in enumerate(head) if "tangram" in name)
        for row in rows:
            for path in re.findall(r"`(?:spec\.)?([a-z]\w+(?:\[\])?(?:\.[a-z]\w+)+)(?=[`:\[])", row[ours]):
                found += 1
                plain = path.replace("[]", "")
                assert any(one == plain or one.endswith(f".{plain}") for one in known), path
    assert found > 20
