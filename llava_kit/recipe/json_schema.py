"""The JSON schema of a recipe, installed plugins' options included, for editors that complete and underline YAML.

No key is required in it: a file that extends another need not repeat anything. What is missing, `recipe check` tells.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from llava_kit.registry.registry import Registry, words

from .mixture import MIXTURE, Mixture
from .parts import BUILT_IN, CHOICES
from .schema import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"

PARTS = {
    ("Model", "encoder"): "encoder",
    ("Model", "connector"): "connector",
    ("Model", "language_model"): "language_model",
    ("Model", "template"): "template",
    **{("Model", kind): kind for kind in CHOICES},
    ("Data", "source"): "source",
    ("Data", "template"): "template",
    ("Validation", "source"): "source",
    ("Evaluate", "benchmark"): "benchmark",
    ("Convert", "source"): "source",
    ("Check", "source"): "source",
    ("Check", "against"): "source",
    ("Generate", "source"): "source",
    ("Generate", "teacher"): "teacher",
    ("FilterCaptions", "source"): "source",
}
"""Which key of which block names a plugin of which kind. A test holds it against the fields of type `Part` in the schema."""


def recipe_json_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe file. A plugin whose options have no schema is offered without its keys."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema["$defs"]
    del definitions["Part"]
    for (block, key), kind in PARTS.items():
        field = definitions[block]["properties"][key]
        described = {"description": field["description"]} if "description" in field else {}
        definitions[block]["properties"][key] = {**_part_reference(kind, key), **described}
    for kind in sorted(set(PARTS.values())):
        definitions[kind] = _kind_schema(kind, registry, definitions)
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "a recipe file that this one is laid over: mappings merge, lists are replaced, "
        "a block whose type differs is replaced whole",
    }
    return {"$schema": DIALECT, **_without_required(schema)}


def _part_reference(kind: str, key: str) -> dict[str, Any]:
    reference: dict[str, Any] = {"$ref": f"#/$defs/{kind}"}
    if key == "against":
        return {"type": "array", "items": reference}
    if key == "encoder":
        return {"anyOf": [reference, {"type": "array", "items": reference, "minItems": 1}]}
    if key in CHOICES:
        return {"anyOf": [{"$ref": f"#/$defs/{kind}.name"}, reference]}
    return {"anyOf": [reference, {"type": "null"}]} if key == "template" else reference


def _kind_schema(kind: str, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """A block with `type`; which other keys it may have follows from the type."""
    entries = registry.entries(kind)
    names = [entry.name for entry in entries]
    choices = []
    for entry in entries:
        name = f"{kind}.{entry.name}"
        definitions[name] = _options_schema(entry.options, entry.name, entry.summary, name, definitions)
        choices.append({"if": {"properties": {"type": {"const": entry.name}}}, "then": {"$ref": f"#/$defs/{name}"}})
    if kind == "source":
        names, name = [MIXTURE, *names], f"{kind}.{MIXTURE}"
        definitions[name] = _options_schema(Mixture, MIXTURE, "several sources as one", name, definitions)
        definitions[f"{name}.Ingredient"]["properties"]["source"] = {"$ref": f"#/$defs/{kind}"}
        definitions.pop(f"{name}.Part", None)
        choices.append({"if": {"properties": {"type": {"const": MIXTURE}}}, "then": {"$ref": f"#/$defs/{name}"}})
    if kind in CHOICES:
        names = [*BUILT_IN, *names]
        definitions[f"{kind}.name"] = {"enum": names}
    block: dict[str, Any] = {
        "type": "object",
        "description": f"a {words(kind)} and its options",
        "properties": {"type": {"enum": names, "description": "the plugin's name"}},
    }
    # Without `type` (a file that only changes an option of the base) no branch may speak.
    return {**block, "if": {"required": ["type"]}, "then": {"allOf": choices}} if choices else block


def _options_schema(
    options: type[BaseModel] | None, type_name: str, summary: str, name: str, definitions: dict[str, Any]
) -> dict[str, Any]:
    schema: dict[str, Any]
    try:
        schema = options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}") if options is not None else {}
    except Exception:  # options that have no JSON schema, or a plugin's own fault: `plugins doctor` tells
        schema = {"additionalProperties": True}
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[f"{name}.{inner}"] = definition
    properties = {"type": {"const": type_name}, **schema.get("properties", {})}
    return {"additionalProperties": False, **schema, "type": "object", "description": summary, "properties": properties}


def _without_required(schema: Any) -> Any:
    """The schema with no key required of any block. `if`s keep theirs: they ask, they do not demand."""
    if isinstance(schema, list):
        return [_without_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key == "if" else _without_required(value)
        for key, value in schema.items()
        if not (key == "required" and isinstance(value, list))
    }
