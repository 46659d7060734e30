"""The schema for editors: keys of plugins included, nothing required, every reference leads somewhere."""

import json

import pytest

from llava_kit.recipe.json_schema import recipe_json_schema
from llava_kit.registry.manager import default_registry


@pytest.fixture
def schema(toy_recipe):
    return json.loads(json.dumps(recipe_json_schema(default_registry())))


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(schema):
    found = set(references(schema))
    assert found
    assert {reference.removeprefix("#/$defs/") for reference in found} <= set(schema["$defs"])


def test_a_plugin_s_options_are_offered_for_its_type_alone(schema):
    encoder = schema["$defs"]["encoder"]
    assert "toy" in encoder["properties"]["type"]["enum"]
    branches = {branch["if"]["properties"]["type"]["const"]: branch["then"]["$ref"] for branch in encoder["then"]["allOf"]}
    toy = schema["$defs"][branches["toy"].removeprefix("#/$defs/")]
    assert set(toy["properties"]) == {"type", "checkpoint", "layer", "rate", "style", "inner", "size"}
    assert toy["additionalProperties"] is False
    assert toy["properties"]["style"]["enum"] == ["plain", "fancy"]
    other = schema["$defs"][branches["other"].removeprefix("#/$defs/")]
    assert set(other["properties"]) == {"type", "width"}


def test_extends_is_offered_and_nothing_is_demanded(schema):
    assert "extends" in schema["properties"]

    def demanded(value):
        if isinstance(value, dict):
            here = ["required"] if isinstance(value.get("required"), list) else []
            return here + [d for key, item in value.items() if key != "if" for d in demanded(item)]
        return [d for item in value for d in demanded(item)] if isinstance(value, list) else []

    assert demanded(schema) == []


@pytest.mark.parametrize(("kind", "name"), [("splicer", "toy_kernel"), ("loss", "toy_loss")])
def test_splicers_and_losses_are_offered_by_name(schema, kind, name):
    assert {"auto", "reference", name} <= set(schema["$defs"][f"{kind}.name"]["enum"])
    assert {"auto", "reference", name} <= set(schema["$defs"][kind]["properties"]["type"]["enum"])
    assert {"$ref": f"#/$defs/{kind}.name"} in schema["$defs"]["Model"]["properties"][kind]["anyOf"]


def test_options_without_a_schema_do_not_spoil_the_rest(toy_recipe, make_plugin):
    make_plugin(
        "odd",
        "from __future__ import annotations\nfrom llava_kit import Options, hookimpl\n"
        "class O(Options):\n    x: Nowhere = 1\n"
        "@hookimpl\ndef register_connectors(register):\n    register('odd', options=O, build=print)\n",
    )
    schema = recipe_json_schema(default_registry())
    assert schema["$defs"]["connector.odd"]["additionalProperties"] is True
