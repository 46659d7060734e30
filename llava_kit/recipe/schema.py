"""The typed recipe: which parts, which stages, which data. No torch here; every key has a type and a sentence.

A `Part` is a block with `type`, whose other keys are the options of that plugin; `recipe.load` checks them against the plugin's
own Options class, so the schema of a stranger's plugin is as strict as ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from ..image.options import TilingOptions, VideoOptions, foreign_word, wrong_pinpoints
from .blocks import Block, Fraction, Name, NonNegativeFloat, Part
from .prepare import Steps

RECIPE_VERSION = 1
COMPONENTS = ("encoder", "connector", "language_model")


def _pinpoints(value: str) -> str:
    if wrong := wrong_pinpoints(value):
        raise ValueError(f"expected {wrong[1]}")
    return value


class Video(Block):
    """How a clip, given as pictures of its frames, becomes tiles and rows (LLaVA-NeXT-Video, OneVision)."""

    frames: PositiveInt = Field(default=32, description="at most so many frames are looked at, spread evenly over the clip")
    frame: Literal["square", "resize", "pad"] = Field(
        default="square",
        description="how a frame becomes its one tile; LLaVA crops with CLIP (square) and squashes with SigLIP",
    )
    pool: Literal["average", "max", "bilinear"] = Field(
        default="bilinear", description="how two by two visual rows of a frame become one; bilinear keeps an odd line"
    )
    newline: Literal["grid", "frame", "one_token", "no_token"] = Field(
        default="grid", description="newline rows after each line of a frame, after each frame, after the clip, or nowhere"
    )
    time_instruction: bool = Field(default=False, description="tell the frames' times in a sentence before the question")


class Tiling(Block):
    """How a picture becomes tiles (LLaVA v1: square, v1.5: pad, NeXT: anyres)."""

    mode: Literal["square", "pad", "resize", "anyres"] = Field(
        default="pad",
        description="square: resize the shorter side, crop the centre; pad: to a square with the encoder's mean colour; "
        "resize: squash to a square; anyres: an overview and tiles of the best canvas",
    )
    pinpoints: tuple[tuple[PositiveInt, PositiveInt], ...] | Annotated[str, AfterValidator(_pinpoints)] = Field(
        default=(),
        description="anyres: the canvases to choose from, (width, height) in pixels, multiples of the tile; or a range of "
        "tiles such as '(1x1),...,(6x6)'",
    )
    merge: Literal["flat", "spatial", "spatial_unpad"] = Field(
        default="spatial_unpad",
        description="anyres: flat: tile after tile; spatial: line by line across the tiles; spatial_unpad: so, without the "
        "lines that hold no picture, and each ended by a newline row",
    )
    max_tiles: PositiveInt | None = Field(
        default=None, description="anyres: a canvas with more rows than so many tiles have is shrunk to as many (anyres_max_N)"
    )
    rule: Literal["llava", "transformers"] = Field(
        default="llava",
        description="anyres: whose choice among equal canvases (they differ for about 6 % of picture sizes) and whose rounding",
    )
    several: Literal["same", "pad"] = Field(
        default="same", description="pad: where a sample has two or more pictures each is padded to one tile, as in LLaVA-NeXT"
    )
    resampler: Literal["torch", "pillow"] = Field(
        default="torch", description="torch: fast, within 2 of 255 of Pillow; pillow: the bytes of transformers' PIL processors"
    )
    video: Video | None = Field(default=None, description="default: clips are refused")

    @field_validator("mode", "merge", mode="before")
    @classmethod
    def _not_the_originals_word(cls, value: Any, info: ValidationInfo) -> Any:
        if hint := foreign_word(info.field_name or "", value):
            raise ValueError(hint)
        return value

    def options(self) -> TilingOptions:
        """The same for the tiler."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        video = None if self.video is None else VideoOptions(**self.video.model_dump())
        return TilingOptions(**{**values, "video": video})


class Model(Block):
    """The parts."""

    encoder: Part | tuple[Part, ...] = Field(description="one, or several side by side as one (features concatenated)")
    connector: Part
    language_model: Part
    template: Part = Field(description="how turns become text, unless a stage names its own")
    tiling: Tiling = Tiling()
    splicer: Part | str = Field(default="auto", description="auto: the best that runs here; or a splicer's name")
    loss: Part | str = Field(default="auto", description="auto: the best that runs here; or a loss's name")


