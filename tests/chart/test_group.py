"""The API group stands in one place, and everything is named after it: definitions, labels, rights, rules, chart."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.conftest import Helm, Render

from tangram.api import names
from tangram.api.kinds import KINDS

pytestmark = pytest.mark.slow  # helm, and a copy of the whole

ROOT = Path(__file__).resolve().parents[2]
OTHER = "gpu.another-company.io"
EVERYTHING: dict[str, Any] = {
    "admission": {"exemptNamespaces": ["kube-system"]},
    "flowControl": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "metrics": {
        "prometheusRule": {"enabled": True},
        "podMonitor": {"enabled": True},
        "serviceMonitor": {"enabled": True},
    },
}
WITH = ("--api-versions", "monitoring.coreos.com/v1")


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and the chart under another group: one line is changed, and what is generated is generated again."""
    folder = tmp_path_factory.mktemp("renamed")
    shutil.copytree(ROOT / "operator", folder / "operator", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "charts", folder / "charts")
    constant = folder / "operator/tangram/api/names.py"
    text = constant.read_text()
    assert text.count(names.GROUP) == 1
    constant.write_text(text.replace(names.GROUP, OTHER))
    write = ["crds", "--write", "charts/tangram/files/crds", "--write", "crds", "--reference", "api-fields.md"]
    environment = os.environ | {"PYTHONPATH": str(folder / "operator")}
    subprocess.run([sys.executable, "-m", "tangram", *write], cwd=folder, env=environment, check=True)
    return folder


def test_only_the_constant_has_it_in_the_code() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "operator/tangram").rglob("*.py")
        if names.GROUP in path.read_text(encoding="utf-8")
    ]
    assert found == ["operator/tangram/api/names.py"]


def test_no_template_of_the_chart_has_it() -> None:
    templates = (ROOT / "charts/tangram/templates").rglob("*")
    assert [path.name for path in templates if path.is_file() and names.GROUP in path.read_text()] == []


def test_under_another_group_the_old_one_is_nowhere_in_the_definitions(renamed: Path) -> None:
    generated = [*(renamed / "crds").iterdir(), renamed / "api-fields.md"]
    assert len(generated) == len(KINDS) + 1
    for path in generated:
        text = path.read_text(encoding="utf-8")
        assert names.GROUP not in text, path.name
        assert OTHER in text or path.name == "api-fields.md"


def test_under_another_group_the_chart_renders_the_same_objects_with_the_other_name(
    renamed: Path, helm: Helm, render: Render
) -> None:
    told = helm("template", "blue", str(renamed / "charts/tangram"), "-n", "tangram-system", *WITH, values=EVERYTHING)
    assert told.returncode == 0, told.stderr
    assert names.GROUP not in told.stdout
    theirs = [one for one in yaml.safe_load_all(told.stdout) if one]
    ours = render(EVERYTHING, *WITH, name="blue")
    expected = yaml.safe_load(
        yaml.safe_dump(ours).replace(names.GROUP, OTHER).replace(length(names.GROUP), length(OTHER))
    )
    assert {(one["kind"], one["metadata"]["name"]) for one in theirs} == {
        (one["kind"], one["metadata"]["name"]) for one in expected
    }
    rules = {one["metadata"]["name"]: one for one in theirs if one["kind"] == "ValidatingAdmissionPolicy"}
    assert len(rules) == 8
    for one in expected:
        if one["kind"] in ("ValidatingAdmissionPolicy", "ClusterRole", "HybridPolicy"):
            assert one in theirs, one["metadata"]["name"]


def length(group: str) -> str:
    """By which a rule cuts the group off a key."""
    return f"k.substring({len(group) + 1})"


def test_what_the_processes_say_and_read_has_the_other_name(renamed: Path) -> None:
    code = """
from tangram.api import names
from tangram.api.policy import parse_policy
from tangram.cluster.paths import RESOURCES
keys = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
print(*keys, *(resource.group for resource in RESOURCES), sep="\\n")
parse_policy({"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": {"name": "x"}, "spec": {}})
"""
    environment = os.environ | {"PYTHONPATH": str(renamed / "operator")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert names.GROUP not in told.stdout
    assert f"{OTHER}/queue" in told.stdout.split()


KUBERNETES = "scheduling.k8s.io"
"""The group of Kubernetes' own PriorityClasses."""


def test_pages_examples_and_the_chart_s_card_speak_of_this_group_and_no_other() -> None:
    card = yaml.safe_load((ROOT / "charts/tangram/Chart.yaml").read_text())
    listed = {one["name"] for one in yaml.safe_load(card["annotations"]["artifacthub.io/crds"])}
    assert listed == {f"{kind.plural}.{names.GROUP}" for kind in KINDS}
    pages = [ROOT / "README.md", ROOT / "charts/tangram/values.yaml", *(ROOT / "docs").rglob("*.md")]
    pages += (ROOT / "examples").rglob("*.yaml")
    for page in pages:
        groups = set(re.findall(r"\bscheduling\.[a-z0-9.-]*\.[a-z]+\b", page.read_text(encoding="utf-8")))
        assert groups <= {names.GROUP, KUBERNETES}, page.name
