"""A recipe's plan: visual tokens as published, steps, hours, where the count of samples comes from, and what is refused."""

import json

import pytest

from llava_kit.assemble.plan import PlanSettings, plan_recipe
from llava_kit.errors import PluginError, RecipeError
from llava_kit.recipe.load import load_recipe
from llava_kit.recipe.schema import Recipe


@pytest.fixture
def recipe(toy):
    """A toy recipe; `recipe(stage={...}, data={...})` changes its one stage."""

    def make(stage=(), data=(), **model):
        block = {
            "train": {"connector": {"lr": 1e-3}, "language_model": {"lr": 1e-4}},
            "data": {"source": {"type": "llava_json", "path": "nowhere.json"}, "max_length": 128, **dict(data)},
            "epochs": 2,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "clip_norm": 1.0,
            **dict(stage),
        }
        return Recipe.model_validate({"name": "toy", "model": {**toy, **model}, "stages": {"only": block}})

    return make


def settings(**changes):
    return PlanSettings(**{"sizes": ((64, 64),), "gpus": 1, "text_tokens": {None: 10}, **changes})


def test_visual_tokens_of_next():
    """The table of the original's own functions for the five canvases, and the 576 of v1.5."""
    sizes = ((336, 336), (640, 480), (1024, 768), (1920, 1080), (2000, 500))
    plan = plan_recipe(load_recipe("llava_next_vicuna_7b"), PlanSettings(sizes=sizes))
    pictures = plan.stages["instruct"].pictures
    assert [picture.visual_tokens for picture in pictures] == [1176, 2340, 2340, 1948, 1890]
    assert [picture.tiles for picture in pictures] == [3, 5, 5, 5, 4]
    assert all(picture.visual_rows + picture.newlines == picture.visual_tokens for picture in pictures)
    assert {picture.visual_tokens for picture in plan.stages["align"].pictures} == {576}
    assert plan.stages["align"].steps == 2_181
    assert plan.stages["instruct"].trained.keys() == {"encoder", "connector", "language_model"}
    assert plan.guessed == []
    # 32-GPU-hours of the card are no promise, but the plan must be of their kind: 8 A100 took 20 hours.
    a100 = PlanSettings(sizes=sizes, peak_tflops=312, utilisation=0.5)
    executed, seen = plan.stages["instruct"].flops.executed, plan.stages["instruct"].samples_seen
    assert 10 < executed * seen / (8 * a100.peak_tflops * 1e12 * a100.utilisation) / 3600 < 40


def test_a_shrunk_canvas_is_counted_as_it_is_seated(recipe):
    """32 x 32 pixels and 2 x 2 visual rows a tile: nine tiles, 36 rows, are brought to the four of one tile."""
    tiling = {"mode": "anyres", "pinpoints": "(3x3),...,(3x3)", "max_tiles": 1}
    plan = plan_recipe(recipe(tiling=tiling), settings(sizes=((96, 96),)))
    (picture,) = plan.stages["only"].pictures
    assert (picture.tiles, picture.visual_tokens, picture.newlines, picture.visual_rows) == (10, 4 + 2 * 3, 2, 8)


def test_the_work_of_a_sample_of_v1_5():
    """6 operations a parameter and position, and attention: 41.1 GFLOP a position, the head counted on every one of them."""
    plan = plan_recipe(load_recipe("llava_v1_5_7b"), PlanSettings(sizes=((336, 336),)))
    stage = plan.stages["instruct"]
    assert stage.positions == 876
    everywhere = stage.flops.language_model + stage.flops.head * 876 / stage.target_tokens
    assert everywhere / 876 == pytest.approx(41.1e9, rel=0.02)


def test_steps_hours_and_batches(recipe):
    plan = plan_recipe(recipe(), settings(samples={None: 100}, peak_tflops=1e-3, utilisation=0.25))
    stage = plan.stages["only"]
    assert (stage.samples, stage.samples_from, stage.steps, stage.samples_seen) == (100, "given", 26, 200)
    assert (stage.micro_batch_size, stage.accumulate) == (2, 4)
    assert stage.hours == pytest.approx(200 * stage.flops.executed / 0.25e9 / 3600)
    twice = plan_recipe(recipe(), settings(gpus=2, samples={"only": 100}, peak_tflops=1e-3, utilisation=0.25))
    assert twice.stages["only"].hours == pytest.approx(stage.hours / 2)
    assert twice.stages["only"].accumulate == 2
    assert plan_recipe(recipe(), settings(gpus=8)).stages["only"].micro_batch_size == 1


