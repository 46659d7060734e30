"""What a recipe will cost, before anything is downloaded: parameters, visual tokens, steps, operations, memory, hours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.tiles import Grid, TileGrid
from ..data.order import DataOrder
from ..errors import LlavaKitError, RecipeError, suggest
from ..image.tiling import Tiler
from ..recipe.schema import COMPONENTS, Recipe, Stage
from ..splice.blend import count_projected
from ..splice.layout import count_newlines, count_rows
from .parts import Assembly, build_source, make_tiler
from .plan_cost import GIB, Flops, Memory, SampleShape, flops, memory
from .plan_size import ModelSize, build_on_meta, measure

PLAN_VERSION = 1
"""Of the JSON; raised when a key changes its meaning."""

# A square, a photo of COCO, a slide, a screen.
DEFAULT_SIZES = ((336, 336), (640, 480), (1024, 768), (1920, 1080))

# Text positions of a sample and the share of them that is supervised, where nobody says otherwise. Guesses, not counts of the
# data: a stage that trains the language model sees conversations (some 300 positions of text in LLaVA's 665K, about half of it
# answers), any other sees captions, all of them supervised.
CONVERSATION_TEXT, CONVERSATION_SHARE = 300, 0.5
CAPTION_TEXT, CAPTION_SHARE = 40, 1.0

# How full a device may be planned: communication buffers, fragmentation and the context want the rest. A rule of thumb.
USABLE = 0.9


@dataclass(frozen=True)
class PlanSettings:
    """What a recipe does not say.

    `sizes` (width, height) of pictures, each as likely as the others; one picture a sample. `text_tokens` and `samples` for all
    stages (key None) or by a stage's name. `peak_tflops` of one device (989: H100 and H200, dense bfloat16, NVIDIA's data
    sheet), of which `utilisation` is reached, counting all that is executed, recomputation too.
    """

    sizes: tuple[tuple[int, int], ...] = DEFAULT_SIZES
    gpus: int = 8
    gpu_memory_gib: float = 80.0
    utilisation: float = 0.5
    peak_tflops: float = 989.0
    text_tokens: Mapping[str | None, int] = field(default_factory=dict)
    samples: Mapping[str | None, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PicturePlan:
    """One picture size in one stage. `detail_tiles` are rows and columns, `visual_tokens` the picture's positions, newlines
    included; `positions` with text. `too_long`: more than the stage's max_length, so turns or the sample are dropped."""

    size: tuple[int, int]
    detail_tiles: Grid
    tiles: int
    visual_rows: int
    newlines: int
    visual_tokens: int
    positions: int
    too_long: bool
    tflops: float


@dataclass(frozen=True)
class StagePlan:
    """One stage. `samples_from`: given, data or published; without a count of samples, steps and hours are None.

    `micro_batch_size` is what one device takes at once, `accumulate` how often it does so in a step. Averages over the sizes:
    `positions`, `flops`.
    """

    name: str
    trained: dict[str, int]
    learning_rates: dict[str, float]
    samples: int | None
    samples_from: str | None
    samples_seen: int | None
    steps: int | None
    global_batch_size: int
    micro_batch_size: int
    accumulate: int
    text_tokens: int
    target_tokens: int
    pictures: list[PicturePlan]
    positions: float
    flops: Flops
    memory: Memory
    fits: bool
    hours: float | None


@dataclass(frozen=True)
class RecipePlan:
    """The whole recipe. `parameters` by component, as its checkpoint counts them; `total` of them.

    `unused`: how many of them lie behind the deepest feature layer, so that they are not built.
    `guessed`: components whose activations could not be measured, because they do not run on the meta device.
    """

    recipe: str
    parameters: dict[str, int]
    total: int
    unused: dict[str, int]
    guessed: list[str]
    stages: dict[str, StagePlan]
    settings: PlanSettings

    def as_dict(self) -> dict[str, Any]:
        """For JSON: operations in TFLOP, memory in GiB."""
        values = dataclasses.asdict(self)
        for name, stage in self.stages.items():
            shown = values["stages"][name]
            del shown["flops"], shown["memory"]
            shown["tflops_per_sample"] = _sums(stage.flops, 1e12, "total", "executed")
            shown["memory_gib"] = _sums(stage.memory, GIB, "total")
        settings = values["settings"]
        for key in ("text_tokens", "samples"):
            settings[key] = {name or "all": value for name, value in settings[key].items()}
        return {"version": PLAN_VERSION, **values}


def _sums(record: Flops | Memory, unit: float, *extra: str) -> dict[str, float]:
    return {key: getattr(record, key) / unit for key in (*dataclasses.asdict(record), *extra)}


def plan_recipe(recipe: Recipe, settings: PlanSettings | None = None) -> RecipePlan:
    """The plan of a checked recipe; offline, without weights and without a device.

    Raises:
        PluginError: a checkpoint is neither a folder nor a preset, so that its shape is unknown.
        RecipeError: the settings name a stage that the recipe does not have, or sizes that no picture has.
    """
    settings = settings or PlanSettings()
    _check(settings, recipe)
    assembly = build_on_meta(recipe)
    size = measure(assembly)
    unused = {name: getattr(getattr(assembly.model, name), "unused_parameters", 0) for name in COMPONENTS}
    parameters = {name: size.components[name].parameters + unused[name] for name in COMPONENTS}
    stages = {name: _plan_stage(name, stage, assembly, size, settings, recipe.seed) for name, stage in recipe.stages.items()}
    guessed = [part.name for part in size.components.values() if not part.measured]
    return RecipePlan(recipe.name, parameters, sum(parameters.values()), unused, guessed, stages, settings)


