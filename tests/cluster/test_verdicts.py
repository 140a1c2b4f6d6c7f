"""Every field of a pod that the real API server knows has a verdict."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tangram.api.verdicts import verdict_on


def fields_of(kinds: Mapping[str, Any], name: str, prefix: str = "") -> Iterator[str]:
    """Paths of the leaf fields of a kind in an OpenAPI document."""
    for field, about in kinds[name].get("properties", {}).items():
        path, inside = prefix + field, about.get("items", about)
        [reference] = [one["$ref"] for one in (inside, *inside.get("allOf", ())) if "$ref" in one] or [""]
        below = reference.rpartition("/")[2]
        if below and kinds[below].get("properties"):
            yield from fields_of(kinds, below, f"{path}[]." if "items" in about else f"{path}.")
        else:
            yield path


async def test_every_field_that_the_api_server_knows_has_a_verdict(real) -> None:
    body = await real.request("GET", "/openapi/v3/api/v1")
    kinds = json.loads(body)["components"]["schemas"]
    fields = list(fields_of(kinds, "io.k8s.api.core.v1.PodSpec"))
    assert len(fields) > 800
    assert [path for path in fields if verdict_on(path) is None] == []
