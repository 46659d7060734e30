"""Tiny models of real parts, and plans for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from llava_kit.assemble.parts import build
from llava_kit.core.tiles import ClipGrid, Grid, TileGrid
from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.splice.build import IMAGE, Built, Seating, build_plan
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit_causal_lm import CausalLmOptions, build_causal_lm
from llava_kit_clip import ClipOptions, build_clip
from llava_kit_shapes import ShapesLMOptions, ShapesVitOptions, build_lm, build_vit

SIDE = Grid(2, 2)

CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
CLIP |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
DECODER = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": 6}


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


@pytest.fixture
def real_model() -> Callable[..., VisionLanguageModel]:
    """`real_model("mistral")`: CLIP, an MLP and a decoder of transformers, of random weights and the widths of a toy."""

    def make(decoder: str = "llama", **options) -> VisionLanguageModel:
        torch.manual_seed(0)
        encoder = build_clip(ClipOptions(checkpoint=None, config=CLIP), weights=False)
        language_model = build_causal_lm(CausalLmOptions(config={"model_type": decoder, **DECODER}, **options), weights=False)
        connector = build("connector", "mlp", vision_width=32, text_width=32, grid=encoder.spec.grid)
        return VisionLanguageModel(encoder, connector, language_model, ReferenceSplicer(), newline=True)

    return make


@pytest.fixture
def random_batch() -> Callable[..., tuple[torch.Tensor, Built]]:
    """`random_batch(seed, blended=True)`: tiles and what `build_plan` makes of 2 rows of `length` positions, two samples in the
    first and one in the last; pictures in detail, clips among them when `blended`, none with `pictures=False`."""

    def make(
        seed: int, *, blended: bool = False, pictures: bool = True, num_tiles: int = 20, packed: bool = True, length: int = 96
    ):
        random = np.random.default_rng(seed)
        seatings = [_seating(random, str(number), blended and number == 0, pictures) for number in range(3)]
        rows = [seatings[:2], seatings[2:]] if packed else [[seating] for seating in seatings]
        built = build_plan(rows, side=SIDE, vocab=64, num_tiles=num_tiles, length=length)
        tiles = torch.from_numpy(random.integers(0, 256, (num_tiles, 3, 28, 28), dtype=np.uint8))
        return tiles, built

    return make


def _seating(random: np.random.Generator, name: str, clip: bool, pictures: bool) -> Seating:
    ids = random.integers(0, 64, random.integers(5, 20))
    grids: list[TileGrid | ClipGrid] = []
    if pictures:
        size = (int(random.integers(20, 90)), int(random.integers(20, 90)))
        grids = [TileGrid(size, Grid(1, 2), merge="spatial_unpad"), TileGrid((50, 50))]
    if clip:
        grids += [ClipGrid(3, "average", "frame"), ClipGrid(2, "max", "no_token")]
    ids = np.insert(ids, 1, [IMAGE] * len(grids))
    return Seating(ids, np.arange(len(ids)) > len(ids) // 2, tuple(grids), name)
