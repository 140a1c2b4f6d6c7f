"""The generated definitions: complete, described, structural, and the same everywhere they are kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, Field
from tests.documents import LOADER

from tangram.api import crd
from tangram.api.common import Quantity
from tangram.api.kinds import KINDS, Kind
from tangram.api.reference import reference
from tangram.api.schema import ListSet
from tangram.cli.crds import crds
from tangram.cli.main import main
from tangram.errors import InvalidInput

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "crds", ROOT / "charts" / "tangram" / "files" / "crds")
KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def schema(kind: Kind) -> dict[str, Any]:
    (version,) = crd.definition(kind)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(node.get(word), dict):
            yield from walk(node[word], f"{path}[]")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_files_are_what_the_models_say(folder: Path) -> None:
    """After a change of the models: make crds."""
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    assert kept == crd.files()


def test_reference_is_what_the_models_say() -> None:
    """After a change of the models: make crds."""
    assert (ROOT / "docs" / "api-fields.md").read_text() == reference()


@KIND
def test_every_field_is_described(kind: Kind) -> None:
    silent = [
        path
        for path, node in walk(schema(kind))
        if not path.endswith("[]") and path != ".metadata" and len(node.get("description", "")) < 4
    ]
    assert silent == []


@KIND
def test_every_list_and_text_that_a_rule_can_see_is_bounded(kind: Kind) -> None:
    """The API server refuses CEL rules over what has no bounds; bounds also keep objects small."""
    unbounded = [
        path
        for path, node in walk(schema(kind))
        if (node.get("type") == "array" and "maxItems" not in node)
        or (path.startswith(".spec") and node.get("type") == "string" and not {"maxLength", "enum"} & node.keys())
        or (path.startswith(".spec") and "additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


@KIND
def test_every_rule_says_what_is_wrong_and_names_a_field_that_exists(kind: Kind) -> None:
    for path, node in walk(schema(kind)):
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"], path
            assert rule["reason"].startswith("FieldValue"), path
            target = node
            for name in rule.get("fieldPath", "").strip(".").split("."):
                target = target["properties"][name] if name else target


@KIND
def test_status_carries_what_wait_tools_read(kind: Kind) -> None:
    """Helm's and kubectl's wait, and Argo CD, read an integer observedGeneration and conditions keyed by type.

    A kind without a spec has no generation that its status could be behind.
    """
    properties = schema(kind)["properties"]
    status = properties["status"]["properties"]
    assert ("spec" not in properties) or status["observedGeneration"]["type"] == "integer"
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert set(status["conditions"]["items"]["required"]) == {"type", "status", "lastTransitionTime", "reason"}


def test_names_do_not_clash_in_the_group() -> None:
    names = [name for kind in KINDS for name in (kind.plural, kind.name.lower(), *kind.short_names)]
    assert len(names) == len(set(names))
    assert all(len(kind.selectable) <= 8 for kind in KINDS)


@KIND
def test_paths_lead_to_fields(kind: Kind) -> None:
    """Columns, selectable fields and scale paths name fields that are there."""
    known = {path for path, _ in walk(schema(kind))} | {".metadata.creationTimestamp"}
    scale = (kind.scale.spec_replicas, kind.scale.status_replicas, kind.scale.selector) if kind.scale else ()
    for path in (*(column.path for column in kind.columns), *kind.selectable, *scale):
        plain = path.partition("[")[0] if "[" in path else path
        assert plain in known, path


class Parts(BaseModel):
    """Parts."""

    exact: Literal["only"]
    above: Annotated[int, Field(gt=0)]
    below: Annotated[float, Field(lt=1)]
    amount: Quantity | None = None
    names: Annotated[tuple[str, ...], ListSet(3)] = ()
    limits: dict[str, int] = Field(default_factory=dict)
    anything: Any = None


def test_json_schema_becomes_structural() -> None:
    raw = Parts.model_json_schema()
    parts = crd.structural(raw, raw.get("$defs", {}))["properties"]
    assert parts["exact"] == {"type": "string", "enum": ["only"]}
    assert parts["above"] == {"type": "integer", "minimum": 0, "exclusiveMinimum": True}
    assert parts["below"] == {"type": "number", "maximum": 1, "exclusiveMaximum": True}
    assert parts["amount"]["x-kubernetes-int-or-string"]
    assert "default" not in parts["amount"]
    assert parts["names"] == {
        "type": "array",
        "items": {"type": "string"},
        "maxItems": 3,
        "x-kubernetes-list-type": "set",
    }
    assert parts["limits"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert parts["anything"] == {"x-kubernetes-preserve-unknown-fields": True}


class Parent(BaseModel):
    """A part with defaults of its own."""

    filled: Parts | None = None
    child: "Child" = Field(default_factory=lambda: Child())


class Child(BaseModel):
    """The part."""

    size: int = 3


def test_a_part_with_defaults_is_filled_by_the_api_server() -> None:
    raw = Parent.model_json_schema()
    parts = crd.structural(raw, raw["$defs"])["properties"]
    assert parts["child"]["default"] == {}
    assert parts["child"]["properties"]["size"] == {"type": "integer", "default": 3}
    assert "default" not in parts["filled"]


def test_a_keyword_that_would_be_lost_is_refused() -> None:
    with pytest.raises(InvalidInput, match="contentEncoding"):
        crd.structural({"type": "string", "contentEncoding": "base64"}, {})


def test_command_prints_documents_that_can_be_applied() -> None:
    printed = CliRunner().invoke(crds)
    assert printed.exit_code == 0
    assert [document["spec"]["names"]["kind"] for document in yaml.load_all(printed.output, Loader=LOADER)] == [
        kind.name for kind in KINDS
    ]


def test_command_writes_folders(tmp_path: Path) -> None:
    done = CliRunner().invoke(crds, ["--write", str(tmp_path / "a"), "--write", str(tmp_path / "b")])
    assert done.exit_code == 0
    for folder in ("a", "b"):
        assert {path.name: path.read_text() for path in (tmp_path / folder).iterdir()} == crd.files()


@pytest.mark.parametrize("option", ["--write", "--reference"])
def test_what_cannot_be_written_is_an_error_of_one_line(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where a folder ought to be."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "x"
    monkeypatch.setattr("sys.argv", ["tangram", "crds", option, str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {path}: cannot be written: Not a directory\n"
