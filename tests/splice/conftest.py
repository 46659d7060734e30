"""Random sequences with pictures, made the same way for every test of this room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llava_kit.core.tiles import ClipGrid, Grid, TileGrid
from llava_kit.splice.build import IMAGE, Seating


def random_grid(random: np.random.Generator) -> TileGrid | ClipGrid:
    if random.random() < 0.15:
        pool, newline = random.choice(["bilinear", "average", "max"]), random.choice(["grid", "frame", "one_token", "no_token"])
        return ClipGrid(int(random.integers(1, 4)), str(pool), str(newline))
    size = tuple(np.exp(random.uniform(0, 8, 2)).astype(int).tolist())
    tiles = Grid(*random.integers(1, 4, 2).tolist()) if random.random() < 0.7 else Grid(0, 0)
    merge = str(random.choice(["flat", "spatial", "spatial_unpad"], p=[0.15, 0.15, 0.7]))
    return TileGrid(size, tiles, merge, max_tiles=(None, None, 1, 2)[random.integers(0, 4)])


@pytest.fixture
def random_seating() -> Callable[[np.random.Generator, str], Seating]:
    """1 to 30 tokens of a vocabulary of 100, pictures anywhere, also next to one another and at both ends."""

    def make(random: np.random.Generator, name: str) -> Seating:
        pictures = int(random.integers(0, 4))
        tokens = random.integers(0, 100, random.integers(1, 30))
        tokens = np.insert(tokens, random.integers(0, len(tokens) + 1, pictures), IMAGE)
        return Seating(tokens, random.random(len(tokens)) < 0.4, tuple(random_grid(random) for _ in range(pictures)), name)

    return make


@pytest.fixture
def seating() -> Callable[..., Seating]:
    """`seating("7 P 8*", grid)`: token ids by number, a star where the model learns to say it, P for a picture."""

    def make(text: str, *grids: TileGrid, name: str = "sample") -> Seating:
        words = text.split()
        ids = [IMAGE if word == "P" else int(word.rstrip("*")) for word in words]
        return Seating(np.array(ids, np.int64), np.array([word.endswith("*") for word in words], bool), grids, name)

    return make
