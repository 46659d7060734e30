"""What the verbs that look at data need of a recipe's stage: its source, and the maker of its examples, without any weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..core.source import DataSource
    from ..core.tiles import Grid
    from ..data.example import ExampleMaker
    from ..image.geometry import TilingPlan
    from ..recipe.schema import Model, Recipe, Stage, Tiling


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
    from ..assemble.parts import build_source
    from ..data.pictures import arranged
    from ..recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    name, chosen = choose_stage(loaded, stage)
    maker, vocab = stage_maker(loaded, chosen)
    source = arranged(build_source(chosen.data.source), chosen.data.pictures, loaded.seed)
    return StageData(loaded, name, chosen, source, maker, vocab)


def stage_maker(recipe: Recipe, stage: Stage) -> tuple[ExampleMaker, int]:
    """What makes the stage's examples, whatever data it is given; and how many rows the embedding has."""
    import torch

    from ..assemble.parts import assemble, build_part

    with torch.device("meta"):
        assembly = assemble(recipe, weights=False)
    data = stage.data
    maker = assembly.examples(
        template=build_part("template", data.template) if data.template is not None else None,
        tiling=data.tiling,
        max_length=data.max_length,
        too_long=data.too_long,
    )
    return maker, assembly.model.language_model.embedding.shape[0]


def tiling_of(model: Model, tiling: Tiling | None = None) -> tuple[TilingPlan, Grid]:
    """How the model's pictures are cut (by `tiling`, where a stage has its own) and the visual rows of a tile.

    Encoder and connector are built without weights or memory, to ask them for their sizes; a tokenizer is not needed.
    """
    import torch

    from ..assemble.parts import build_part
    from ..image.geometry import TilingPlan
    from ..model.side_by_side import SideBySideEncoder
    from ..recipe.schema import Part

    with torch.device("meta"):
        if isinstance(model.encoder, Part):
            encoder = build_part("encoder", model.encoder, weights=False)
        else:
            encoder = SideBySideEncoder([build_part("encoder", part, weights=False) for part in model.encoder])
        spec = encoder.spec
        # The language model is not built: its width changes nothing about places.
        connector = build_part("connector", model.connector, vision_width=spec.width, text_width=spec.width, grid=spec.grid)
    return TilingPlan(spec.image_size, (tiling or model.tiling).options()), connector.output_grid(spec.grid)