def _check(settings: PlanSettings, recipe: Recipe) -> None:
    for key in ("text_tokens", "samples"):
        for name in getattr(settings, key):
            if name is not None and name not in recipe.stages:
                raise RecipeError(f"{key}: there is no stage {name!r} in {recipe.name}; {suggest(name, recipe.stages)}")
    if not settings.sizes or any(side < 1 for size in settings.sizes for side in size):
        raise RecipeError(f"sizes: found {list(settings.sizes)}, expected (width, height) in whole pixels above 0")
    for key in ("gpus", "gpu_memory_gib", "utilisation", "peak_tflops"):
        if getattr(settings, key) <= 0:
            raise RecipeError(f"{key}: found {getattr(settings, key)}, expected a number above 0")


def _plan_stage(name: str, stage: Stage, assembly: Assembly, size: ModelSize, settings: PlanSettings, seed: int) -> StagePlan:
    trained = stage.train.components()
    text, share = (CONVERSATION_TEXT, CONVERSATION_SHARE) if "language_model" in trained else (CAPTION_TEXT, CAPTION_SHARE)
    text = _for_stage(settings.text_tokens, name) or text
    targets = max(1, round(text * share))
    recompute = stage.parallel.recompute
    tiler = make_tiler(assembly.model.encoder, stage.data.tiling) if stage.data.tiling else assembly.tiler
    pictures, shapes = [], []
    for picture in settings.sizes:
        shape = _shape(tiler.plan(picture), size.side, text, targets)
        shapes.append(shape)
        cost = flops(size, shape, trained, recompute).total
        pictures.append(_picture(picture, tiler, size.side, text, stage.data.max_length, cost))
    sample = _mean(shapes)
    cost = flops(size, sample, trained, recompute)
    at_once, accumulate, micro = _batches(stage, settings.gpus, sample)
    held = memory(size, stage, settings.gpus, at_once, sample)
    count, source = _count_samples(stage, _for_stage(settings.samples, name))
    steps = seen = None
    if count is not None or stage.steps is not None:
        order = DataOrder(count or 1, stage.global_batch_size, seed, stage.epochs, stage.steps)
        steps = order.num_steps
        seen = order.num_seen(steps) if count is not None else steps * stage.global_batch_size
    speed = settings.gpus * settings.peak_tflops * 1e12 * settings.utilisation
    return StagePlan(
        name=name,
        trained={part: size.components[part].parameters for part in trained},
        learning_rates={part: training.lr for part, training in trained.items()},
        samples=count,
        samples_from=source,
        samples_seen=seen,
        steps=steps,
        global_batch_size=stage.global_batch_size,
        micro_batch_size=micro,
        accumulate=accumulate,
        text_tokens=text,
        target_tokens=targets,
        pictures=pictures,
        positions=sample.positions,
        flops=cost,
        memory=held,
        fits=held.total <= USABLE * settings.gpu_memory_gib * GIB,
        hours=None if seen is None else seen * cost.executed / speed / 3600,
    )


def _for_stage(values: Mapping[str | None, int], name: str) -> int | None:
    return values.get(name, values.get(None))


def _shape(grid: TileGrid, side: Grid, text: int, targets: int) -> SampleShape:
    positions = count_rows(grid, side) + text
    return SampleShape(
        tiles=grid.num_tiles,
        visual_rows=count_projected(grid, side),
        positions=positions,
        targets=targets,
        positions_squared=positions**2,
    )


def _mean(shapes: list[SampleShape]) -> SampleShape:
    keys = [item.name for item in dataclasses.fields(SampleShape)]
    return SampleShape(**{key: sum(getattr(shape, key) for shape in shapes) / len(shapes) for key in keys})


def _picture(size: tuple[int, int], tiler: Tiler, side: Grid, text: int, max_length: int, cost: float) -> PicturePlan:
    grid = tiler.plan(size)
    tokens, newlines = count_rows(grid, side), count_newlines(grid, side)
    return PicturePlan(
        size=size,
        detail_tiles=grid.tiles,
        tiles=grid.num_tiles,
        visual_rows=tokens - newlines,
        newlines=newlines,
        visual_tokens=tokens,
        positions=tokens + text,
        too_long=tokens + text > max_length,
        tflops=cost / 1e12,
    )


def _batches(stage: Stage, gpus: int, sample: SampleShape) -> tuple[float, int, int]:
    """Samples that one device holds at once, how many times it does so in a step, and its micro-batch (rows when packing)."""
    share = math.ceil(stage.global_batch_size / gpus)
    if not stage.data.pack:
        micro = min(stage.micro_batch_size or share, share)
        return micro, math.ceil(share / micro), micro
    per_row = stage.data.max_length / sample.positions
    rows = math.ceil(share / per_row)
    micro = min(stage.micro_batch_size or rows, rows)
    return micro * per_row, math.ceil(rows / micro), micro


def _count_samples(stage: Stage, given: int | None) -> tuple[int | None, str | None]:
    """How many samples the stage has, and who says so."""
    if given is not None:
        return given, "given"
    try:
        return len(build_source(stage.data.source)), "data"
    except LlavaKitError:  # the data is not here, which is how most plans are made
        published = stage.data.samples
        return published, None if published is None else "published"
