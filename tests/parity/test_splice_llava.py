"""Rows, labels and mask against those of LLaVA's `prepare_inputs_labels_for_multimodal`: 200 random batches, no difference.

The other side is an own small writing of that method: pictures merged by moving tensors, sequences split at the placeholder and
joined again, one sample after another. Both sides are given the same projected features.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llava_kit.core.connector import Connector
from llava_kit.core.splice import PAD
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.splice.build import IMAGE, Seating, build_plan
from llava_kit.splice.reference import ReferenceSplicer

IGNORE = -100
VOCAB, WIDTH, SIDE = 200, 8, 4


class Through(Connector):
    rowwise = True

    def forward(self, features):
        return features


def merge_picture(tiles: Tensor, grid: TileGrid, newline: Tensor) -> Tensor:
    """[tiles, P, D] -> the rows of one picture [n, D], by LLaVA's `spatial_unpad` or `spatial`."""
    overview = tiles[0]
    if len(tiles) == 1:
        return overview if grid.merge == "spatial" else torch.cat([overview, newline[None]])
    canvas = tiles[1:].view(*grid.tiles, SIDE, SIDE, WIDTH).permute(4, 0, 2, 1, 3)
    canvas = canvas.reshape(WIDTH, grid.tiles.rows * SIDE, grid.tiles.cols * SIDE)
    if grid.merge == "spatial_unpad":
        _, height, width = canvas.shape
        picture_width, picture_height = grid.size
        if picture_width / picture_height > width / height:
            band = (height - int(picture_height * (width / picture_width))) // 2
            canvas = canvas[:, band : height - band]
        else:
            band = (width - int(picture_width * (height / picture_height))) // 2
            canvas = canvas[:, :, band : width - band]
        canvas = torch.cat([canvas, newline[:, None, None].expand(-1, canvas.shape[1], 1)], dim=2)
    return torch.cat([overview, canvas.flatten(1).T])


def join_sample(ids: Tensor, labels: Tensor, pictures: list[Tensor], embedding: Tensor) -> tuple[Tensor, Tensor]:
    """One sample: text between placeholders looked up, pictures put in between; pictures are never learnt."""
    places = [-1, *torch.where(ids == IMAGE)[0].tolist(), len(ids)]
    rows, new_labels = [], []
    for number, (before, after) in enumerate(pairwise(places)):
        rows.append(F.embedding(ids[before + 1 : after], embedding))
        new_labels.append(labels[before + 1 : after])
        if number < len(pictures):
            rows.append(pictures[number])
            new_labels.append(torch.full((len(pictures[number]),), IGNORE))
    return torch.cat(rows), torch.cat(new_labels)


def prepare(
    batch: list[Seating], features: Tensor, embedding: Tensor, newline: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [B, S, D], labels, mask and position ids [B, S] of a right-padded batch."""
    tiles, samples = iter(features), []
    for seating in batch:
        pictures = [merge_picture(torch.stack([next(tiles) for _ in range(g.num_tiles)]), g, newline) for g in seating.grids]
        ids, trainable = torch.from_numpy(seating.token_ids), torch.from_numpy(seating.trainable)
        samples.append(join_sample(ids, ids.where(trainable, torch.tensor(IGNORE)), pictures, embedding))
    longest = max(len(rows) for rows, _ in samples)
    padded = torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows, _ in samples])
    labels = torch.stack([F.pad(labels, (0, longest - len(labels)), value=IGNORE) for _, labels in samples])
    lengths = torch.tensor([len(rows) for rows, _ in samples])[:, None]
    positions = torch.arange(longest).expand(len(samples), -1)
    return padded, labels, positions < lengths, positions.where(positions < lengths, torch.tensor(0))


def random_batch(random: np.random.Generator) -> list[Seating]:
    batch = []
    for number in range(random.integers(1, 7)):
        pictures = int(random.integers(0, 5))
        ids = random.integers(0, VOCAB, random.integers(1, 40))
        ids = np.insert(ids, random.integers(0, len(ids) + 1, pictures), IMAGE)
        trainable = random.random(len(ids)) < 0.5
        trainable &= ids != IMAGE
        batch.append(Seating(ids, trainable, tuple(random_picture(random) for _ in range(pictures)), str(number)))
    return batch


def random_picture(random: np.random.Generator) -> TileGrid:
    width, height = np.exp(random.uniform(2, 8, 2)).astype(int).tolist()
    kind = random.integers(0, 4)
    tiles = Grid(0, 0) if kind == 0 else Grid(*random.integers(1, 4, 2).tolist())
    return TileGrid((width, height), tiles, merge="spatial_unpad" if kind > 1 else "spatial")


@pytest.mark.parametrize("block", range(10))
def test_two_hundred_batches(block):
    for seed in range(20 * block, 20 * block + 20):
        random = np.random.default_rng(seed)
        batch = random_batch(random)
        built = build_plan([[seating] for seating in batch], side=Grid(SIDE, SIDE), vocab=VOCAB)
        torch.manual_seed(seed)
        features = torch.randn(built.plan.num_visual // SIDE**2, SIDE**2, WIDTH, requires_grad=True)
        embedding = torch.randn(VOCAB, WIDTH, requires_grad=True)
        newline = torch.randn(WIDTH, requires_grad=True)
        leaves = (features, embedding, newline)

        rows = ReferenceSplicer()(built.plan, features, Through(), embedding, newline)
        expected, labels, mask, positions = prepare(batch, features, embedding, newline)
        assert torch.equal(rows, expected)
        assert torch.equal(built.plan.source.view(mask.shape) != PAD, mask)
        assert torch.equal(built.position_ids[mask], positions[mask])

        # The original shifts in the loss: position p learns the label of p + 1, within its own row.
        shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()
        assert torch.equal(built.target_positions, torch.where(shifted != IGNORE)[0])
        assert torch.equal(built.target_ids, shifted[shifted != IGNORE])

        upstream = torch.randn(rows.shape)
        ours = torch.autograd.grad(rows, leaves, upstream)
        theirs = torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
        for found, wanted in zip(ours, theirs):
            wanted = torch.zeros_like(found) if wanted is None else wanted
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
