"""Where a stage starts, and which changes make it another stage."""

from __future__ import annotations

import json

import pytest
from test_run import make

from llava_kit.errors import CheckpointError
from llava_kit.train.checkpoint import differences
from llava_kit.train.stage import (
    Start,
    changed_components,
    check_record,
    identity,
    read_record,
    starting_point,
    write_record,
)


def same(first, second, stage="instruct") -> list[str]:
    return differences(*(identity(recipe, stage, lambda name: f"data of {name}") for recipe in (first, second)))


def test_a_stage_starts_from_the_one_before_unless_it_says_otherwise():
    assert starting_point(make(), "align") == Start()
    assert starting_point(make(), "instruct") == Start(stage="align")
    assert starting_point(make(stages__instruct__start_from="scratch"), "instruct") == Start()
    folder = starting_point(make(stages__instruct__start_from="./somewhere/model"), "instruct").folder
    assert str(folder) == "somewhere/model"


def test_what_changed_is_gathered_along_the_way():
    assert changed_components(make(), "instruct") == {"encoder", "connector", "language_model"}
    assert changed_components(make(stages__instruct__start_from="scratch"), "instruct") == {"connector", "language_model"}


@pytest.mark.parametrize(
    "change",
    [
        {"stages__instruct__log_every": 3},
        {"stages__instruct__checkpoint": {"every": 1, "keep": 9}},
        {"stages__instruct__data__workers": 4},
        {"stages__instruct__data__quarantine": {"budget": 0.5}},
        {"stages__instruct__parallel": {"recompute": True}},
        {"stages__align__validate": None},
        {"threads": 2},
        {"output": "elsewhere"},
        {"description": "other words"},
    ],
)
def test_a_harmless_change_is_the_same_stage(change):
    assert same(make(), make(**change)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 4}, "seed: 3 when saved, 4 now"),
        ({"stages__instruct__global_batch_size": 4}, "stage.global_batch_size: 8 when saved, 4 now"),
        ({"stages__instruct__clip_norm": 1.0}, "stage.clip_norm: nothing when saved, 1.0 now"),
        ({"stages__align__steps": 6}, "start_from.stage.steps: 5 when saved, 6 now"),
        ({"stages__instruct__data__max_length": 128}, "stage.data.max_length: 256 when saved, 128 now"),
        ({"model__connector__depth": 3}, "model.connector.depth: 2 when saved, 3 now"),
    ],
)
def test_a_change_that_counts_is_named_also_in_the_stage_before(change, told):
    assert told in same(make(), make(**change))


def test_a_later_stage_does_not_count():
    assert same(make(), make(stages__instruct__global_batch_size=4), "align") == []


def test_a_record_counts_once_the_model_is_there(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path, {"identity": {"seed": 1}})
    assert read_record(tmp_path) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(json.dumps({}))
    record = read_record(tmp_path)
    assert record is not None
    check_record(tmp_path, record, {"seed": 1})
    with pytest.raises(CheckpointError, match="seed: 1 when saved, 2 now"):
        check_record(tmp_path, record, {"seed": 2})
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_record(tmp_path)
