"""The language model's input rows against those of tiny random LLaVA and LLaVA-NeXT models of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.image_processing_utils import select_best_resolution

from llava_kit.core.connector import Connector
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.splice.build import IMAGE, Seating, build_plan, sample_length
from llava_kit.splice.layout import count_rows
from llava_kit.splice.reference import ReferenceSplicer

VOCAB, IMAGE_TOKEN, TILE, SIDE = 120, 119, 28, Grid(4, 4)
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


class Projector(Connector):
    """transformers' own projector; it works on each patch alone."""

    rowwise = True

    def __init__(self, projector: nn.Module):
        super().__init__()
        self.projector = projector

    def forward(self, features):
        return self.projector(features)


def configs() -> dict:
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=TILE, patch_size=7
    )
    text = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return {"vision_config": vision, "text_config": text, "image_token_id": IMAGE_TOKEN}


def rows_of_transformers(model, **inputs) -> torch.Tensor:
    """The rows that the language model inside `model` is given."""
    seen = {}

    def keep(module, args, kwargs):
        seen["rows"] = kwargs["inputs_embeds"]

    handle = model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    model(**inputs)
    handle.remove()
    return seen["rows"]


def spread_out(batch: list[Seating], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' processor makes: one placeholder token for each row of a picture, right padding."""
    ids, mask = np.zeros((len(batch), length), np.int64), np.zeros((len(batch), length), np.int64)
    for number, seating in enumerate(batch):
        counts, grids = np.ones(len(seating.token_ids), int), iter(seating.grids)
        for place in np.flatnonzero(seating.token_ids == IMAGE):
            counts[place] = count_rows(next(grids), SIDE)
        spread = np.repeat(np.where(seating.token_ids == IMAGE, IMAGE_TOKEN, seating.token_ids), counts)
        ids[number, : len(spread)], mask[number, : len(spread)] = spread, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def random_batch(random: np.random.Generator, grid_of) -> list[Seating]:
    batch = []
    for number in range(4):
        pictures = int(random.integers(1 if number == 0 else 0, 3))
        ids = random.integers(1, IMAGE_TOKEN, random.integers(2, 20))
        ids = np.insert(ids, random.integers(0, len(ids) + 1, pictures), IMAGE)
        sizes = np.exp(random.uniform(2, 7, (pictures, 2))).astype(int).tolist()
        batch.append(Seating(ids, np.zeros(len(ids), bool), tuple(grid_of(*size) for size in sizes), str(number)))
    return batch


def compare(model, batch: list[Seating], pixels: torch.Tensor, newline: nn.Parameter | None, **inputs) -> None:
    """The same rows, and the same gradients of projector, embedding and newline."""
    built = build_plan([[seating] for seating in batch], side=SIDE, vocab=VOCAB)
    length = max(sample_length(seating, SIDE) for seating in batch)
    ids, mask = spread_out(batch, length)
    expected = rows_of_transformers(model, input_ids=ids, attention_mask=mask, **inputs)

    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    embedding = model.get_input_embeddings().weight
    rows = ReferenceSplicer()(built.plan, hidden, Projector(model.model.multi_modal_projector), embedding, newline)
    valid = mask.bool()
    # The projector sees other shapes, so a matrix product may round its last bit otherwise; nothing else may differ.
    torch.testing.assert_close(rows[valid], expected[valid], rtol=0, atol=1e-6)
    text = (ids != IMAGE_TOKEN) & valid
    assert torch.equal(rows[text], expected[text])

    upstream = torch.randn(rows.shape) * mask[..., None]
    parameters = [*model.model.multi_modal_projector.parameters(), embedding, *([] if newline is None else [newline])]
    ours = torch.autograd.grad(rows, parameters, upstream)
    theirs = torch.autograd.grad(expected, parameters, upstream)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_llava(seed):
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig(**configs(), vision_feature_layer=-2, image_seq_length=SIDE.area))
    batch = random_batch(np.random.default_rng(seed), lambda width, height: TileGrid((width, height)))
    pixels = torch.randn(sum(len(seating.grids) for seating in batch), 3, TILE, TILE)
    compare(model, batch, pixels, None, pixel_values=pixels)


@pytest.mark.parametrize("seed", range(5))
def test_llava_next(seed):
    torch.manual_seed(seed)
    config = LlavaNextConfig(**configs(), vision_feature_layer=-2, image_grid_pinpoints=PINPOINTS, image_seq_length=SIDE.area)
    model = LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        model.model.image_newline.normal_()

    def grid_of(width: int, height: int) -> TileGrid:
        canvas_height, canvas_width = select_best_resolution((height, width), PINPOINTS)
        return TileGrid(
            (width, height), Grid(canvas_height // TILE, canvas_width // TILE), "spatial_unpad", rule="transformers"
        )

    batch = random_batch(np.random.default_rng(seed), grid_of)
    grids = [grid for seating in batch for grid in seating.grids]
    pixels = [torch.randn(grid.num_tiles, 3, TILE, TILE) for grid in grids]
    most = max(map(len, pixels))
    stacked = torch.stack([torch.cat([tiles, tiles.new_zeros(most - len(tiles), 3, TILE, TILE)]) for tiles in pixels])
    sizes = torch.tensor([(grid.size[1], grid.size[0]) for grid in grids])  # transformers: (height, width)
    compare(model, batch, torch.cat(pixels), model.model.image_newline, pixel_values=stacked, image_sizes=sizes)
