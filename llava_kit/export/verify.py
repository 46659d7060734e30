"""The exported folder, loaded in plain transformers and compared with the model it was made of.

Both sides are given the same token ids, with our pictures' rows spread out as image tokens, and the same pixels: what differs
is the weights, or what the classes do with them. Whether transformers' own processor makes the same ids and pixels of a
question is told apart: a template that tokenises in chunks, or another resampling, may rightly differ. S positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.utils import logging as transformers_logging

from .. import __version__
from ..assemble.parts import Assembly
from ..core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from ..core.tiles import TileGrid
from ..data.collate import collate
from ..data.example import Example, ExampleMaker
from ..errors import CheckpointError, SampleError, first_line, shorten
from ..recipe.schema import Tiling
from ..splice.build import IMAGE
from ..splice.layout import count_rows
from .vocabulary import IMAGE_TOKEN

FLOAT32_BOUND = 1e-4
# Two ways through the same network in a shorter type differ by a few roundings of its activations, each of half an epsilon.
ROUNDINGS = 8
NEW_TOKENS = 8
MAX_LENGTH = 1 << 20

# (width, height) of the pictures of each case; extreme ratios leave AnyRes the least to keep. With LLaVA-NeXT's canvases none
# takes more than the 4096 positions of a Vicuna.
CASES: dict[str, tuple[tuple[int, int], ...]] = {
    "text only": (),
    "one picture": ((640, 427),),
    "several pictures": ((300, 300), (120, 200), (200, 120)),
    "very wide": ((1500, 90),),
    "very tall": ((70, 1100),),
}


@dataclass(frozen=True)
class CaseResult:
    """One question. `same_ids`, `pixel_difference` (of 255) and `same_rows` are about transformers' processor; None: not asked.

    logit_difference  the largest, over every position of the prompt
    largest_logit     of ours, for scale
    same_tokens       greedy tokens agree
    """

    name: str
    positions: int
    logit_difference: float
    largest_logit: float
    same_tokens: bool
    same_ids: bool | None = None
    same_rows: bool | None = None
    pixel_difference: float | None = None


@dataclass(frozen=True)
class Verification:
    """What came of it. `bound` holds for the largest difference; in float32 greedy tokens must agree, too."""

    against: str
    dtype: str
    bound: float
    new_tokens: int
    cases: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        exact = self.dtype == "float32"
        return all(case.logit_difference <= self.bound and (case.same_tokens or not exact) for case in self.cases)

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that is none (NaN, infinite) as its name, since JSON has no word for it."""
        found = asdict(self)
        for case in found["cases"]:
            for key, value in case.items():
                if isinstance(value, float) and not math.isfinite(value):
                    case[key] = str(value)
        return {**found, "passed": self.passed}


@torch.inference_mode()
def verify_in_transformers(assembly: Assembly, folder: Path, *, new_tokens: int = NEW_TOKENS) -> Verification:
    """Compare `assembly` with the transformers folder made of it. Both models are in memory at once.

    Raises `CheckpointError` when transformers cannot load the folder, or cannot run it.
    """
    device = assembly.model.device
    was_training = assembly.model.training
    assembly.model.eval()
    try:
        theirs = _load(folder, device)
        processor = transformers.AutoProcessor.from_pretrained(folder)
        maker = _maker(assembly)
        results = [_compare(assembly, maker, theirs, processor, name, new_tokens) for name in CASES]
    except (SampleError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder}: transformers {transformers.__version__} cannot run the exported folder: {first_line(error)}"
        ) from error
    finally:
        assembly.model.train(was_training)
    bound = _bound(theirs.dtype, results)
    return Verification(f"transformers {transformers.__version__}", _told(theirs.dtype), bound, new_tokens, tuple(results))


@torch.inference_mode()
def verify_again(
    assembly: Assembly, folder: Path, reader: Callable[..., Assembly], *, new_tokens: int = NEW_TOKENS
) -> Verification:
    """Compare `assembly` with what our own reader makes of the folder, for formats that transformers does not read.

    Raises `CheckpointError` when the folder cannot be read, or a weight in it is not the one that was to be written.
    """
    again = reader(folder, device=assembly.model.device)
    dtype = again.model.language_model.embedding.dtype
    _compare_weights(assembly, again, folder, dtype)
    was_training = assembly.model.training
    assembly.model.eval()
    try:
        maker, theirs, results = _maker(assembly), _maker(again), []
        for name in CASES:
            sample = _sample(name)
            example, other = maker.make(sample, reply=True), theirs.make(sample, reply=True)
            ours, tokens = _ask_ours(assembly, example, new_tokens)
            logits, generated = _ask_ours(again, example, new_tokens)
            results.append(
                CaseResult(
                    name=name,
                    positions=len(ours),
                    logit_difference=float((logits - ours).abs().max()),
                    largest_logit=float(ours.abs().max()),
                    same_tokens=generated == tokens,
                    same_ids=example.seating.token_ids.tolist() == other.seating.token_ids.tolist(),
                    same_rows=example.length - len(example.seating.token_ids) == other.length - len(other.seating.token_ids),
                    pixel_difference=_byte_difference(example.tiles, other.tiles) if sample.images else None,
                )
            )
    finally:
        assembly.model.train(was_training)
    return Verification(f"llava_kit {__version__}", _told(dtype), _bound(dtype, results), new_tokens, tuple(results))