def test_where_the_count_of_samples_comes_from(recipe, tmp_path):
    unknown = plan_recipe(recipe(), settings()).stages["only"]
    assert (unknown.samples, unknown.samples_from, unknown.steps, unknown.hours) == (None, None, None, None)
    published = plan_recipe(recipe(data={"samples": 40}), settings()).stages["only"]
    assert (published.samples, published.samples_from, published.steps) == (40, "published", 10)
    path = tmp_path / "data.json"
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hello"}]
    path.write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(12)]))
    source = {"type": "llava_json", "path": str(path)}
    there = plan_recipe(recipe(data={"source": source, "samples": 40}), settings()).stages["only"]
    assert (there.samples, there.samples_from, there.steps) == (12, "data", 4)


def test_steps_need_no_count(recipe):
    stage = plan_recipe(recipe(stage={"epochs": None, "steps": 7}), settings()).stages["only"]
    assert (stage.steps, stage.samples, stage.samples_seen) == (7, None, 56)
    assert stage.hours > 0


def test_a_stage_may_cut_its_own_way(recipe):
    own = plan_recipe(recipe(data={"tiling": {"mode": "square"}}), settings()).stages["only"].pictures[0]
    assert (own.tiles, own.visual_tokens, own.newlines) == (1, 4, 0)
    models = plan_recipe(recipe(), settings()).stages["only"].pictures[0]
    assert (models.tiles, models.visual_tokens, models.newlines) == (5, 24, 4)


def test_a_sample_that_is_too_long_is_told(recipe):
    assert not plan_recipe(recipe(), settings()).stages["only"].pictures[0].too_long
    assert plan_recipe(recipe(data={"max_length": 32}), settings()).stages["only"].pictures[0].too_long


def test_packing_counts_rows(recipe):
    """34 positions a sample, so three in a row of 102: eight samples are three rows."""
    packed = recipe(data={"pack": True, "max_length": 102})
    stage = plan_recipe(packed, settings()).stages["only"]
    assert (stage.micro_batch_size, stage.accumulate) == (2, 2)
    loose = plan_recipe(recipe(stage={"micro_batch_size": 6, "global_batch_size": 6}), settings()).stages["only"]
    assert stage.memory.activations == pytest.approx(loose.memory.activations)


def test_what_fits(recipe):
    stage = plan_recipe(recipe(), settings()).stages["only"]
    gib = stage.memory.total / (1 << 30)
    assert plan_recipe(recipe(), settings(gpu_memory_gib=gib / 0.89)).stages["only"].fits
    assert not plan_recipe(recipe(), settings(gpu_memory_gib=gib / 0.91)).stages["only"].fits


def test_captions_where_the_language_model_is_frozen(recipe):
    frozen = recipe(stage={"train": {"connector": {"lr": 1e-3}}})
    stage = plan_recipe(frozen, settings(text_tokens={})).stages["only"]
    assert (stage.text_tokens, stage.target_tokens) == (40, 40)
    stage = plan_recipe(recipe(), settings(text_tokens={})).stages["only"]
    assert (stage.text_tokens, stage.target_tokens) == (300, 150)


def test_the_record_is_plain_json(recipe):
    values = plan_recipe(recipe(data={"samples": 40}), settings()).as_dict()
    assert json.loads(json.dumps(values, allow_nan=False))["version"] == 1
    stage = values["stages"]["only"]
    assert stage["memory_gib"]["total"] == pytest.approx(sum(v for k, v in stage["memory_gib"].items() if k != "total"))
    assert {"encoder", "connector", "language_model", "head", "recomputed", "total", "executed"} == set(
        stage["tflops_per_sample"]
    )
    assert values["settings"]["text_tokens"] == {"all": 10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"onyl": 3}}, "did you mean 'only'"),
        ({"text_tokens": {"other": 3}}, "there is no stage 'other'"),
        ({"sizes": ((0, 5),)}, "whole pixels above 0"),
        ({"sizes": ()}, "whole pixels above 0"),
        ({"utilisation": 0.0}, "utilisation"),
        ({"gpus": -1}, "gpus"),
    ],
)
def test_settings_that_make_no_sense(recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        plan_recipe(recipe(), settings(**changes))


def test_an_unknown_checkpoint_is_told_with_the_nearest():
    recipe = load_recipe("llava_v1_5_7b", ["model.language_model.checkpoint=lmsys/vicuna-7b-v1.6"])
    with pytest.raises(PluginError, match=r"vicuna-7b-v1\.6.*did you mean 'lmsys/vicuna-7b-v1\.[35]'"):
        plan_recipe(recipe)
