"""Samples as long as those of LLaVA-1.5's 665K mixture, with random tokens and pixels: what row G4 trains on.

How many samples each source gives is published, turns and tokens per turn are assumed; both stand in `benchmarks.packing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_kit.core.conversation import Conversation, Sample
from llava_kit.core.tiles import TileGrid
from llava_kit.data.example import Example
from llava_kit.data.packing import pack
from llava_kit.splice.build import IMAGE, Seating

from ..packing import PROMPT_SHARE, SOURCES, SYSTEM_TOKENS

MAX_LENGTH, PATCHES = 2048, 576


def draw_lengths(count: int, seed: int) -> list[tuple[bool, int]]:
    """(has a picture, tokens of text) of `count` samples of the mixture."""
    random = np.random.default_rng(seed)
    shares = np.array([source[0] for source in SOURCES], float)
    drawn = []
    for kind in random.choice(len(SOURCES), count, p=shares / shares.sum()):
        _, picture, (turns, spread), (tokens, sigma) = SOURCES[kind]
        num_turns = max(1, round(random.normal(turns, spread)))
        text = SYSTEM_TOKENS + int((tokens * np.exp(random.normal(-(sigma**2) / 2, sigma, num_turns))).sum())
        drawn.append((picture, min(text, MAX_LENGTH - PATCHES * picture)))
    return drawn


def draw_examples(count: int, seed: int, *, vocab: int, image_size: int, patches: int, scale: int = 1) -> list[Example]:
    """Examples with random tokens below `vocab` and random tiles; `scale` divides the texts' lengths."""
    random = np.random.default_rng(seed)
    made = []
    for number, (picture, text) in enumerate(draw_lengths(count, seed)):
        length = max(8, text // scale)
        ids = random.integers(3, vocab, length)
        trainable = np.arange(length) >= int(PROMPT_SHARE * length)
        if picture:
            ids, trainable = np.insert(ids, 1, IMAGE), np.insert(trainable, 1, False)
        grids = (TileGrid((image_size, image_size)),) if picture else ()
        tiles = random.integers(0, 256, (len(grids), 3, image_size, image_size), np.uint8)
        name = f"sample {number}"
        made.append(
            Example(
                seating=Seating(ids, trainable, grids, name),
                tiles=tiles,
                length=length + picture * patches,
                num_targets=int(trainable.sum()),
                tags={},
                dropped_turns=0,
                sample=Sample(name, Conversation(())),
            )
        )
    return made


def packed_rows(lengths: Sequence[int], row_length: int, seed: int) -> list[list[int]]:
    """Rows of at most `row_length` positions in random order; the least filled one, a rest, is left out."""
    rows = pack(lengths, row_length)
    rows.sort(key=lambda row: -sum(lengths[number] for number in row))
    rows = rows[:-1] or rows
    return [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))]


def random_batches(count: int, size: int, seed: int) -> list[list[int]]:
    """The samples in random order, `size` at once; a rest is left out."""
    order = np.random.default_rng(seed).permutation(count)
    return [order[start : start + size].tolist() for start in range(0, count - size + 1, size)]


def grouped_batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Samples of like length together, as transformers' `group_by_length` does within 50 batches; in random order."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return [batches[number] for number in np.random.default_rng(seed).permutation(len(batches))]
