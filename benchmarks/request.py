"""Row C4: from a question and the bytes of a JPEG to what the model takes, against LlavaProcessor and LlavaNextProcessor.

Ours is the path of chat and evaluation: a sample, `ExampleMaker.make(reply=True)`, `collate`, and the encoder's normalisation,
so that both sides end with float32 pixels. The peers repeat the place of the picture in the text and tokenise that; we tokenise
it once and count. N tiles of 336 x 336. The prompt is `USER: <image>`, a line of twelve words, ` ASSISTANT:`; the tokenizer
that of row C3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from llava_kit.core.conversation import Conversation, ImageBytes, ImageSlot, Message, Sample
from llava_kit.data.collate import Batch, collate
from llava_kit.data.example import ExampleMaker
from llava_kit.image.tiling import Tiler, TilingOptions
from llava_kit_templates.formats import FORMATS

from .common import Report, parse_arguments, steady
from .photos import jpeg
from .preprocess import (
    AS_BYTES,
    LIST_PINPOINTS,
    NORMALISER,
    PINPOINTS,
    SPEC,
    TILES,
    Ways,
    apart,
    by_pillow,
    check_pixels,
    geometric_means,
    opened,
    time_ways,
)
from .tokenise import pseudo_words, sentence, train_tokenizer

SIZES = ((640, 480), (1024, 768))
WORDS = 12
MAX_LENGTH, VOCAB = 4096, 8192
# As the processors of llava-1.5 and of llava-v1.6 are saved.
ROWS = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def make_batch(data: bytes, question: str, maker: ExampleMaker) -> Batch:
    messages = (Message("user", (ImageSlot(0), "\n" + question)),)
    sample = Sample("request", Conversation(messages, system=""), (ImageBytes(data),))
    return collate([maker.make(sample, reply=True)], side=SPEC.grid, vocab=VOCAB, tile_multiple=1)


def ours(data: bytes, question: str, maker: ExampleMaker) -> tuple[Batch, Tensor]:
    """The batch, and its tiles as float32 [N, 3, 336, 336]."""
    batch = make_batch(data, question, maker)
    return batch, NORMALISER(batch.tiles)


def theirs(data: bytes, question: str, processor: Any) -> Any:
    return processor(images=opened(data), text=f"USER: <image>\n{question} ASSISTANT:", return_tensors="pt")


def same_ids(batch: Batch, input_ids: Tensor, image_token: int) -> bool:
    """Every token at the same place, and a visual or newline row wherever the peer has its image token."""
    shown = input_ids[0] == image_token
    plan = batch.plan
    seats = torch.cat([plan.visual_positions, plan.newline_positions]).sort().values
    return (
        plan.shape == tuple(input_ids.shape)
        and torch.equal(plan.text_ids, input_ids[0][~shown])
        and torch.equal(plan.text_positions, torch.nonzero(~shown)[:, 0])
        and torch.equal(seats, torch.nonzero(shown)[:, 0])
    )


def compare(
    report: Report, name: str, maker: ExampleMaker, processor: Any, exact: Any, question: str, target: float, rounds: int
):
    """One kind of model: ours against `processor` in time and ids, against the image processor `exact` in pixels."""
    label = f"{name} / ours"
    peers = {label: ("ours", name)} | {f"{label} {how}": (f"ours {how}", name) for how in ("by Pillow", "to uint8")}
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    equal, pairs, ratios = True, [], []
    for size in SIZES:
        data = jpeg(*size)
        batch, peer = make_batch(data, question, maker), theirs(data, question, processor)
        equal &= same_ids(batch, peer["input_ids"], image_token)
        pixels = exact(opened(data), return_tensors="np")["pixel_values"]
        pairs.append(apart(batch.tiles.numpy(), pixels.reshape(-1, *pixels.shape[-3:])))
        ways: Ways = {
            "ours": lambda data=data: ours(data, question, maker),
            name: lambda data=data: theirs(data, question, processor),
            "ours by Pillow": by_pillow(lambda data=data: ours(data, question, maker)),
            "ours to uint8": lambda data=data: make_batch(data, question, maker),
        }
        ratios.append(time_ways(report, f"{name} {size[0]}x{size[1]}", ways, rounds, peers))
    geometric_means(report, ratios, {way: target if way == label else None for way in peers})
    check_pixels(report, name, pairs)
    report.claim(f"token ids and the places of visual rows equal those of {name}", equal)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    rounds = arguments.rounds or 15
    steady()
    random = np.random.default_rng(0)
    words = pseudo_words(random)
    tokenizer = train_tokenizer(random, words)
    question = sentence(random, words, WORDS)
    report = Report("C4", "requests a second: question and bytes of a JPEG to model inputs")

    def maker(**options: Any) -> ExampleMaker:
        return ExampleMaker(FORMATS["v1"], tokenizer, Tiler(SPEC, TilingOptions(**options)), SPEC.grid, MAX_LENGTH)

    processor = LlavaProcessor(CLIPImageProcessor(**TILES), tokenizer, **ROWS)
    exact = CLIPImageProcessorPil(**TILES, **AS_BYTES)
    compare(report, "LlavaProcessor", maker(mode="square"), processor, exact, question, 2.0, rounds)
    processor = LlavaNextProcessor(LlavaNextImageProcessor(**TILES, image_grid_pinpoints=LIST_PINPOINTS), tokenizer, **ROWS)
    exact = LlavaNextImageProcessorPil(**TILES, **AS_BYTES, image_grid_pinpoints=LIST_PINPOINTS)
    anyres = maker(mode="anyres", pinpoints=PINPOINTS, rule="transformers")
    compare(report, "LlavaNextProcessor", anyres, processor, exact, question, 2.5, rounds)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
