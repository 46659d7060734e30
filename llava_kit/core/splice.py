"""SplicePlan: for each position of the language model's input, where its row comes from. B rows of S positions, T = B * S.

The plan is made on the CPU from the text and the pictures' sizes (`llava_kit.splice.build`); the model obeys it. Every position
is one of: a text row, a visual row, the newline row, a blend of visual rows, or padding (zeros), so the lists of positions are
disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .codes import BLENDED, NEWLINE, PAD, TEXT
from .connector import Connector
from .plan_check import check_plan

__all__ = ["BLENDED", "NEWLINE", "PAD", "TEXT", "Blend", "Inverse", "Sequences", "SplicePlan", "Splicer"]


def _map_tensors(record: Any, change) -> Any:
    """A copy of the dataclass `record` with `change` applied to its tensors, nested records included."""
    new = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            new[f.name] = change(value)
        elif isinstance(value, Sequences | Inverse):
            new[f.name] = _map_tensors(value, change)
        elif f.name == "blends":
            new[f.name] = tuple(_map_tensors(blend, change) for blend in value)
    return replace(record, **new)


@dataclass(frozen=True)
class Sequences:
    """Where sequences lie in the flattened batch [T]: from `offsets[i]` to `offsets[i + 1]`. Padding is a sequence too.

    `offsets` int32 [n + 1] is for kernels; a list that is filled up ends in empty sequences. `host_offsets` are the same
    numbers for Python, without those. `longest` is the longest sequence, or a round number above it.
    `packed`: some row of the batch holds more than one real sequence (padding at the end of a row does not count, since under
    causal attention nothing real can see it).
    """

    offsets: Tensor
    host_offsets: tuple[int, ...]
    longest: int
    packed: bool


@dataclass(frozen=True)
class Blend:
    """R rows that are made of up to four visual rows each: a canvas that is shrunk, frames that are pooled.

    They are made of what the connector gives back, as in LLaVA-NeXT.

    rows       int64 [Q]       the visual rows that go into them, each once
    taps       int64 [R, 4]    which of `rows` go into each
    weights    float32 [R, 4]  by how much; a row of fewer than four has zeros. Without meaning for `max`
    positions  int64 [R]       the seat of each
    readers    int32 [4 * R]   the flat places in `taps`, grouped by the row they read, in order
    reader_bounds int32 [Q + 1]  where the group of each row begins
    reduce     `sum`: the weighted sum; `max`: the greatest of the four, feature by feature
    """

    rows: Tensor
    taps: Tensor
    weights: Tensor
    positions: Tensor
    readers: Tensor
    reader_bounds: Tensor
    reduce: Literal["sum", "max"]


@dataclass(frozen=True)
class Inverse:
    """The plan read backwards, for a splicer that writes each row once and adds gradients up in a fixed order. All int32.

    blank_positions  [Z]      the seats that hold nothing
    visual_places    [V]      where each visual row stands among those in use (`visual_rows`, then each blend's `rows`), or -1
    text_seats       [X]      `text_positions`, grouped by token
    group_bounds     [G + 1]  where each group of `text_seats` begins: all of one token, at most 256 of them
    token_bounds     [U + 1]  where the groups of each token begin
    tokens           [U]      the tokens, ascending
    """

    blank_positions: Tensor
    visual_places: Tensor
    text_seats: Tensor
    group_bounds: Tensor
    token_bounds: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class SplicePlan:
    """Who sits where. All index tensors are flat: a position is `b * S + s`, a visual row `tile * P' + patch`.

    source            int32 [T]  a visual row (>= 0) | TEXT | NEWLINE | PAD | BLENDED
    text_ids          int64 [X]  token ids of the text rows, in order of position
    text_positions    int64 [X]  the seat of each
    visual_rows       int64 [K]  the visual rows in use, each at most once, in order of position; K <= num_visual
    visual_positions  int64 [K]  the seat of each
    newline_positions int64 [L]
    shape             (B, S)
    num_visual        V = N * P', tiles of padding included
    inverse           the same read backwards
    blends            at most one for each way to reduce; empty for every batch whose rows are rows of tiles
    spare             1: lists are filled up to round lengths with seat T, which is nobody's: buffers have T + 1 rows; else 0
    """

    source: Tensor
    text_ids: Tensor
    text_positions: Tensor
    visual_rows: Tensor
    visual_positions: Tensor
    newline_positions: Tensor
    shape: tuple[int, int]
    num_visual: int
    sequences: Sequences
    inverse: Inverse
    blends: tuple[Blend, ...] = ()
    spare: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SplicePlan:
        """The same plan on a device; it is checked (`check_plan`) when it leaves the CPU, for no kernel can afford to."""
        # A fake tensor, which is no plain `Tensor`, has no values to look at.
        if torch.device(device).type != "cpu" and self.source.device.type == "cpu" and type(self.source) is Tensor:
            check_plan(self)
        return _map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SplicePlan:
        return _map_tensors(self, Tensor.pin_memory)


class Splicer(Protocol):
    """Puts text, visual and newline rows on their seats, as the plan says."""

    def __call__(
        self, plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None
    ) -> Tensor:
        """features [N, P, D_vision], embedding [vocab, D], newline [D] or None -> rows [B, S, D]."""
        ...
