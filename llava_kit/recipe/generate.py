"""The step `generate` of a recipe: what is read, who is asked for what, how fast, for how much, and where it goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from ..core.teacher import RESPONSE_TYPES, ResponseType
from ..errors import suggest
from .blocks import Block, NonNegativeFloat, Part

# 58K conversations, 23K descriptions and 77K of reasoning: the shares of LLaVA-Instruct-158K (LLaVA, section 3).
PAPER_SHARES: dict[str, int | float] = {"conversation": 58 / 158, "detail": 23 / 158, "reasoning": 77 / 158}

# Short enough for the picture world, whose answers are single words; a language model writes ten times as much.
MIN_WORDS: dict[ResponseType, int] = {"conversation": 2, "detail": 10, "reasoning": 6}

Amount = Annotated[int | float, Field(ge=0)]


class Price(Block):
    """What a teacher costs, in the currency of your bill, for each million tokens."""

    input: NonNegativeFloat
    output: NonNegativeFloat


class Judging(Block):
    """What an answer must be like; one that is not is kept aside with its reason."""

    min_words: dict[ResponseType, int] = Field(
        default_factory=lambda: dict(MIN_WORDS),
        description="words of all answers of a conversation together, of a description, of the answer of a reasoning",
    )
    min_turns: PositiveInt = Field(default=2, description="conversation: question-answer pairs")
    max_words: PositiveInt = Field(default=2000, description="of a whole answer: more is a teacher that lost its way")
    duplicates: str = Field(
        default="run",
        pattern="^(run|picture|keep)$",
        description="a text that stood before, punctuation aside, is dropped: anywhere, at this picture, or never",
    )
    reveals: bool = Field(default=True, description="reasoning: drop questions that share four words in a row with a caption")

    @field_validator("min_words")
    @classmethod
    def _all_types(cls, value: dict[ResponseType, int]) -> dict[ResponseType, int]:
        if any(number < 1 for number in value.values()):
            raise ValueError("expected at least 1 word")
        return {**MIN_WORDS, **value}


class Generate(Block):
    """Training conversations about pictures, written by a text-only teacher from captions and boxes."""

    source: Part = Field(description="pictures with captions (and boxes): coco, caps_boxes, shapes, llava_json, ...")
    teacher: Part = Field(default_factory=lambda: Part(type="shapes"), description="who writes: shapes (offline) or openai")
    to: str = Field(min_length=1, description="the folder of this work; the same folder goes on where it stopped")
    types: dict[str, Amount] = Field(
        default_factory=lambda: dict(PAPER_SHARES),
        description="how many answers of each type: whole numbers; or shares with a point that sum to 1 (1.0: all of them)",
    )
    per_picture: PositiveInt = Field(default=1, description="with shares: answers for each picture")
    samples: PositiveInt | None = Field(default=None, description="only the first so many samples of the source")
    prompts: str | None = Field(default=None, description="a folder with prompts of your own; default: the built-in ones")
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = Field(default=1024, description="the longest answer")
    seed: int = Field(default=0, ge=0)
    concurrency: PositiveInt = Field(default=8, description="requests at the same time, at most")
    requests_per_minute: PositiveFloat | None = None
    tokens_per_minute: PositiveFloat | None = Field(default=None, description="of prompts and answers")
    tries: PositiveInt = Field(default=6, description="how often a request is sent before it is given up in this run")
    backoff: PositiveFloat = Field(default=1.0, description="seconds before the second try; doubled for each one after it")
    timeout: PositiveFloat = Field(default=120.0, description="seconds for one try")
    price: Price | None = None
    max_cost: PositiveFloat | None = Field(default=None, description="ask no more when this would be passed; needs price")
    repair: int = Field(default=0, ge=0, le=1, description="1: an answer that is not taken is asked for once more, saying why")
    annotations: bool = Field(default=True, description="keep captions and boxes in the rows that are written")
    judge: Judging = Field(default_factory=Judging)

    @field_validator("types")
    @classmethod
    def _known(cls, value: dict[str, int | float]) -> dict[str, int | float]:
        for name in value:
            if name not in RESPONSE_TYPES:
                raise ValueError(f"there is no type {name!r}; {suggest(name, RESPONSE_TYPES)}")
        total = sum(value.values())
        if not total:
            raise ValueError("expected at least one type with a share or a number above 0")
        if _are_shares(value):
            if any(amount > 1 for amount in value.values()):
                raise ValueError("found shares and numbers mixed; expected shares that sum to 1, or whole numbers of answers")
            if abs(total - 1) > 0.01:
                raise ValueError(f"the shares sum to {total:g}; expected 1, or whole numbers of answers")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Generate:
        if self.max_cost is not None and self.price is None:
            raise ValueError("max_cost needs `price: {input, output}`, per million tokens: without it no cost is known")
        if not _are_shares(self.types) and self.per_picture != 1:
            raise ValueError("per_picture goes with shares; `types` already says how many answers are wanted")
        return self

    def counts(self, pictures: int) -> dict[ResponseType, int]:
        """How many answers of each type are wanted of so many pictures; shares by largest remainder."""
        amounts: dict[ResponseType, float] = {name: self.types.get(name, 0.0) for name in RESPONSE_TYPES}
        if not _are_shares(self.types):
            return {name: int(amounts[name]) for name in RESPONSE_TYPES}
        total, whole = pictures * self.per_picture, sum(amounts.values())
        exact: dict[ResponseType, float] = {name: total * amounts[name] / whole for name in RESPONSE_TYPES}
        counts: dict[ResponseType, int] = {name: int(exact[name]) for name in RESPONSE_TYPES}
        rest = sorted(RESPONSE_TYPES, key=lambda name: (counts[name] - exact[name], RESPONSE_TYPES.index(name)))
        for name in rest[: total - sum(counts.values())]:
            counts[name] += 1
        return counts

    @property
    def wanted(self) -> tuple[ResponseType, ...]:
        """The types of which there is anything to write."""
        return tuple(name for name in RESPONSE_TYPES if self.types.get(name))


def _are_shares(types: dict[str, int | float]) -> bool:
    """Whether the amounts are shares: `1` is one answer, `1.0` is all of them."""
    return any(isinstance(amount, float) for amount in types.values())
