"""The step `filter_captions` of a recipe: which captions, how many of each phrase, paired how, written where. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from .blocks import Block, Part

Pair = Literal["brief", "detailed", "none"]


class FilterCaptions(Block):
    """Captions chosen by how often their noun phrases are said, as CC-595K was made of CC3M, and paired with instructions."""

    source: Part = Field(description="pictures with captions: conceptual captions, coco, shapes, llava_json, ...")
    to: str = Field(min_length=1, description="the folder of this work; the same folder goes on where it stopped")
    finder: str = Field(default="textblob", description="who finds noun phrases: textblob, or spacy:<model> as in the paper")
    least: PositiveInt = Field(default=3, description="phrases of fewer captions are skipped (LLaVA, appendix: 3)")
    most: PositiveInt = Field(default=100, description="of a phrase with more captions, so many by chance (the paper: 100)")
    pair: Pair = Field(default="brief", description="the instruction before a caption: a brief or a detailed one, or none")
    pictures: Literal["keep", "copy"] = Field(default="keep", description="keep: rows name the pictures where they are")
    max_letters: PositiveInt = Field(default=4000, description="a longer caption is no caption; it is kept aside")
    seed: int = Field(default=0, ge=0, lt=2**63)
    limit: PositiveInt | None = Field(default=None, description="the first so many samples; default: all")
    workers: PositiveInt | None = Field(default=None, description="processes that find phrases; default: one for each core")

    @model_validator(mode="after")
    def _fits(self) -> FilterCaptions:
        if self.least > self.most:
            raise ValueError(
                f"least is {self.least} and most is {self.most}: expected least <= most (a phrase of fewer captions than "
                "`least` is skipped, of one with more than `most` a part is taken; the paper has 3 and 100)"
            )
        return self