class ComponentTraining(Block):
    """How one component trains."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat | None = Field(default=None, description="default: the optimizer's")


class Train(Block):
    """What trains. A component that is not named is frozen."""

    encoder: ComponentTraining | None = None
    connector: ComponentTraining | None = None
    language_model: ComponentTraining | None = None

    def components(self) -> dict[str, ComponentTraining]:
        """The trained components by name."""
        return {
            name: value for name in ("encoder", "connector", "language_model") if (value := getattr(self, name)) is not None
        }


class Quarantine(Block):
    """What to do about samples that cannot be used: they are written to quarantine.jsonl and counted."""

    budget: Fraction = Field(default=0.01, description="the run stops when more than this share of the samples seen is bad")
    free: int = Field(default=10, ge=0, description="so many bad samples are forgiven before the budget applies")


class Data(Block):
    """What a stage is trained on."""

    source: Part
    samples: PositiveInt | None = Field(
        default=None,
        description="how many samples the source is published to hold: `recipe plan` counts with it where the data is not here",
    )
    template: Part | None = Field(default=None, description="default: the model's")
    tiling: Tiling | None = Field(
        default=None, description="default: the model's (LLaVA 1.5 crops the centre in stage 1 and pads in stage 2)"
    )
    max_length: PositiveInt = Field(default=2048, description="positions of a sample, visual rows included")
    too_long: Literal["drop_turns", "drop_sample", "error"] = Field(
        "drop_turns", description="drop_turns keeps the first turns that fit; a sample is never cut inside a picture or a turn"
    )
    pictures: Literal["as_written", "first", "random"] = Field(
        default="as_written",
        description="as_written: where the source puts them; first: a question's only picture before its text; random: those "
        "of the first question before or after its text, by a coin, as the first LLaVA paper has it",
    )
    pack: bool = Field(default=False, description="several samples share a row of max_length, each seeing only itself")
    order: Literal["shuffled", "sequential"] = "shuffled"
    workers: int = Field(default=0, ge=0, description="processes that read, draw, cut and tokenise; 0: in the main process")
    quarantine: Quarantine = Quarantine()


class Optimizer(Block):
    """AdamW, or Muon on the matrices of blocks with AdamW on the rest (both torch's own)."""

    type: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    momentum: Fraction = Field(default=0.95, description="muon only")
    matrix_lr_scale: PositiveFloat = Field(
        default=1.0, description="muon only: the matrices' rate is the component's lr times this"
    )


class Schedule(Block):
    """The learning rate over the steps of a stage: linear warmup, then a decay to `final` times the peak."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction | None = Field(default=None, description="share of the steps")
    warmup_steps: int | None = Field(default=None, ge=0, description="instead of warmup")
    final: Fraction = 0.0


class Parallel(Block):
    """How a step is spread and what is kept in memory."""

    shard: PositiveInt = Field(
        default=1, description="over how many devices parameters are sharded; this version trains on one"
    )
    recompute: bool = Field(
        default=False, description="forget activations inside blocks and compute them again in the backward pass"
    )
    compile: Literal[False, True, "blocks", "step"] = Field(
        default=False,
        description="torch.compile the blocks (true, blocks), or the whole forward pass, loss included, as one graph (step)",
    )
    fixed_shapes: bool = Field(
        default=False, description="when packing: batches are filled up to few shapes, so that a step is compiled once"
    )


class Validation(Block):
    """A look at held-out samples on a schedule."""

    source: Part
    every: PositiveInt = Field(description="in steps")
    samples: PositiveInt = Field(default=256, description="the first so many of the source")
    generate: int = Field(default=2, ge=0, description="so many sample answers are written to the log")
    patience: PositiveInt | None = Field(default=None, description="stop after so many looks without a better loss")


class Checkpointing(Block):
    """What is kept, and how often it is written."""

    every: PositiveInt = Field(default=500, description="in steps; the last step is always kept")
    keep: PositiveInt = Field(default=2, description="how many of the latest to keep")
    best: bool = Field(default=True, description="keep the one with the lowest validation loss too")


class Stage(Block):
    """One stage of training. It starts from the stage before it unless `start_from` says otherwise."""

    train: Train
    data: Data
    start_from: str | None = Field(
        default=None,
        description="a stage's name, 'scratch', or a folder: a model of llava_kit, a LLaVA checkpoint of another program, a "
        "connector alone; default: the stage before",
    )
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = Field(default=None, description="instead of epochs")
    global_batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="samples (rows when packing) at once; default: all at once"
    )
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_norm: PositiveFloat | None = Field(description="largest gradient norm; null means no clipping, and must be said")
    precision: Literal["float32", "bfloat16"] = "float32"
    parallel: Parallel = Parallel()
    validate_on: Validation | None = Field(default=None, alias="validate")
    checkpoint: Checkpointing = Checkpointing()
    log_every: PositiveInt = 10


class Evaluate(Block):
    """What is asked of the finished model."""

    benchmark: Part
    batch_size: PositiveInt = 32
    max_new_tokens: PositiveInt = 32
    wrong_picture: bool = Field(
        default=True, description="ask everything again with another question's picture, to see if it looks"
    )


class Recipe(Block):
    """A run: data to prepare, parts, stages, evaluation."""

    recipe_version: Literal[1] = RECIPE_VERSION
    name: Name
    description: str = ""
    seed: int = 0
    threads: PositiveInt | None = Field(default=None, description="CPU threads; default: all cores")
    output: str = Field(default="runs", description="runs are written to <output>/<name>/<time>/")
    prepare: Steps = Field(default_factory=dict, description="the steps that make its data, in order; done once")
    model: Model
    stages: dict[Name, Stage] = Field(min_length=1)
    evaluate: Evaluate | None = None
