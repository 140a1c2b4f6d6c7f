"""The generated definitions are spelled as docs/conventions.md says, and its exceptions are all that there are."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tangram.api import names
from tangram.api.acts import KEYS
from tangram.api.crd import definition
from tangram.api.kinds import KINDS
from tangram.api.phases import ConditionType, JobPhase, ServicePhase
from tangram.controllers.reasons import Why
from tangram.plan import Reason
from tangram.units import duration_seconds

PAGE = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")
PASCAL = re.compile(r"(?=.*[a-z])([A-Z][a-z0-9]*)+")
CAMEL = re.compile(r"[a-z][a-z0-9]*([A-Z]+[a-z0-9]*)*")
DURATION = "^([0-9]{1,6}d)?([0-9]{1,8}h)?([0-9]{1,9}m)?([0-9]{1,10}s)?$"
Schema = Mapping[str, Any]


def exceptions(name: str) -> dict[str, tuple[str, ...]]:
    """A table of the page: the field, and what stands beside it."""
    (table,) = re.findall(rf"<!-- exceptions: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {field.strip("`"): tuple(rest) for field, *rest in rows}


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from fields(part, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}.*")


def every_field() -> Iterator[tuple[str, Schema]]:
    for kind in KINDS:
        properties = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            if part in properties:
                yield from fields(properties[part], f"{kind.name} {part}")


FIELDS = dict(every_field())


def last(path: str) -> str:
    """The name of a field."""
    return re.split(r"[ .]", path.removesuffix("[]").removesuffix(".*"))[-1]


def test_enumerations_are_in_pascal_case() -> None:
    odd = {path: one["enum"] for path, one in FIELDS.items() if not all(map(PASCAL.fullmatch, one.get("enum", ())))}
    told = exceptions("enums")
    assert odd.keys() == told.keys()
    for path, words in odd.items():
        named = re.findall(r"`([^`]+)`", told[path][0])
        assert named == (words[: len(named)] if "…" in told[path][0] else words), path


def test_durations_have_one_form_and_no_spec_has_a_number_of_seconds() -> None:
    patterns = {one["pattern"] for path, one in FIELDS.items() if re.search("d.*h.*m.*s", one.get("pattern", ""))}
    assert patterns & {DURATION} == {DURATION}
    assert {one for one in patterns if one.startswith("^([0-9]{1,6}d)")} == {DURATION}
    spelled = re.compile("(Deadline|Duration|Window|After|Wait|Runtime|HalfLife|grace|period|cooldown|ttl.*)$")
    for path, one in FIELDS.items():
        assert not re.search("(?<!GPU)(Seconds|Minutes|Hours)$", path) or " spec" not in path, path
        if spelled.search(last(path)) and one.get("type") == "string" and " spec" in path:
            assert one["pattern"] == DURATION, path


@pytest.mark.parametrize("text", ["90s", "15m", "2h30m", "3d", "0s"])
def test_the_durations_of_the_page_can_be_read(text: str) -> None:
    assert f"`{text}`" in PAGE
    assert re.fullmatch(DURATION, text)
    duration_seconds(text)


def test_times_are_called_so_and_nothing_else_is() -> None:
    is_time = {path for path, one in FIELDS.items() if one.get("format") == "date-time"}
    assert is_time == {path for path in FIELDS if last(path).endswith("Time")}


def test_numbers_are_integers_that_name_their_unit() -> None:
    assert {path for path, one in FIELDS.items() if one.get("type") == "number"} == exceptions("numbers").keys()
    has_unit = re.compile("(?i)memory|latency|utilization|temperature|power|percent|lost")
    percent = {path for path, one in FIELDS.items() if ".loadAware." in path and one.get("maximum") == 100}
    units = re.compile("(MiB|Ms|Percent|Celsius|Watts|Seconds|Minutes)$")
    for path, one in FIELDS.items():
        if one.get("type") == "integer" and has_unit.search(last(path)) and ".weights." not in path:
            assert units.search(last(path)) or path in percent, path


def test_amounts_of_resources_are_quantities() -> None:
    for path, one in FIELDS.items():
        if re.search(r"\.(guarantee|limit|used|fairShare|held)\.(cpu|memory|gpu|gpuModels\.\*)$", path):
            assert one.get("x-kubernetes-int-or-string"), path


def test_booleans_are_false_unless_something_is_written() -> None:
    defaults = {path: one.get("default") for path, one in FIELDS.items() if one.get("type") == "boolean"}
    told = exceptions("booleans")
    assert {path for path, default in defaults.items() if default is not False} == told.keys()
    assert {path: defaults[path] for path in told} == {path: row[0] == "`true`" for path, row in told.items()}


def test_every_list_says_what_it_is() -> None:
    kinds = {path: one["x-kubernetes-list-type"] for path, one in FIELDS.items() if one.get("type") == "array"}
    assert set(kinds.values()) == {"map", "set", "atomic"}
    assert {path for path, kind in kinds.items() if kind == "atomic"} == exceptions("atomic").keys()
    for path, kind in kinds.items():
        if kind == "map":
            (key,) = FIELDS[path]["x-kubernetes-list-map-keys"]
            assert key in FIELDS[f"{path}[]"]["required"], path
        if kind == "set":
            assert FIELDS[f"{path}[]"]["type"] in ("string", "integer"), path


def test_maps_are_about_what_others_name() -> None:
    maps = {path for path, one in FIELDS.items() if isinstance(one.get("additionalProperties"), dict)}
    assert maps == exceptions("maps").keys()
    assert not [path for path in maps if "properties" in FIELDS[f"{path}.*"]]


def test_fields_are_in_camel_case() -> None:
    known = {names.FRACTION_RESOURCE.rpartition(".")[2]}
    odd = {path for path in FIELDS if not CAMEL.fullmatch(last(path)) and "resources" not in path} - known
    assert odd == set()


def test_conditions_reasons_and_phases_are_in_pascal_case() -> None:
    for word in (*ConditionType, *Reason, *Why, *JobPhase, *ServicePhase, *(kind.name for kind in KINDS)):
        assert PASCAL.fullmatch(str(word)), word
    for word in re.findall(r"`(\w+)`", PAGE.partition("but for")[2].partition("|")[0]):
        assert word in [str(one) for one in ConditionType]


def test_labels_and_annotations_are_words_with_hyphens() -> None:
    for key in KEYS:
        assert re.fullmatch(r"[a-z]+([-.][a-z]+)*", getattr(names, key).partition("/")[2]), key


def test_every_kind_with_a_spec_has_what_tools_wait_for() -> None:
    for kind in KINDS:
        assert (f"{kind.name} status.observedGeneration" in FIELDS) is (f"{kind.name} spec" in FIELDS)
        assert FIELDS[f"{kind.name} status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
