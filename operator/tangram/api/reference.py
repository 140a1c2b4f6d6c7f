"""The field reference of the kinds as Markdown, from the same definitions that the API server gets."""

import json
from typing import Any

from tangram.api.crd import definition
from tangram.api.kinds import KINDS, Kind

Json = dict[str, Any]

_HEAD = """# Fields of the kinds

Generated from operator/tangram/api by `make crds`; do not edit. The same text: `kubectl explain KIND --recursive`.
*Required* fields must be written; a default is filled in by the API server.
"""


def _type(schema: Json) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "anything"))


def _bounds(schema: Json) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        return f"{'above ' if schema.get('exclusiveMinimum') else ''}{least} to {most}"
    return ""


def _rows(path: str, schema: Json) -> list[str]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        facts = [_type(field), _bounds(field)]
        if name in schema.get("required", ()):
            facts.append("*required*")
        if field.get("default") not in (None, {}):
            facts.append(f"default `{json.dumps(field['default']).strip(chr(34))}`")
        text = field.get("description", "").replace("|", "\\|")
        rows.append(f"| `{here}` | {', '.join(fact for fact in facts if fact)} | {text} |")
        inner = field.get("items") or field
        rows += _rows(f"{here}[]" if "items" in field else here, inner)
    return rows


def _kind(kind: Kind) -> str:
    document = definition(kind)["spec"]
    schema = document["versions"][0]["schema"]["openAPIV3Schema"]
    names = ", ".join(f"`{name}`" for name in document["names"]["shortNames"])
    table = ["| field | type | meaning |", "|---|---|---|"]
    for part in ("spec", "status"):
        if part in schema["properties"]:
            table += _rows(part, schema["properties"][part])
    intro = f"{schema['description']}\n\nScope: {document['scope'].lower()}; short names: {names}."
    return f"\n## {kind.name}\n\n{intro}\n\n" + "\n".join(table) + "\n"


def reference() -> str:
    """The whole reference as Markdown."""
    return _HEAD + "".join(_kind(kind) for kind in KINDS)
