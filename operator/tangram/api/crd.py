"""CustomResourceDefinitions from the pydantic models.

pydantic writes JSON Schema 2020-12; the API server wants a *structural* OpenAPI 3.0 schema. Rewritten here: references
are put in place, ``anyOf [X, null]`` becomes X, ``const`` an ``enum`` of one, numeric exclusive bounds the boolean form
of OpenAPI 3.0, ``title`` and closed ``additionalProperties`` go. A keyword that is not known raises: a schema that
the API server would drop or refuse must not be written.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tangram.api import effect
from tangram.api.kinds import KINDS, Kind, Scale
from tangram.api.names import GROUP, VERSION
from tangram.errors import InvalidInput

Json = dict[str, Any]

HEADER = "# Generated from operator/tangram/api by `make crds`; do not edit.\n"

_KEPT = frozenset({
    "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "required", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
})  # fmt: skip
_DROPPED = frozenset({"title", "uniqueItems", "propertyNames", "$defs"})
_ROOT_DESCRIPTIONS = {
    "apiVersion": "Version of the schema of this object.",
    "kind": "Kind of this object.",
}


def _text(description: str) -> str:
    return " ".join(inspect.cleandoc(description).replace("``", "").split())


def _put_in_place(schema: Json, definitions: Json) -> tuple[Json, bool]:
    """Follow references and take ``null`` out; says also whether the value may be left out for good."""
    optional = False
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            target = definitions[schema["$ref"].rpartition("/")[2]]
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
            continue
        branches = [branch for branch in schema["anyOf"] if branch.get("type") != "null"]
        if len(branches) != 1:
            break
        optional = True
        schema = {**branches[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    return schema, optional


def structural(schema: Json, definitions: Json) -> Json:
    """One schema in the form that a CustomResourceDefinition takes. Raises InvalidInput for an unknown keyword."""
    schema, optional = _put_in_place(schema, definitions)
    out: Json = {}
    if "description" in schema:
        out["description"] = _text(schema["description"])
    for keyword, value in schema.items():
        if keyword in _KEPT:
            out[keyword] = value
        elif keyword not in _DROPPED and keyword != "description":
            _rewrite(keyword, value, schema, definitions, out)
    if optional and out.get("default") is None:
        out.pop("default", None)
    if "items" in out:
        out.setdefault("x-kubernetes-list-type", "atomic")  # what it is for the API server where nothing is said
    if not {"type", "x-kubernetes-int-or-string", "enum"} & out.keys():
        out["x-kubernetes-preserve-unknown-fields"] = True
    return out


def _rewrite(keyword: str, value: Any, schema: Json, definitions: Json, out: Json) -> None:
    match keyword:
        case "properties":
            out["properties"] = {name: _property(name, value[name], schema, definitions) for name in value}
        case "items":
            out["items"] = structural(value, definitions)
        case "additionalProperties" | "patternProperties":
            _map(keyword, value, schema, definitions, out)
        case "default":
            if value not in (None, "", [], {}):
                out["default"] = value
        case "const":
            out["enum"] = [value]
        case "exclusiveMinimum" | "exclusiveMaximum":
            out[keyword.removeprefix("exclusive").lower()] = value
            out[keyword] = True
        case "anyOf" if "x-kubernetes-int-or-string" in schema:
            out["anyOf"] = value
        case _:
            raise InvalidInput("schema", keyword, value, "keywords of a structural schema")


def _map(keyword: str, value: Any, schema: Json, definitions: Json, out: Json) -> None:
    """A map; OpenAPI knows no form of keys, so a CEL rule takes its place."""
    if keyword == "patternProperties":
        ((pattern, item),) = value.items()
        out["additionalProperties"] = structural(item, definitions)
        out["x-kubernetes-validations"] = [
            {
                "rule": f"self.all(key, size(key) <= 63 && key.matches('{pattern}'))",
                "message": "every key must be a label value of at most 63 letters, digits, '-', '_' and '.'",
                "reason": "FieldValueInvalid",
            }
        ]
    elif isinstance(value, dict) and "properties" not in schema:
        out["additionalProperties"] = structural(value, definitions)


def _closed(schema: Json) -> bool:
    """Whether the object's fields are all ours, so that filling it cannot write into a part that is kept as written."""
    return "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema


