"""The API server and the models give the same answer, whatever is written into whichever field."""

import copy
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.cluster import create
from tests.api.samples import PARSERS, sample
from tests.budget import examples

from tangram.api.crd import definition
from tangram.api.kinds import KINDS
from tangram.errors import InvalidInput

VALUES = st.sampled_from([
    -1, 0, 1, 2, 50, 99, 100, 101, 130, 200, 255, 256, 1001, 10**6, 10**12, 2.5, -0.5, True, False,
    "", "a", "A", "a b", "a/b", "a.b/c", "-a", "1", "30", "NaN", "inf", "1e3", "1Gi", "500m", "90s", "1h30m", "5 m",
    "* * * * *", "0 25 * * *", "best-effort", "worker", "sample", "x" * 64, "SIGTERM", "/data", "rps", "prometheus",
    [], ["a"], ["a", "a"], [1, 2], [{}], [{"name": "a"}], [{"name": "a"}, {"name": "a"}],
    {}, {"a": "b"}, {"a": 1}, {"": "x"},
])  # fmt: skip


def paths(schema: dict[str, Any], path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Ways to every field of a schema; items of lists are tried at the first place."""
    found = []
    for name, child in schema.get("properties", {}).items():
        here = (*path, name)
        found += [here, *paths(child, here), *paths(child.get("items", {}), (*here, 0))]
    return found


def put(target: Any, path: tuple[str | int, ...], value: Any) -> None:
    """Write a value, making the objects and lists on the way."""
    for place, following in itertools.pairwise(path):
        empty: Any = [] if following == 0 else {}
        if isinstance(target, list):
            if not target:
                target.append(empty)
            elif not isinstance(target[0], type(empty)):
                target[0] = empty
        elif not isinstance(target.get(place), type(empty)):
            target[place] = empty
        target = target[place]
    if isinstance(target, list):
        target[:1] = [value]
    else:
        target[path[-1]] = value


SPECS = {
    kind.name: paths(definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    for kind in KINDS
    if kind.name != "GPUNode"
}


@pytest.mark.parametrize("kind", SPECS)
def test_they_agree(kind: str, definitions) -> None:
    @settings(max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.sampled_from(SPECS[kind]), VALUES), min_size=1, max_size=2))
    def agree(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
        written = sample(kind)
        for path, value in changes:
            put(written["spec"], path, copy.deepcopy(value))
        answer = create(definitions, written)
        try:
            PARSERS[kind](written, unknown="forbid")
            refusal = None
        except InvalidInput as error:
            refusal = error
        assert (answer["kind"] == "Status") == (refusal is not None), (answer.get("message"), str(refusal))

    agree()
