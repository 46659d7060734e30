"""A tiny model of real parts, and plans for it."""

import numpy as np
import pytest
import torch

from llava_kit.assemble.parts import build
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.splice.build import IMAGE, Seating, build_plan
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit_shapes import ShapesLMOptions, ShapesVitOptions, build_lm, build_vit

SIDE = Grid(2, 2)


@pytest.fixture(params=["llama", "mistral"])
def model(request) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = build_vit(ShapesVitOptions(image_size=32, width=32, depth=1, heads=2), weights=True)
    language_model = build_lm(ShapesLMOptions(style=request.param, width=32, depth=2, window_of_mistral=8), weights=True)
    connector = build("connector", "mlp", vision_width=32, text_width=32, grid=encoder.spec.grid)
    return VisionLanguageModel(encoder, connector, language_model, ReferenceSplicer(), newline=True).eval()


@pytest.fixture
def seatings() -> list[Seating]:
    """Three sequences of unequal length, with no picture, one, and two; the last third of each is learnt."""
    rng = np.random.default_rng(0)
    made = []
    for number, (words, pictures) in enumerate([(9, 0), (14, 1), (5, 2)]):
        ids = rng.integers(5, 40, words)
        ids[1 : 1 + pictures] = IMAGE
        grids = tuple(
            TileGrid((64, 40), Grid(1, 2), merge="spatial_unpad") if index else TileGrid((50, 50)) for index in range(pictures)
        )
        made.append(Seating(ids, np.arange(words) > 2 * words // 3, grids, f"s{number}"))
    return made


@pytest.fixture
def inputs():
    """Rows of seatings -> the model's arguments."""

    def make(rows, model, seed=0):
        vocab = model.language_model.embedding.shape[0]
        tiles_needed = sum(grid.num_tiles for row in rows for seating in row for grid in seating.grids)
        built = build_plan(rows, side=SIDE, vocab=vocab, num_tiles=max(4, tiles_needed))
        generator = torch.Generator().manual_seed(seed)
        tiles = torch.randint(0, 256, (max(4, tiles_needed), 3, 32, 32), dtype=torch.uint8, generator=generator)
        return tiles, built.plan, built.position_ids, built.target_positions, built.target_ids

    return make
