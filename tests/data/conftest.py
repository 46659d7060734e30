"""A drawn source, a template and a maker small enough to make thousands of examples."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.data.example import ExampleMaker
from llava_kit.errors import SampleError
from llava_kit.image.tiling import Tiler, TilingOptions
from llava_kit.testing.tokenizers import CHATML, sentencepiece_tokenizer, tokenizer_variants
from llava_kit_templates.formats import FORMATS

SPEC = EncoderSpec(8, Grid(2, 2), 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ANYRES = TilingOptions("anyres", ((8, 16), (16, 8), (16, 16)))


def draw(size: tuple[int, int], colour: int) -> np.ndarray:
    return np.full((size[1], size[0], 3), colour, np.uint8)


def picture(size: tuple[int, int] = (8, 8), colour: int = 7) -> ImagePixels:
    return ImagePixels(partial(draw, size, colour), size)


def talk(*texts: str, pictures: int = 0) -> Conversation:
    """Turns in order, the user first; the pictures stand before the first text."""
    messages = []
    for turn, text in enumerate(texts):
        shown = [part for index in range(pictures) for part in (ImageSlot(index), "\n")] if turn == 0 else []
        messages.append(Message("assistant" if turn % 2 else "user", (*shown, text)))
    return Conversation(tuple(messages))


class DrawnSource(DataSource):
    """Sample i has i % 3 pictures and answers of growing length; every number in `bad` is refused."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()):
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise SampleError("missing_image", "there is no such file", sample_id=f"s{index}")
        pictures = tuple(picture((8 + index % 5, 8), index % 256) for _ in range(index % 3))
        answer = "A cat sits on the mat. " * (index % 7) + f"Number {index}."
        return Sample(f"s{index}", talk("What is it?", answer, pictures=len(pictures)), pictures)

    def fingerprint(self) -> str:
        return f"drawn:{self.count}"


@pytest.fixture(scope="session")
def tokenizers():
    return tokenizer_variants()


@pytest.fixture(scope="session")
def tokenizer():
    return sentencepiece_tokenizer(specials=CHATML)


@pytest.fixture
def make_maker(tokenizer):
    def build(template: str = "v1", *, max_length: int = 4096, too_long: str = "drop_turns", tiling=ANYRES) -> ExampleMaker:
        return ExampleMaker(FORMATS[template], tokenizer, Tiler(SPEC, tiling), SPEC.grid, max_length, too_long)

    return build
