"""Every field of a pod's spec is read, irrelevant, or a reason to hold the pod: none means "nothing" by accident."""

import inspect
import re
from collections.abc import Iterator

import kubernetes.client
import msgspec
import pytest
from tests.worlds import World, cluster, pod, with_spec

from tangram.api.objects import PodSpec
from tangram.api.verdicts import HELD, VERDICTS, Verdict, verdict_on


def fields_of(kind: str, prefix: str = "") -> Iterator[str]:
    """Paths of the leaf fields of a kind, as Kubernetes' own client knows it."""
    model = getattr(kubernetes.client, kind)
    for attribute, type_name in model.openapi_types.items():
        path = prefix + model.attribute_map[attribute]
        found = re.fullmatch(r"[Ll]ist\[(\w+)\]", type_name)
        inner = found[1] if found else type_name
        if hasattr(getattr(kubernetes.client, inner, None), "openapi_types"):
            yield from fields_of(inner, f"{path}[]." if found else f"{path}.")
        else:
            yield path


def projected(kind: type, prefix: str = "") -> Iterator[str]:
    """Paths of the leaf fields that are decoded."""
    for field in msgspec.structs.fields(kind):
        path = prefix + field.encode_name
        text = str(field.type)
        inner = list(_kinds_in(field.type))
        if not inner:
            yield path
        for one in inner:
            below = list(projected(one, f"{path}[]." if text.startswith("tuple") else f"{path}."))
            yield from below or [path]


def _kinds_in(annotation: object) -> Iterator[type]:
    if inspect.isclass(annotation) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for one in getattr(annotation, "__args__", ()):
        yield from _kinds_in(one)


def test_every_field_of_the_api_has_a_verdict() -> None:
    fields = list(fields_of("V1PodSpec"))
    assert len(fields) > 800
    assert [path for path in fields if verdict_on(path) is None] == []


def test_no_verdict_is_about_a_field_that_does_not_exist() -> None:
    fields = list(fields_of("V1PodSpec"))
    stale = [
        one.path
        for one in VERDICTS
        if not any(path == one.path or path.startswith((f"{one.path}.", f"{one.path}[")) for path in fields)
    ]
    assert stale == []


def test_what_is_read_is_what_is_decoded() -> None:
    read = {one.path for one in VERDICTS if one.verdict is Verdict.READ}
    decoded = set(projected(PodSpec)) - {"volumes[].ephemeral"}
    assert {path for path in decoded if re.split(r"[.\[]", path)[0] not in HELD} == read


@pytest.mark.parametrize("path", HELD)
def test_a_pod_with_a_field_that_is_held_is_never_bound_and_says_why(path: str) -> None:
    written = {
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
        "schedulingGroup": {"podGroupName": "g"},
    }
    field = re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", path)
    asks = getattr(msgspec.convert({path: written[path]}, PodSpec), field)
    world = World(cluster("1xcpu"), [with_spec(pod("p"), **{field: asks})])
    [hold] = world.step().hold
    assert (hold.reason, hold.message) == ("FieldNotSupported", HELD[path])
    assert not world.where


def test_no_field_has_two_verdicts() -> None:
    paths = [one.path for one in VERDICTS]
    assert len(paths) == len(set(paths))
    inside = [a for a in paths for b in paths if a != b and a.startswith((f"{b}.", f"{b}["))]
    assert inside == []
