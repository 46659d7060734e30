"""Whatever text or number a recipe holds, what is written reads back as the same."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.recipe.load import load_recipe
from llava_kit.recipe.parts import parts_of
from llava_kit.recipe.reader import read_text
from llava_kit.recipe.schema import Recipe
from llava_kit.recipe.tree import plain
from llava_kit.recipe.write import as_values, recipe_to_yaml

PART = {"type": "x"}
VALUES = {
    "name": "n",
    "model": {"encoder": PART, "connector": PART, "language_model": PART, "template": PART},
    "stages": {
        "a": {"train": {}, "data": {"source": PART}, "steps": 1, "global_batch_size": 1, "clip_norm": None},
    },
}


def recipe_with(**more):
    return Recipe.model_validate({**VALUES, **more})


def read_back(recipe):
    return Recipe.model_validate(plain(read_text(recipe_to_yaml(recipe), "f")))


@pytest.mark.parametrize(
    "text",
    [
        "1e-4",
        "no",
        "010",
        "1:30",
        "2026-01-01",
        "0x10",
        "1_0",
        "null",
        "~",
        "",
        " a ",
        "a\nb\n",
        "\n",
        "- a",
        "{a",
        "#",
        "é",
        "a: b",
        "'",
        "\x85",
        "a\u2028b",
        "\ufeff",
        "a\r\nb",
        "\t",
    ],
)
def test_texts_that_look_like_something_else(text):
    assert read_back(recipe_with(description=text)).description == text


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**20), 10**20),
)
def test_any_text_and_any_number(text, number, integer):
    part = {**PART, "option": text, "rate": number, "list": [text, integer, {"deep": [number, None, True]}]}
    recipe = recipe_with(description=text, seed=integer, model={**VALUES["model"], "connector": part})
    again = read_back(recipe)
    assert again == recipe
    assert math.copysign(1, again.model.connector.options["rate"]) == math.copysign(1, number)


def test_a_null_is_written_only_where_it_says_something():
    stage = as_values(recipe_with())["stages"]["a"]
    assert stage["clip_norm"] is None
    assert "epochs" not in stage
    assert "validate" not in stage


def test_the_alias_is_written(toy_recipe):
    recipe = load_recipe(toy_recipe, ["stages.align.validate={source: {type: toy_data}, every: 5}"])
    assert as_values(recipe)["stages"]["align"]["validate"]["every"] == 5
    assert ("stages", "align", "validate", "source") in [path for path, _, _ in parts_of(recipe)]
