"""The picture world: pictures of coloured shapes with all that is said about them, and parts small enough to learn it on a CPU.

Nothing here is downloaded: pictures are drawn from a seed, the encoder and the language model start from random weights.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from llava_kit import Options, hookimpl


class ShapesVitOptions(Options):
    """Tiny vision transformer, trained from nothing."""

    image_size: PositiveInt = Field(48, description="side of a tile in pixels")
    patch_size: PositiveInt = Field(16, description="side of a patch in pixels; divides image_size")
    width: PositiveInt = 96
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    stem_width: PositiveInt = Field(128, description="hidden width of the MLP that reads a patch")

    @model_validator(mode="after")
    def _fits(self) -> ShapesVitOptions:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        _check_heads(self.width, self.heads)
        return self


class ShapesLMOptions(Options):
    """Tiny Llama- or Mistral-style language model with the world's own tokenizer, trained from nothing."""

    style: Literal["llama", "mistral"] = Field("llama", description="mistral: grouped key heads and a sliding window")
    width: PositiveInt = 96
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    key_heads_of_mistral: PositiveInt = Field(2, description="mistral only: divides heads")
    window_of_mistral: PositiveInt = Field(128, description="mistral only: how many positions back a position sees")
    expansion: float = Field(2.75, gt=0, description="hidden width of the gated MLP, in widths")

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.key_heads_of_mistral if self.style == "mistral" else self.heads

    @property
    def sliding_window(self) -> int | None:
        """How many positions a position sees, itself included; None: all before it."""
        return self.window_of_mistral if self.style == "mistral" else None

    @property
    def hidden_width(self) -> int:
        """Hidden width of the gated MLP, a multiple of 8."""
        return max(8, round(self.width * self.expansion / 8) * 8)

    @model_validator(mode="after")
    def _fits(self) -> ShapesLMOptions:
        _check_heads(self.width, self.heads)
        if (self.width // self.heads) % 2:
            raise ValueError(f"a head is {self.width // self.heads} wide; rotary positions need an even width")
        if self.heads % self.key_heads:
            raise ValueError(f"heads {self.heads} is no multiple of key_heads_of_mistral {self.key_heads}")
        return self


class Mix(Options):
    """How much of each kind an `instruct` source holds; the weights need not sum to one."""

    conversation: float = Field(default=0.8, ge=0)
    detail: float = Field(default=0.1, ge=0)
    reasoning: float = Field(default=0.1, ge=0)
    captions: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _holds_something(self) -> Mix:
        if not self.conversation + self.detail + self.reasoning + self.captions:
            raise ValueError("every weight of the mix is 0; give at least one kind a weight above 0")
        return self


class ShapesOptions(Options):
    """Pictures of coloured shapes, drawn from a seed, with captions, conversations, descriptions and reasoning."""

    task: Literal["captions", "instruct", "conversation", "detail", "reasoning", "questions"]
    split: Literal["train", "validation", "test"] = "train"
    size: PositiveInt = Field(20_000, description="how many samples; each has a picture of its own")
    seed: int = Field(0, ge=0)
    detail: Literal["plain", "fine"] = Field("plain", description="fine: larger pictures of smaller things")
    turns: PositiveInt = Field(default=7, description="conversation only: questions about a picture")
    mix: Mix = Field(default_factory=Mix, description="instruct only")
    annotations: bool = Field(default=False, description="give each sample its five captions and its boxes, for a teacher")


class ShapesQuestionsOptions(Options):
    """Held-out questions about pictures of shapes, six types, some on combinations never seen in training."""

    split: Literal["validation", "test"] = "test"
    size: PositiveInt = Field(2_400, description="how many questions, a sixth of each type")
    seed: int = Field(0, ge=0)
    detail: Literal["plain", "fine"] = "plain"


class ShapesTeacherOptions(Options):
    """Rule-based teacher of the picture world: offline, and never wrong; told captions and boxes alone, as GPT-4 was."""

    turns: PositiveInt = Field(default=8, description="conversation: at most so many questions about a picture")


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} is no multiple of heads {heads}")


def build_vit(options: ShapesVitOptions, *, weights: bool):
    """Return a `ShapesEncoder`; it has no pretrained weights, so `weights` changes nothing."""
    from .encoder import ShapesEncoder

    return ShapesEncoder(options)


def build_lm(options: ShapesLMOptions, *, weights: bool):
    """Return a `ShapesLM`; it has no pretrained weights, so `weights` changes nothing."""
    from .language_model import ShapesLM

    return ShapesLM(options)


def build_source(options: ShapesOptions):
    """Return a `ShapesSource`."""
    from .source import ShapesSource

    return ShapesSource(options)


def build_benchmark(options: ShapesQuestionsOptions):
    """Return a `ShapesQuestions`."""
    from .benchmark import ShapesQuestions

    return ShapesQuestions(options)


def build_teacher(options: ShapesTeacherOptions):
    """Return a `ShapesTeacher`."""
    from .teacher import ShapesTeacher

    return ShapesTeacher(options)


@hookimpl
def register_encoders(register):
    register("shapes_vit", options=ShapesVitOptions, build=build_vit)


@hookimpl
def register_language_models(register):
    register("shapes_lm", options=ShapesLMOptions, build=build_lm)


@hookimpl
def register_sources(register):
    register("shapes", options=ShapesOptions, build=build_source)


@hookimpl
def register_benchmarks(register):
    register("shapes", options=ShapesQuestionsOptions, build=build_benchmark)


@hookimpl
def register_teachers(register):
    register("shapes", options=ShapesTeacherOptions, build=build_teacher)