def _compare_weights(ours: Assembly, theirs: Assembly, folder: Path, dtype: torch.dtype) -> None:
    wanted, found = ours.model.state_dict(), theirs.model.state_dict()
    wrong = [f"tensor {name!r} is not there" for name in wanted.keys() - found.keys()]
    for name in wanted.keys() & found.keys():
        if wanted[name].shape != found[name].shape:
            wrong.append(f"tensor {name!r}: {tuple(found[name].shape)} is not {tuple(wanted[name].shape)}")
        elif not torch.equal(wanted[name].to(dtype), found[name].to(dtype)):
            wrong.append(f"tensor {name!r} has other values")
    if wrong:
        raise CheckpointError(f"{folder}: what was read back is not what was written: {shorten(sorted(wrong))}")


def _byte_difference(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    if ours.shape != theirs.shape:
        return None
    return float(np.abs(ours.astype(int) - theirs).max(initial=0))


def _bound(dtype: torch.dtype, results: Sequence[CaseResult]) -> float:
    largest = max(case.largest_logit for case in results)
    return FLOAT32_BOUND if dtype == torch.float32 else ROUNDINGS * torch.finfo(dtype).eps * max(1.0, largest)


def _told(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _load(folder: Path, device: torch.device) -> Any:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False
        )
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    return model.to(device).eval()  # type: ignore[arg-type]


def _maker(assembly: Assembly) -> ExampleMaker:
    """Ours, cutting every picture of a sample in the same way: transformers has no other."""
    block = assembly.recipe_model
    tiling = None
    if block is not None and block.tiling.several != "same":
        tiling = Tiling.model_validate({**block.tiling.model_dump(), "several": "same"})
    return assembly.examples(tiling=tiling, max_length=MAX_LENGTH, too_long="error")


def _sample(name: str) -> Sample:
    pictures = tuple(_picture(size, number) for number, size in enumerate(CASES[name]))
    slots = [part for number in range(len(pictures)) for part in (ImageSlot(number), "\n")]
    text = "What is shown here?" if pictures else "What is a llava made of?"
    return Sample(name, Conversation((Message("user", (*slots, text)),)), pictures)


def _picture(size: tuple[int, int], seed: int) -> ImagePixels:
    """Coloured waves and some noise: smooth as photographs are, with edges."""
    width, height = size
    x, y = np.linspace(0, 9, width)[None, :, None], np.linspace(0, 7, height)[:, None, None]
    waves = 127 + 90 * np.sin(x * (1 + np.arange(3)) + seed) * np.cos(y + np.arange(3))
    noise = np.random.default_rng(seed).integers(-30, 30, (height, width, 3))
    pixels = np.clip(waves + noise, 0, 255).astype(np.uint8)
    return ImagePixels(lambda: pixels, size)


def _compare(assembly: Assembly, maker: ExampleMaker, theirs: Any, processor: Any, name: str, new_tokens: int) -> CaseResult:
    sample = _sample(name)
    example = maker.make(sample, reply=True)
    ours, tokens = _ask_ours(assembly, example, new_tokens)
    inputs = _inputs(assembly, example, theirs)
    # The vocabulary of theirs may be longer: rows for the image token.
    vocab = ours.shape[-1]
    logits = theirs(**inputs).logits[0, :, :vocab].float()
    generated = _greedy(theirs, inputs, new_tokens, vocab)
    difference = float((logits - ours).abs().max())
    return CaseResult(
        name=name,
        positions=len(ours),
        logit_difference=difference,
        largest_logit=float(ours.abs().max()),
        same_tokens=generated == tokens,
        **_compare_processor(assembly, processor, sample, inputs),
    )


def _ask_ours(assembly: Assembly, example: Example, new_tokens: int) -> tuple[Tensor, list[int]]:
    """Logits of every position, float32 [S, vocab], and the greedy tokens that follow."""
    model = assembly.model
    part = model.language_model
    batch = collate([example], side=assembly.side, vocab=part.embedding.shape[0]).to(model.device)
    rows = model.embed(batch.tiles, batch.plan)
    logits = part.logits(part(rows, batch.position_ids, sequences=batch.plan.sequences))[0].float()
    length = rows.shape[1]
    cache = part.new_cache(1, length + new_tokens)
    tokens: list[int] = []
    positions = batch.position_ids
    for step in range(new_tokens):
        hidden = part(rows, positions, cache=cache)[:, -1]
        tokens.append(int(part.logits(hidden).argmax()))
        rows = part.embedding[torch.tensor([tokens[-1:]], device=rows.device)]
        positions = torch.tensor([[length + step]], device=rows.device)
    return logits, tokens


def _inputs(assembly: Assembly, example: Example, theirs: Any) -> dict[str, Tensor]:
    """Our ids and pixels as transformers' model takes them."""
    seating, encoder = example.seating, assembly.model.encoder
    widths = iter(count_rows(grid, assembly.side) for grid in seating.grids)
    image = theirs.config.image_token_id
    ids = [new for token in seating.token_ids.tolist() for new in ([image] * next(widths) if token == IMAGE else [token])]
    device = theirs.device
    inputs = {"input_ids": torch.tensor([ids], device=device)}
    if seating.grids:
        pixels = encoder.normalise(torch.from_numpy(example.tiles).to(device), theirs.dtype)
        counts = [grid.num_tiles for grid in seating.grids]
        if theirs.config.model_type == "llava_next":
            parts = pixels.split(counts)
            padded = [torch.nn.functional.pad(part, (0,) * 7 + (max(counts) - len(part),)) for part in parts]
            pixels = torch.stack(padded)
            sizes = [(grid.size[1], grid.size[0]) for grid in seating.grids if isinstance(grid, TileGrid)]
            inputs["image_sizes"] = torch.tensor(sizes, device=device)
        inputs["pixel_values"] = pixels
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


def _greedy(theirs: Any, inputs: dict[str, Tensor], new_tokens: int, vocab: int) -> list[int]:
    """transformers' own greedy generation, going on after an end as ours does."""
    found = theirs.generate(**inputs, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens, eos_token_id=None)
    return found[0, inputs["input_ids"].shape[1] :].tolist()


def _compare_processor(assembly: Assembly, processor: Any, sample: Sample, ours: dict[str, Tensor]) -> dict[str, Any]:
    """What transformers' processor makes of the same question."""
    if processor.chat_template is None:
        return {}
    message = sample.conversation.messages[0]
    content: list[dict[str, str]] = [{"type": "image"} for _ in sample.images]
    content.append({"type": "text", "text": message.text.lstrip("\n")})
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pictures = [np.asarray(image.render()) for image in sample.images if isinstance(image, ImagePixels)]
    theirs = processor(text=prompt, images=pictures or None, return_tensors="pt", **_no_second_start(processor, prompt))
    result: dict[str, Any] = {"same_ids": theirs["input_ids"].tolist() == ours["input_ids"].tolist()}
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    result["same_rows"] = int((theirs["input_ids"] == image).sum()) == int((ours["input_ids"] == image).sum())
    if pictures:
        result["pixel_difference"] = _pixel_difference(assembly, theirs["pixel_values"], ours["pixel_values"])
    return result


def _no_second_start(processor: Any, prompt: str) -> dict[str, bool]:
    """A prompt that begins with the beginning-of-sequence token gets no second one."""
    start = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if start and prompt.startswith(start) else {}


def _pixel_difference(assembly: Assembly, theirs: Tensor, ours: Tensor) -> float | None:
    """The largest difference of pixels, of 255; None where the shapes differ already."""
    if theirs.shape != ours.shape:
        return None
    scale = 255 * torch.tensor(assembly.model.encoder.spec.std).view(3, 1, 1)
    return float(((theirs.float() - ours.float().cpu()).abs() * scale).max())


def told_verification(found: Verification) -> Sequence[Sequence[str]]:
    """The table for people."""
    rows = [("case", "positions", "largest logit", "logits differ by", "greedy tokens", "ids", "rows", "pixels")]
    for case in found.cases:
        ids = "" if case.same_ids is None else "same" if case.same_ids else "differ"
        count = "" if case.same_rows is None else "same" if case.same_rows else "differ"
        pixels = "" if case.pixel_difference is None else f"within {case.pixel_difference:.1f}/255"
        agree = "same" if case.same_tokens else "differ"
        sizes = (str(case.positions), f"{case.largest_logit:.2f}", f"{case.logit_difference:.1e}")
        rows.append((case.name, *sizes, agree, ids, count, pixels))
    return rows
