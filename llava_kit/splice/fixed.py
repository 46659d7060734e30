"""Plans filled up to round lengths, so that batches have few shapes: a training step is compiled once, or recorded.

B rows of S positions, T = B * S, V visual rows of the tiles, X text, K visual, L newline rows, Z blanks, M targets, U tokens in
G groups; R blended rows of Q visual ones.

What costs nothing beside a step is as long as it can ever be: X = L = Z = R = T, Q = V, K the lesser of V and T. By count of
operations this adds less than a thousandth to a step of a 7B model (not measured on a GPU): rows that are looked up, projected
and added to a seat that is nobody's. What would cost is rounded up: targets meet the head, tokens have a row of sums each,
sequences a row of blocks in each attention. Of those lengths a run sees a few, since a batch of many samples is much like the
next.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.loss import IGNORE
from ..core.splice import Blend, Inverse, Sequences, SplicePlan
from .build import Built
from .inverse import TEXT_GROUP, readers

LEAST = 64
"""Lengths are multiples of this: the rows that a block of a matrix product has anyway."""

SHARES = 8
"""A list of up to T entries has one of so many lengths. A fifth of the positions learn: mostly two or three of the eight."""

SEQUENCE_MULTIPLE = 32
"""An empty sequence costs attention a block of threads for each head and 128 positions of the longest, which ends at once."""

LONGEST_MULTIPLE = 256
"""The kernel is told the longest sequence in such steps: it sets how many blocks start, not what they compute."""

TILE_MULTIPLE = 4


def round_tiles(used: int) -> int:
    """Tiles of a batch that uses `used`: multiples of 4, of 8 from 32 on, of 16 from 64 on, ... and at least 4.

    Four counts between a power of two and the next: at most a quarter of the tiles is black, at a tower's hundredth of a step.
    """
    multiple = max(TILE_MULTIPLE, 1 << max(0, used.bit_length() - 3))
    return max(TILE_MULTIPLE, used + -used % multiple)


def fill_up(built: Built, *, newlines: bool) -> Built:
    """The same batch with lists of round lengths; the loss and all gradients stay what they are.

    Filling stands on seat T (`plan.spare`), behind the last; targets that fill have the id `IGNORE`. `newlines`: the model has
    a newline row; else the plan has none either, and its list stays empty.

    The shapes depend on (B, S), V, which ways of blending there are, and on the rounded numbers of targets, of tokens and of
    sequences; `sequences.longest` is rounded too.
    """
    plan = built.plan
    if plan.spare:
        return built
    # As many seats as positions; the one that is nobody's comes after them.
    seats = seat = _seats(plan)
    num_rows = min(plan.num_visual, seats)
    blends = tuple(_fill_blend(blend, plan.num_visual, seats) for blend in plan.blends)
    filled = replace(
        plan,
        text_ids=_filled(plan.text_ids, seats, 0),
        text_positions=_filled(plan.text_positions, seats, seat),
        visual_rows=_filled(plan.visual_rows, num_rows, 0),
        visual_positions=_filled(plan.visual_positions, num_rows, seat),
        newline_positions=_filled(plan.newline_positions, seats if newlines else len(plan.newline_positions), seat),
        sequences=_fill_sequences(plan.sequences, seats, plan.shape[1]),
        inverse=_fill_inverse(plan, num_rows, blends),
        blends=blends,
        spare=1,
    )
    num_targets = _rounded(len(built.target_ids), seats)
    return Built(
        filled,
        built.position_ids,
        _filled(built.target_positions, num_targets, 0),
        _filled(built.target_ids, num_targets, IGNORE),
    )


def _seats(plan: SplicePlan) -> int:
    return plan.shape[0] * plan.shape[1]


def _rounded(count: int, most: int) -> int:
    """One of SHARES lengths at most, for counts from 0 to `most`."""
    share = -(-most // SHARES)
    step = share + -share % LEAST
    return max(1, -(-count // step)) * step


def _filled(tensor: Tensor, length: int, value: int) -> Tensor:
    result = tensor.new_full((length, *tensor.shape[1:]), value)
    result[: len(tensor)] = tensor
    return result


def _fill_sequences(sequences: Sequences, seats: int, row: int) -> Sequences:
    """`packed` whatever the batch holds, so that each goes the same way. A sequence is no longer than a `row`."""
    count = len(sequences.offsets) - 1
    count += -count % SEQUENCE_MULTIPLE
    longest = sequences.longest + -sequences.longest % LONGEST_MULTIPLE
    return replace(sequences, offsets=_filled(sequences.offsets, count + 1, seats), longest=min(longest, row), packed=True)


def _fill_inverse(plan: SplicePlan, num_rows: int, blends: tuple[Blend, ...]) -> Inverse:
    inverse, seats = plan.inverse, _seats(plan)
    num_text, num_groups = len(plan.text_ids), len(inverse.group_bounds) - 1
    tokens = _rounded(len(inverse.tokens) + 1, seats)
    # A token has a group for its first seats, and one more for each further TEXT_GROUP of them.
    groups = tokens + seats // TEXT_GROUP + 1
    ends = torch.arange(num_text, seats, TEXT_GROUP, dtype=torch.int32)  # where the groups of seats that fill begin
    begun = torch.cat([inverse.group_bounds[:-1], ends])
    assert len(begun) <= groups
    # The first token that fills has all groups that do.
    token_bounds = torch.cat([inverse.token_bounds, inverse.token_bounds.new_tensor([groups])])
    assert int(inverse.token_bounds[-1]) == num_groups
    return Inverse(
        blank_positions=_filled(inverse.blank_positions, seats, seats),
        visual_places=_move_places(plan, num_rows, blends),
        text_seats=_filled(inverse.text_seats, seats, seats),
        group_bounds=_filled(begun, groups + 1, seats),
        token_bounds=_filled(token_bounds, tokens + 1, groups),
        tokens=_filled(inverse.tokens, tokens, -1),
    )


def _move_places(plan: SplicePlan, num_rows: int, blends: tuple[Blend, ...]) -> Tensor:
    """Where each visual row stands now: the rows of blends come after the filling of those before."""
    if not blends:
        return plan.inverse.visual_places
    places = plan.inverse.visual_places.clone()
    first = num_rows
    for blend, filled in zip(plan.blends, blends, strict=True):
        places[blend.rows] = torch.arange(first, first + len(blend.rows), dtype=places.dtype)
        first += len(filled.rows)
    return places


def _fill_blend(blend: Blend, num_visual: int, seats: int) -> Blend:
    taps = np.empty((seats, 4), np.int64)
    taps[: len(blend.taps)] = blend.taps.numpy()
    # Spread over all rows: a kernel adds up the readers of a row one after another, and all of them on one would be slow.
    filling = taps[len(blend.taps) :]
    filling[:] = np.arange(filling.size).reshape(filling.shape) % num_visual
    order, bounds = readers(taps, num_visual)
    return Blend(
        rows=_filled(blend.rows, num_visual, 0),
        taps=torch.from_numpy(taps),
        weights=_filled(blend.weights, seats, 0),
        positions=_filled(blend.positions, seats, seats),
        readers=torch.from_numpy(order.astype(np.int32)),
        reader_bounds=torch.from_numpy(bounds.astype(np.int32)),
        reduce=blend.reduce,
    )
