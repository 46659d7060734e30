"""A mixture in a recipe: read, filled with defaults, checked part by part, offered to editors."""

import json

import pytest

from llava_kit.errors import RecipeError
from llava_kit.recipe.json_schema import recipe_json_schema
from llava_kit.recipe.load import load_recipe, parts_of, recipe_to_yaml
from llava_kit.recipe.mixture import Ingredient
from llava_kit.registry.manager import default_registry

RECIPE = """
extends: quickstart.yaml
name: mixed
stages:
  align:
    data:
      source:
        type: mixture
        of:
          few: {source: {type: shapes, task: captions, size: 100}, take: "random:10%"}
          inner:
            source: {type: mixture, of: {more: {source: {type: shapes, task: detail}}}}
"""


def written(tmp_path, text):
    path = tmp_path / "mixed.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("take", "available", "count"),
    [("all", 7, 7), ("first:3", 7, 3), ("end:30", 7, 7), ("random:10%", 30, 3), ("first:0.1%", 30, 1), ("random:100%", 3, 3)],
)
def test_how_many_are_taken(take, available, count):
    assert Ingredient(source={"type": "x"}, take=take).count(available) == count


def test_it_is_filled_with_defaults_and_reads_back(tmp_path):
    recipe = load_recipe(written(tmp_path, RECIPE))
    source = recipe.stages["align"].data.source
    assert source.options["of"]["few"]["repeat"] == 1
    assert source.options["of"]["inner"]["source"]["of"]["more"]["source"]["size"] == 20_000
    again = load_recipe(written(tmp_path, recipe_to_yaml(recipe)))
    assert again == recipe


def test_its_sources_are_parts(tmp_path):
    paths = [path for path, kind, _ in parts_of(load_recipe(written(tmp_path, RECIPE))) if kind == "source"]
    above = ("stages", "align", "data", "source")
    assert (*above, "of", "few", "source") in paths
    assert (*above, "of", "inner", "source", "of", "more", "source") in paths
    assert above not in paths


def test_every_mistake_in_it_is_told_with_its_line(tmp_path):
    text = RECIPE.replace("size: 100", "sise: 100").replace("task: detail", "task: detial").replace("random:10%", "random:0")
    with pytest.raises(RecipeError) as error:
        load_recipe(written(tmp_path, text))
    told = [line.partition("mixed.yaml:")[2] for line in error.value.problems]
    assert len(told) == 3
    assert told[0].startswith("10: stages.align.data.source.of.few.take: expected a count of at least 1")
    assert told[1].startswith("10: stages.align.data.source.of.few.source.sise: unknown key; did you mean 'size'?")
    assert "of.inner.source.of.more.source.task" in told[2]


def test_an_override_reaches_into_it(tmp_path):
    recipe = load_recipe(written(tmp_path, RECIPE), ["stages.align.data.source.of.few.take=all"])
    assert recipe.stages["align"].data.source.options["of"]["few"]["take"] == "all"


def test_editors_are_offered_it():
    schema = recipe_json_schema(default_registry())
    assert "mixture" in schema["$defs"]["source"]["properties"]["type"]["enum"]
    ingredient = schema["$defs"]["source.mixture.Ingredient"]["properties"]
    assert ingredient["source"] == {"$ref": "#/$defs/source"}
    assert "source.mixture.Part" not in json.dumps(schema)
