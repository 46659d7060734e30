"""Examples become a batch: tiles in one tensor, seats by the plan. N tiles of side T, B rows of S positions, M targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.splice import SplicePlan
from ..core.tiles import Grid
from ..splice.build import build_plan
from ..splice.fixed import fill_up, round_tiles
from .example import Example

# Batches have 4, 8, 12, ... tiles, so that a compiled encoder meets few shapes; at least 4, so that a batch without a picture
# goes the same way as every other (sharded engines hang when one rank skips the encoder).
TILE_MULTIPLE = 4


@dataclass(frozen=True)
class Batch:
    """What the model is given at once.

    tiles             uint8 [N, 3, T, T]  those of the pictures in order, then black ones that no plan mentions
    plan              who sits where in [B, S]
    position_ids      int64 [B, S]  from 0 in each sequence
    target_positions  int64 [M]     flat positions whose next token is learnt
    target_ids        int64 [M]     that next token; where shapes are fixed the list ends in ids that count nothing
    sample_ids        in the order of the rows
    num_tokens        how many of the B * S positions hold something
    num_targets       how many tokens are learnt
    """

    tiles: Tensor
    plan: SplicePlan
    position_ids: Tensor
    target_positions: Tensor
    target_ids: Tensor
    sample_ids: tuple[str, ...]
    num_tokens: int
    num_targets: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""
        return replace(
            self,
            tiles=self.tiles.to(device, non_blocking=non_blocking),
            plan=self.plan.to(device, non_blocking=non_blocking),
            position_ids=self.position_ids.to(device, non_blocking=non_blocking),
            target_positions=self.target_positions.to(device, non_blocking=non_blocking),
            target_ids=self.target_ids.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU need not wait."""
        return replace(
            self,
            tiles=self.tiles.pin_memory(),
            plan=self.plan.pin_memory(),
            position_ids=self.position_ids.pin_memory(),
            target_positions=self.target_positions.pin_memory(),
            target_ids=self.target_ids.pin_memory(),
        )


def collate(
    examples: Sequence[Example],
    *,
    side: Grid,
    vocab: int,
    rows_of: Sequence[Sequence[int]] | None = None,
    length: int | None = None,
    round_to: int = 1,
    tile_multiple: int = TILE_MULTIPLE,
    fixed_shapes: bool = False,
    newlines: bool = True,
) -> Batch:
    """The batch of `examples`.

    `side` is the grid of one tile's visual rows, `vocab` the rows of the embedding. `rows_of` says which examples (by number)
    share each row; without it each has its own. S is `length`, or the longest row; then rounded up to a multiple of `round_to`.
    N is a multiple of `tile_multiple`, at least one of it; where nothing is compiled nor sharded, 1 spares the black tiles.
    `fixed_shapes`: N and all lists have round lengths (`splice.fixed`); `newlines` says whether the model has a newline row.
    """
    rows = [[number] for number in range(len(examples))] if rows_of is None else rows_of
    seated = [[examples[number] for number in row] for row in rows]
    ordered = [example for row in seated for example in row]
    used = sum(len(example.tiles) for example in ordered)
    num_tiles = round_tiles(used) if fixed_shapes else max(tile_multiple, used + -used % tile_multiple)
    built = build_plan(
        [[example.seating for example in row] for row in seated],
        side=side,
        vocab=vocab,
        length=length,
        num_tiles=num_tiles,
        round_to=round_to,
    )
    num_targets = len(built.target_ids)
    if fixed_shapes:
        built = fill_up(built, newlines=newlines)
    tiles = [example.tiles for example in ordered if len(example.tiles)]
    if num_tiles > used:
        tiles.append(np.zeros((num_tiles - used, *ordered[0].tiles.shape[1:]), np.uint8))
    return Batch(
        tiles=torch.from_numpy(tiles[0] if len(tiles) == 1 else np.concatenate(tiles)),
        plan=built.plan,
        position_ids=built.position_ids,
        target_positions=built.target_positions,
        target_ids=built.target_ids,
        sample_ids=tuple(example.id for example in ordered),
        num_tokens=sum(example.length for example in ordered),
        num_targets=num_targets,
    )
