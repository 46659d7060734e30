"""The model card: front matter that the hub can read, tables that hold, nothing claimed that is not known."""

from __future__ import annotations

import pytest
import yaml
from recipes_small import assembled, model_block

from llava_kit.export.card import Origin, read_origin, write_card


def card(assembly, origin=None, **changes):
    keys = {"name": "thing", "library": "transformers", "usage": "run it", "engines": [("vLLM", "expected", "a | b")]}
    return write_card(assembly, origin or Origin("a model in memory"), remarks=["it is small"], **{**keys, **changes})


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    return assembled(model_block(tmp_path_factory.mktemp("parts")))


def front(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter_and_licence(assembly):
    head, body = front(card(assembly))
    assert head["license"] == "unknown"
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "image-text-to-text"
    assert "base_model" not in head  # local folders say nothing to others
    assert "must find out and write it here" in body
    assert "Scores: none are recorded." in body
    assert "How it was trained is not recorded" in body


def test_hub_names_are_the_base_models(assembly):
    import dataclasses

    block = assembly.recipe_model
    encoder = block.encoder.model_copy(update={"__pydantic_extra__": None})
    encoder = type(encoder).model_validate({"type": "clip", "checkpoint": "openai/clip-vit-large-patch14-336"})
    named = dataclasses.replace(assembly, recipe_model=block.model_copy(update={"encoder": encoder}))
    head, body = front(card(named))
    assert head["base_model"] == ["openai/clip-vit-large-patch14-336"]
    assert "`openai/clip-vit-large-patch14-336`" in body


def test_tables_have_the_same_cells_in_each_row(assembly):
    scores = {"questions": 3, "accuracy": {"all": 0.5, "colour": 1.0}, "wrong_picture": {"all": 0.1}, "questions_by_type": {}}
    checks = [("case", "differs"), ("text only", "0.0")]
    text = card(assembly, Origin("trained", "name: x\n", scores, ("align: shapes",)), checks=checks)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        counts = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(counts) == 1, table
    assert "| colour |  | 100.0% |  |" in text
    assert "```yaml\nname: x\n```" in text


def test_origin_of_anything_is_no_error(tmp_path):
    assert read_origin(None).said == "a model in memory"
    assert read_origin(tmp_path).said.startswith(f"`{tmp_path.name}`")
    assert read_origin(tmp_path / "nothing").recipe is None