def _property(name: str, schema: Json, parent: Json, definitions: Json) -> Json:
    out = structural(schema, definitions)
    placed, optional = _put_in_place(schema, definitions)
    if not optional and name not in parent.get("required", ()) and _closed(placed) and "default" not in out:
        # an empty object is filled by the API server with the defaults of its own fields
        out["default"] = {}
    return out


def _without_defaults(schema: Json) -> Json:
    """A status says what was seen: filling in what nobody wrote would make it lie (observedGeneration 0 is "stale")."""
    out = {key: value for key, value in schema.items() if key != "default"}
    for word in ("items", "additionalProperties"):
        if isinstance(out.get(word), dict):
            out[word] = _without_defaults(out[word])
    if "properties" in out:
        out["properties"] = {name: _without_defaults(part) for name, part in out["properties"].items()}
    return out


def _marked(schema: Json, kind: str, path: str) -> Json:
    """The schema, in which fields without effect say so: ``kubectl explain`` shows it."""
    inner = schema.get("items", schema)
    if "properties" not in inner or "x-kubernetes-preserve-unknown-fields" in inner:
        in_vain = effect.without_effect(kind, path)
        return schema | {"description": f"No effect yet: {in_vain}. {schema['description']}"} if in_vain else schema
    here = path if inner is schema else f"{path}[]"
    marked = {name: _marked(field, kind, f"{here}.{name}") for name, field in inner["properties"].items()}
    inner = inner | {"properties": marked}
    return inner if here == path else schema | {"items": inner}


def schema_of(model: type[BaseModel]) -> Json:
    """The structural schema of a kind."""
    raw = model.model_json_schema(by_alias=True)
    schema = structural({**raw, "properties": {k: v for k, v in raw["properties"].items() if k in ("spec", "status")}},
                        raw.get("$defs", {}))  # fmt: skip
    head = {name: {"type": "string", "description": text} for name, text in _ROOT_DESCRIPTIONS.items()}
    schema["properties"] = {**head, "metadata": {"type": "object"}, **schema["properties"]}
    schema["properties"]["status"] = _without_defaults(schema["properties"]["status"])
    for part in ("spec", "status"):
        if part in schema["properties"]:
            schema["properties"][part] = _marked(schema["properties"][part], model.__name__, part)
    schema["required"] = [name for name in raw["required"] if name == "spec"]
    if not schema["required"]:
        del schema["required"]
    return schema


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition of a kind."""
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **({"scale": _scale(kind.scale)} if kind.scale else {})},
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                "description": column.description,
                **({"priority": 1} if column.wide else {}),
            }
            for column in kind.columns
        ],
        **({"selectableFields": [{"jsonPath": path} for path in kind.selectable]} if kind.selectable else {}),
        "schema": {"openAPIV3Schema": schema_of(kind.model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short_names),
                "categories": list(kind.categories),
            },
            "versions": [version],
        },
    }


def _scale(scale: Scale) -> Json:
    return {
        "specReplicasPath": scale.spec_replicas,
        "statusReplicasPath": scale.status_replicas,
        "labelSelectorPath": scale.selector,
    }


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML without anchors: every definition is complete where it stands. Without libyaml it takes ten times as
    long."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(document: Json) -> str:
    """The document as YAML, always the same text for the same document."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def files(kinds: Iterable[Kind] = KINDS) -> dict[str, str]:
    """File name -> content for every kind."""
    return {f"{kind.plural}.yaml": HEADER + as_yaml(definition(kind)) for kind in kinds}


def write(folder: Path) -> list[Path]:
    """Write the definitions into a folder (made when missing) and answer the paths, in the order of the kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files().items():
        path = folder / name
        path.write_text(content, encoding="utf-8")
        paths.append(path)
    return paths


def without_effect(kinds: Iterable[Kind] = KINDS) -> list[str]:
    """The fields that nothing acts on yet, each with its kind and the reason."""
    found = []
    for kind in kinds:
        properties = schema_of(kind.model)["properties"]
        for part in sorted({"spec", "status"} & properties.keys()):
            paths = effect.leaves(properties[part], part)
            whys = ((path, effect.without_effect(kind.name, path)) for path in paths)
            found += [f"{kind.name} {path}: {why}" for path, why in whys if why]
    return found
