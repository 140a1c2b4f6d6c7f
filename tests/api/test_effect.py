"""Every field of the kinds does something, or stands in the list of those that do not yet."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.api.samples import sample

from tangram.api import names
from tangram.api.acts import ACTS, CONDITIONS, KEYS, PARTS
from tangram.api.common import Amounts, Condition, Counts, GpuRequest, camel_case
from tangram.api.crd import definition
from tangram.api.effect import WITHOUT_EFFECT, is_in, leaves, set_in_vain, without_effect
from tangram.api.inference import parse_inference_service
from tangram.api.kinds import KINDS, Kind
from tangram.api.phases import ConditionType
from tangram.api.policy import parse_policy
from tangram.api.queue import Weights
from tangram.api.selector import NamespaceRequirement
from tangram.api.training import parse_training_job

SHARED: dict[str, type[BaseModel]] = {
    one.__name__: one for one in (Amounts, Weights, GpuRequest, Condition, Counts, NamespaceRequirement)
}
HOLDERS = {
    "guarantee", "limit", "used", "fairShare", "weights", "gpus", "conditions", "roles", "revisions",
    "matchExpressions",
}  # fmt: skip
"""Fields whose value is a model of ``PARTS``."""


def schemas(kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    properties = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return ((part, properties[part]) for part in ("spec", "status") if part in properties)


@cache
def parsed(module: str) -> ast.Module:
    path = import_module(module).__file__
    assert path is not None
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def paths_of(kind: Kind) -> list[str]:
    return [leaf for part, schema in schemas(kind) for leaf in leaves(schema, part)]


@cache
def mentioned(code: str) -> set[str]:
    """Attributes, keywords and texts that a function, or a module, mentions."""
    module, _, function = code.partition(":")
    found: ast.AST = parsed(module)
    for part in function.split(".") if function else ():
        inside = [one for one in ast.walk(found) if getattr(one, "name", None) == part]
        assert inside, f"{module} has no {function}"
        found = inside[0]
    names_ = {one.attr for one in ast.walk(found) if isinstance(one, ast.Attribute)}
    names_ |= {one.arg for one in ast.walk(found) if isinstance(one, ast.keyword) and one.arg}
    names_ |= {one.value for one in ast.walk(found) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return names_


def mentions(code: str, field: str) -> bool:
    """Whether code mentions a field, as it is written in objects or in Python."""
    return field in mentioned(code) or any(camel_case(one) == field for one in mentioned(code))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_acts_or_is_listed_once(kind: Kind) -> None:
    known = [*ACTS[kind.name], *WITHOUT_EFFECT[kind.name]]
    found = {path: [one for one in known if is_in(path, one)] for path in paths_of(kind)}
    assert {path: ways for path, ways in found.items() if len(ways) != 1} == {}
    assert set(known) == {ways[0] for ways in found.values()}, "a field is listed that the kind does not have"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_code_that_is_named_mentions_the_field(kind: Kind) -> None:
    wrong, leaves_of_kind = {}, set(paths_of(kind))
    for path, code in ACTS[kind.name].items():
        field = path.removesuffix("[]").rpartition(".")[2]
        whole = path.endswith("[]") or path not in leaves_of_kind
        assert not whole or field in HOLDERS, f"{path} stands for several fields"
        if not path.endswith("[]") and not mentions(code, "source" if field == "from" else field):
            wrong[path] = code
    assert wrong == {}


@pytest.mark.parametrize("name", PARTS)
def test_the_code_that_is_named_mentions_all_fields_of_a_part(name: str) -> None:
    fields = SHARED[name].model_fields
    missing = {one for one in fields if not any(mentions(code, camel_case(one)) for code in PARTS[name])}
    assert missing == set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_column_shows_what_nobody_writes(kind: Kind) -> None:
    acting = [*ACTS[kind.name], "metadata.creationTimestamp"]
    for column in kind.columns:
        path = re.sub(r"\[[^]]*\]", "[]", column.path.removeprefix("."))
        assert any(is_in(path, one) for one in acting), f"{column.name} shows {path}"
        kind_of_condition = re.search(r'type=="(\w+)"', column.path)
        assert kind_of_condition is None or kind_of_condition.group(1) in CONDITIONS


def test_every_condition_is_set_by_the_code_that_is_named() -> None:
    assert set(CONDITIONS) == {one.value for one in ConditionType}
    for kind, code in CONDITIONS.items():
        assert {kind, ConditionType(kind).name, "value"} & mentioned(code), f"{code} does not mention {kind}"


def test_every_label_and_annotation_is_read_by_the_code_that_is_named() -> None:
    others = {"SCHEDULER_NAME", "FRACTION_RESOURCE", "GPU_RESOURCE", "MOST_GPUS", "REPLICAS", "SHARING_STRATEGY"}
    written = {name for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    keys = {name for name in written - others if getattr(names, name).startswith(f"{names.GROUP}/")}
    assert keys - {"API_VERSION"} == set(KEYS)
    for name, code in KEYS.items():
        assert name in mentioned(code), f"{code} does not mention names.{name}"


def test_a_field_without_effect_says_so_where_it_is_described() -> None:
    for kind in KINDS:
        for part, schema in schemas(kind):
            for path in leaves(schema, part):
                field = schema
                for step in path.split(".")[1:]:
                    field = (field.get("items") or field)["properties"][step.removesuffix("[]")]
                assert field["description"].startswith("No effect yet: ") == bool(without_effect(kind.name, path))


def test_defaults_are_not_what_somebody_has_set() -> None:
    policy = sample("HybridPolicy") | {"spec": {"loadAware": {"enabled": False}, "rescheduling": {}}}
    assert set_in_vain("HybridPolicy", parse_policy(policy).spec) == {}
    job = sample("TrainingJob")
    assert set_in_vain("TrainingJob", parse_training_job(job).spec) == {}


def test_what_is_set_and_does_nothing_is_named_once_and_with_the_reason() -> None:
    pools = [{"name": one, "tier": "hot", "nodeSelector": {"pool": one}} for one in ("a", "b")]
    spec = {"pools": pools, "rescheduling": {"evictFromUnhealthyAfter": "2m", "budgets": {"maxMoves": 3}}}
    found = set_in_vain("HybridPolicy", parse_policy(sample("HybridPolicy") | {"spec": spec}).spec)
    assert list(found) == [
        "spec.pools[].name",
        "spec.pools[].tier",
        "spec.pools[].nodeSelector",
        "spec.rescheduling.budgets.maxMoves",
    ]
    service = sample("InferenceService")
    service["spec"] |= {"autoscale": {"metric": "rps", "target": 5, "min": 0, "max": 4}, "warmStandbys": 1}
    found = set_in_vain("InferenceService", parse_inference_service(service).spec)
    assert list(found) == ["spec.autoscale.metric", "spec.autoscale.target", "spec.warmStandbys"]
