"""What the verbs that look at data need of a recipe's stage: its source, and the maker of its examples, without any weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..core.source import DataSource
    from ..data.example import ExampleMaker
    from ..recipe.schema import Recipe, Stage


class StageData(NamedTuple):
    recipe: Recipe
    name: str
    stage: Stage
    source: DataSource
    maker: ExampleMaker
    vocab: int
    """Rows of the embedding."""


def choose_stage(recipe: Recipe, name: str | None) -> tuple[str, Stage]:
    """The stage of that name; without a name the first. Raises RecipeError for one that is not there."""
    from ..errors import RecipeError, suggest

    if name is None:
        return next(iter(recipe.stages.items()))
    if name not in recipe.stages:
        raise RecipeError(f"recipe {recipe.name!r} has no stage {name!r}; {suggest(name, recipe.stages)}")
    return name, recipe.stages[name]


def open_stage(recipe: str, overrides: Sequence[str], stage: str | None) -> StageData:
    """The data of a stage as training sees them. The model is built without weights and without memory for them."""
    import torch

    from ..assemble.parts import assemble, build_part, build_source
    from ..data.pictures import arranged
    from ..recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    name, chosen = choose_stage(loaded, stage)
    with torch.device("meta"):
        assembly = assemble(loaded, weights=False)
    data = chosen.data
    maker = assembly.examples(
        template=build_part("template", data.template) if data.template is not None else None,
        tiling=data.tiling,
        max_length=data.max_length,
        too_long=data.too_long,
    )
    vocab = assembly.model.language_model.embedding.shape[0]
    source = arranged(build_source(data.source), data.pictures, loaded.seed)
    return StageData(loaded, name, chosen, source, maker, vocab)
