"""The tables of docs/recipes.md are what the recipes and the planner say; a failure prints the line as it should be."""

from pathlib import Path

import pytest

from llava_kit.assemble.plan import plan_recipe

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"

NAMES = (
    "llava_v1_7b",
    "llava_v1_13b",
    "llava_v1_scienceqa_13b",
    "llava_v1_5_7b",
    "llava_v1_5_13b",
    "llava_next_vicuna_7b",
    "llava_next_mistral_7b",
    "llava_next_vicuna_13b",
    "llava_next_yi_34b",
)


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def number_row(name, recipe):
    """What is trained on what: the same for both stages, side by side."""
    cells = [f"`{name}`"]
    for stage in recipe.stages.values():
        rates = " / ".join(f"{training.lr:.0e}".replace("e-0", "e-") for training in stage.train.components().values())
        epochs = f" x {stage.epochs:g}" if stage.epochs != 1 else ""
        tiling = (stage.data.tiling or recipe.model.tiling).mode
        cells += [f"{stage.data.samples:,}{epochs}", stage.global_batch_size, rates, tiling]
    clip = {stage.clip_norm for stage in recipe.stages.values()}
    return row(*cells, recipe.stages["instruct"].data.max_length, "none" if clip == {None} else f"{clip.pop():g}")


def cost_row(name, plan):
    cells = [f"`{name}`", f"{plan.total / 1e9:.2f} B"]
    for stage in plan.stages.values():
        memory = stage.memory.total / (1 << 30)
        cells += [
            f"{stage.steps:,}",
            f"{sum(picture.visual_tokens for picture in stage.pictures) / len(stage.pictures):,.0f}",
            f"{stage.flops.total / 1e12:.1f}",
            f"{memory:.0f}" if stage.fits else f"{memory:.0f} (too much)",
            f"{stage.hours:.1f}",
        ]
    return row(*cells)


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name, published):
    assert number_row(name, published(name)) in DOCS.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "llava_v1_5_7b" else pytest.mark.slow) for name in NAMES]
)
def test_costs(name, published):
    assert cost_row(name, plan_recipe(published(name))) in DOCS.read_text(encoding="utf-8").splitlines()


def test_every_recipe_is_told(recipes_folder):
    assert {path.stem for path in recipes_folder.glob("llava_*.yaml")} == set(NAMES)
