"""The plan read backwards: lists by which gradients are added up in a fixed order, made once on the CPU.

X text rows in G groups of U tokens, V visual rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.splice import PAD, Blend, Inverse

# A token's gradient is a sum over its seats, and a few tokens (the first of a prompt, the line's end, the comma) have most of
# them: sums of so many seats are made side by side and then added.
TEXT_GROUP = 256


def invert(
    source: NDArray[np.int32],
    text_ids: NDArray[np.int64],
    text_positions: NDArray[np.int64],
    visual_rows: NDArray[np.int64],
    blends: Sequence[Blend],
    num_visual: int,
) -> Inverse:
    """The inverse of a plan with these lists."""
    places = np.full(num_visual, -1, np.int32)
    wanted = np.concatenate([visual_rows, *(blend.rows.numpy() for blend in blends)]) if blends else visual_rows
    places[wanted] = np.arange(len(wanted), dtype=np.int32)
    # Token and place in one number: numpy sorts these five times as fast as it finds the order of the tokens.
    bits = len(text_ids).bit_length()
    keys = text_ids << bits
    keys |= np.arange(len(text_ids))
    keys.sort()
    order, sorted_ids = keys & ((1 << bits) - 1), keys >> bits
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
    counts = np.diff(starts, append=len(sorted_ids))
    groups = -(-counts // TEXT_GROUP)
    token_bounds = np.concatenate([[0], np.cumsum(groups)])
    within = np.arange(token_bounds[-1]) - np.repeat(token_bounds[:-1], groups)
    group_bounds = np.append(np.repeat(starts, groups) + within * TEXT_GROUP, len(text_ids))
    return Inverse(
        blank_positions=_as_int32(np.flatnonzero(source == PAD)),
        visual_places=torch.from_numpy(places),
        text_seats=_as_int32(text_positions[order]),
        group_bounds=_as_int32(group_bounds),
        token_bounds=_as_int32(token_bounds),
        tokens=_as_int32(sorted_ids[starts]),
    )


def readers(taps: NDArray[np.int64], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """taps [R, 4] -> the flat places in `taps` grouped by the row they read, and where the group of each row begins [Q + 1]."""
    flat = taps.ravel()
    return np.argsort(flat, kind="stable"), np.append(0, np.cumsum(np.bincount(flat, minlength=num_rows)))


def _as_int32(array: NDArray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int32))
