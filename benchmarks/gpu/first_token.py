"""Row G5: from the bytes of a JPEG to the first token of the answer on the host, LLaVA-1.5-7B, one request at a time.

Ours is the path of chat (`Responder.stream`), the peer LlavaProcessor, `.to("cuda")` and `generate(max_new_tokens=1)` in
bfloat16 with SDPA. A picture of 640 x 480 pixels, 64 tokens of text. Random weights, the same tensors for both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.llava.processing_llava import LlavaProcessor

from llava_kit.chat.responder import Responder
from llava_kit.core.conversation import Conversation, ImageBytes, ImageSlot, Message, Sample
from llava_kit.data.collate import collate
from llava_kit.data.example import ExampleMaker
from llava_kit.image.tiling import Tiler, TilingOptions
from llava_kit.model.sampling import Sampling
from llava_kit_templates.formats import FORMATS

from ..photos import jpeg
from ..preprocess import opened
from ..tokenise import pseudo_words, sentence, train_tokenizer
from .common import Row, keep_trace, parse_arguments, relative_error, wall_times
from .models import LLAVA_7B, TINY, make_model, make_peer

TEXT, REQUESTS, WARM_UP = 64, 20, 5


def make_question(random: np.random.Generator, tokenizer: Any, tokens: int) -> str:
    """Words whose prompt comes nearest to `tokens` tokens from below, picture left out."""
    words = pseudo_words(np.random.default_rng(0))
    texts = [sentence(random, words, count) for count in range(1, tokens)]
    sizes = [len(tokenizer(f"USER: \n{text} ASSISTANT:")["input_ids"]) for text in texts]
    return texts[max((size, number) for number, size in enumerate(sizes) if size <= tokens)[1]]


class Request:
    """The same question and picture as each side takes them."""

    def __init__(self, row: Row):
        sizes = LLAVA_7B if not row.tiny else TINY
        random = np.random.default_rng(0)
        self.row = row
        self.tokenizer = train_tokenizer(random, pseudo_words(random))
        self.question = make_question(random, self.tokenizer, TEXT)
        self.data = jpeg(640, 480)
        self.model = make_model(row, sizes).eval().requires_grad_(False)
        self.peer = make_peer(row, sizes, self.model).eval()
        spec = self.model.encoder.spec
        tiler = Tiler(spec, TilingOptions(mode="square"))
        self.maker = ExampleMaker(FORMATS["v1"], self.tokenizer, tiler, spec.grid, 4096)
        self.responder = Responder(self.model, self.maker)
        size = sizes.vision["image_size"]
        pictures = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        rows = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        self.processor: Any = LlavaProcessor(pictures, self.tokenizer, **rows)
        # The tokenizer's own image token is what the processor writes.
        self.peer.config.image_token_index = self.peer.config.image_token_id = self.image_token
        self.peer.model.config.image_token_id = self.image_token

    @property
    def image_token(self) -> int:
        tokenizer: Any = self.tokenizer
        return tokenizer.convert_tokens_to_ids("<image>")

    def sample(self) -> Sample:
        message = Message("user", (ImageSlot(0), "\n" + self.question))
        return Sample("request", Conversation((message,), system=""), (ImageBytes(self.data),))

    def ours(self) -> str:
        """The request; the piece of text comes after the token was read."""
        return "".join(self.responder.stream(self.sample(), Sampling(max_new_tokens=1)))

    def inputs(self) -> Any:
        text = f"USER: <image>\n{self.question} ASSISTANT:"
        inputs = self.processor(images=opened(self.data), text=text, return_tensors="pt")
        return inputs.to(self.row.device, self.row.dtype)

    @torch.inference_mode()
    def theirs(self) -> int:
        found: Any = self.peer.generate(**self.inputs(), max_new_tokens=1, do_sample=False, eos_token_id=None, pad_token_id=0)
        return int(found[0, -1])


def check(row: Row, request: Request) -> None:
    """The same token ids with rows of the picture at the same places, and the same scores of the first token."""
    example = request.maker.make(request.sample(), reply=True)
    vocab = request.model.language_model.embedding.shape[0]
    batch = collate([example], side=request.maker.side, vocab=vocab, tile_multiple=1)
    inputs = request.inputs()
    ids = inputs["input_ids"][0].cpu()
    shown = ids == request.image_token
    row.report.figure("tokens of text", int((~shown).sum()))
    plan = batch.plan
    same = torch.equal(plan.text_ids, ids[~shown]) and torch.equal(plan.visual_positions, torch.nonzero(shown)[:, 0])
    row.report.claim("token ids and the places of visual rows equal those of LlavaProcessor", same)
    there = batch.to(row.device)
    with torch.inference_mode():
        rows = request.model.embed(there.tiles, there.plan)
        hidden = request.model.language_model(rows, there.position_ids)[:, -1]
        ours = request.model.language_model.logits(hidden)[0].float()
        theirs = request.peer(**inputs, logits_to_keep=1).logits[0, -1].float()
    # Pixels may differ by 2 levels of 255 (row C4), and bfloat16 rounds at every layer.
    apart = relative_error(ours, theirs)
    row.report.claim(f"scores of the first token differ by at most 10 % of their size ({apart:.1e})", apart <= 0.1)


def run(row: Row) -> None:
    request = Request(row)
    check(row, request)
    functions: dict[str, Callable[[], Any]] = {"ours": request.ours, "transformers": request.theirs}
    for function in functions.values():
        for _ in range(WARM_UP if not row.tiny else 1):
            function()
    times = wall_times(row, functions, calls=1, rounds=REQUESTS)
    for name, measured in times.items():
        row.report.figure(f"{name}, median", measured.median * 1e3, "ms", at_most=22 if name == "ours" else None)
        row.report.figure(f"{name}, minimum", measured.minimum * 1e3, "ms")
    ratio = times["transformers"].median / times["ours"].median
    row.report.figure("transformers / ours", ratio, "x", at_least=1.5)
    example = wall_times(row, {"example": lambda: request.maker.make(request.sample(), reply=True)}, calls=1, rounds=REQUESTS)
    row.report.figure("of which on the host: picture and prompt", example["example"].median * 1e3, "ms")
    for name, function in functions.items():
        keep_trace(row, name, function)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv, seconds=60)
    row = Row("G5", "first token, 7B", arguments)
    row.part("LLaVA-1.5-7B", run, row)
    return row.finish()


if __name__ == "__main__":
    sys.exit(main())
