"""The schema itself: every key is told apart by type and sentence, and every part's place is known."""

import typing

import pytest
from pydantic import BaseModel, ValidationError

from llava_kit.recipe import prepare, schema
from llava_kit.recipe.json_schema import PARTS
from llava_kit.recipe.schema import Part, Recipe, Stage

NAMES = {**vars(prepare), **vars(schema)}
BLOCKS = [value for value in NAMES.values() if isinstance(value, type) and issubclass(value, schema.Block)]


def test_the_places_of_parts_are_all_known():
    """Whoever adds a field of type `Part` must tell the editors' schema and `recipe.parts` about it."""

    def holds_part(annotation):
        return annotation is Part or any(map(holds_part, typing.get_args(annotation)))

    found = {
        (block.__name__, field.alias or name)
        for block in BLOCKS
        for name, field in block.model_fields.items()
        if holds_part(field.annotation)
    }
    assert found == set(PARTS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_unknown_keys_are_errors_and_values_do_not_change(block):
    assert block.model_config["extra"] == "forbid"
    assert block.model_config["frozen"]
    assert block.__doc__


def test_a_part_keeps_its_options_beside_its_type():
    part = Part(type="clip", checkpoint="x")
    assert (part.type, part.options) == ("clip", {"checkpoint": "x"})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b"])
def test_names_are_plain_folder_names(name):
    with pytest.raises(ValidationError, match="plain folder name"):
        Recipe.model_validate({"name": name})


def test_clipping_must_be_decided():
    assert Stage.model_fields["clip_norm"].is_required()


def test_defaults_hold_what_their_types_ask_for():
    for block in BLOCKS:
        for name, field in block.model_fields.items():
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                assert value is None or isinstance(value, BaseModel | str | int | float | tuple | dict), (block, name)
