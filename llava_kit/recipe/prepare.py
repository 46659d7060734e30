"""The steps by which a recipe's data are made, and recipes that do nothing else. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from .blocks import Block, Name, Part
from .filter_captions import FilterCaptions
from .generate import Generate

PREPARE = "prepare"
"""The key under which the steps stand."""


class Convert(Block):
    """Samples of any source written as rows and pictures."""

    source: Part
    to: str = Field(description="the folder that is made")
    form: Literal["llava", "jsonl", "messages", "parquet", "webdataset"] = Field(
        default="llava", description="as in `llava-kit data convert --to`"
    )
    image_root: str | None = Field(
        default=None, description="leave pictures where they are, and call them by their paths under this folder; default: copy"
    )
    limit: PositiveInt | None = Field(default=None, description="the first so many samples; default: all")
    workers: PositiveInt | None = Field(default=None, description="default: one for each core")


class Check(Block):
    """Every mistake in the data of a source; errors end the preparation."""

    source: Part
    against: tuple[Part, ...] = Field(default=(), description="held-out data that must not be among them")
    report: str = Field(description="the JSON file that says what was found")
    strict: bool = Field(default=False, description="warnings end the preparation too")
    allow: tuple[str, ...] = Field(default=(), description="reasons that end nothing")
    workers: PositiveInt | None = Field(default=None, description="default: one for each core")


class Step(Block):
    """One step: what is done is the name of its only key."""

    convert: Convert | None = None
    check: Check | None = None
    generate: Generate | None = None
    filter_captions: FilterCaptions | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Step:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise ValueError(f"expected one of {', '.join(type(self).model_fields)}, found {found}")
        return self

    @property
    def action(self) -> str:
        """The name of the key that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


Steps = dict[Name, Step]


class DataRecipe(Block):
    """A recipe that makes data and trains nothing."""

    recipe_version: Literal[1] = 1
    name: Name
    description: str = ""
    prepare: Steps = Field(min_length=1, description="the steps, in order")
