"""Sequences with pictures become a SplicePlan, its position ids and its targets; every check of a batch lives here.

B rows of S positions, T = B * S, M targets. Plain numpy on the CPU, usually in a data worker, with no Python loop over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.splice import BLENDED, NEWLINE, PAD, TEXT, Blend, Sequences, SplicePlan
from ..core.tiles import ClipGrid, Grid, TileGrid
from ..errors import LlavaKitError, SampleError
from .blend import Mixture, mixture
from .inverse import invert
from .layout import count_rows, picture_rows

IMAGE = -200
"""Stands for a whole picture among the token ids. The number is LLaVA's (IMAGE_TOKEN_INDEX); no tokenizer can produce it."""


@dataclass(frozen=True)
class Seating:
    """One sequence, before its pictures are spread out.

    token_ids  int64 [n]  token ids, with IMAGE at the place of each picture
    trainable  bool [n]   True where the token is one the model learns to say; ignored at pictures
    grids                 how each picture or clip was cut, in the order of their places
    """

    token_ids: NDArray[np.int64]
    trainable: NDArray[np.bool_]
    grids: tuple[TileGrid | ClipGrid, ...]
    sample_id: str


class Built(NamedTuple):
    """What the model is given besides tiles.

    position_ids      int64 [B, S]  from 0 in each sequence; padding is a sequence too
    target_positions  int64 [M]     flat positions whose next token is learnt
    target_ids        int64 [M]     that next token
    """

    plan: SplicePlan
    position_ids: Tensor
    target_positions: Tensor
    target_ids: Tensor


def sample_length(seating: Seating, side: Grid) -> int:
    """How many positions the sequence takes once its pictures are spread out."""
    return len(seating.token_ids) - len(seating.grids) + sum(count_rows(grid, side) for grid in seating.grids)


def build_plan(
    rows: Sequence[Sequence[Seating]],
    *,
    side: Grid,
    vocab: int,
    length: int | None = None,
    num_tiles: int | None = None,
    round_to: int = 1,
) -> Built:
    """The plan of a batch. Each inner list of `rows` shares one row of the batch, in order; the rest of the row is padding.

    `side` is the grid of one tile's visual rows, `vocab` the rows of the embedding. The tiles of the batch are those of the
    pictures in order (each overview first), then padding tiles up to `num_tiles`, which no plan mentions. S is `length`, or
    the longest row; then rounded up to a multiple of `round_to`.

    A position is a target's when the token after it is a trainable text token of the same sequence: shifted once, here. So the
    last row of a picture may predict the first word after it, and nothing predicts a visual row.

    Raises:
        SampleError: the pictures are not as many as their places, a token id is outside the vocabulary, the sequence is empty
            or alone longer than `length`. It names the sample.
        LlavaKitError: several sequences are together longer than `length`; fewer `num_tiles` than the pictures have.
    """
    seatings = list(chain.from_iterable(rows))
    if not seatings:
        raise LlavaKitError("a batch needs at least one sample, found none")
    tokens = _join(seatings, vocab)
    grids = tuple(chain.from_iterable(seating.grids for seating in seatings))
    pictures, used_tiles = _lay_out(grids, side)
    num_tiles = used_tiles if num_tiles is None else num_tiles
    if num_tiles < used_tiles:
        raise LlavaKitError(f"the pictures of this batch have {used_tiles} tiles, more than num_tiles={num_tiles}")

    widths = np.ones(len(tokens.ids), np.int64)
    widths[tokens.image_places] = [len(picture) for picture in pictures]
    lengths = np.add.reduceat(widths, tokens.starts)
    samples_per_row = np.array([len(row) for row in rows])
    shape, firsts = _seat_samples(seatings, lengths, samples_per_row, length, round_to)

    # The seat of each token: where its sample begins, and how much of the sample comes before it.
    before = np.cumsum(widths) - widths
    seats = before + np.repeat(firsts - before[tokens.starts], tokens.counts)
    source = np.full(shape[0] * shape[1], PAD, np.int32)
    text_positions = seats[tokens.is_text]
    source[text_positions] = TEXT
    image_seats = seats[tokens.image_places].tolist()
    for seat, picture in zip(image_seats, pictures):
        source[seat : seat + len(picture)] = picture
    blends = _blends(grids, side, pictures, image_seats)
    visual_positions = np.flatnonzero(source >= 0)
    newline_positions = np.flatnonzero(source == NEWLINE)
    num_blended = sum(len(blend.positions) for blend in blends)
    taken = len(text_positions) + len(visual_positions) + len(newline_positions) + num_blended
    assert taken == lengths.sum()  # no seat is taken twice
    assert num_blended == np.count_nonzero(source == BLENDED)

    learnt = tokens.trainable & tokens.is_text
    learnt[tokens.starts] = False  # nothing comes before the first token of a sequence
    sequences, position_ids = _sequences(shape, firsts, lengths, samples_per_row)
    text_ids, visual_rows = tokens.ids[tokens.is_text], source[visual_positions].astype(np.int64)
    num_visual = num_tiles * side.area
    plan = SplicePlan(
        source=torch.from_numpy(source),
        text_ids=torch.from_numpy(text_ids),
        text_positions=torch.from_numpy(text_positions),
        visual_rows=torch.from_numpy(visual_rows),
        visual_positions=torch.from_numpy(visual_positions),
        newline_positions=torch.from_numpy(newline_positions),
        shape=shape,
        num_visual=num_visual,
        sequences=sequences,
        inverse=invert(source, text_ids, text_positions, visual_rows, blends, num_visual),
        blends=blends,
    )
    return Built(plan, position_ids, torch.from_numpy(seats[learnt] - 1), torch.from_numpy(tokens.ids[learnt]))


class _Tokens(NamedTuple):
    """The sequences of a batch end to end, pictures not yet spread out."""

    ids: NDArray[np.int64]
    trainable: NDArray[np.bool_]
    is_text: NDArray[np.bool_]
    image_places: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where each sequence begins."""
    counts: NDArray[np.int64]
    """How many tokens each has."""


def _join(seatings: Sequence[Seating], vocab: int) -> _Tokens:
    counts = np.array([len(seating.token_ids) for seating in seatings])
    if not counts.all():
        raise SampleError("empty_sample", "has no tokens", sample_id=seatings[int(counts.argmin())].sample_id)
    ids = np.concatenate([seating.token_ids for seating in seatings])
    trainable = np.concatenate([seating.trainable for seating in seatings])
    assert (ids.dtype, trainable.dtype, trainable.shape) == (np.int64, np.bool_, ids.shape)
    starts = np.cumsum(counts) - counts
    is_text = ids != IMAGE
    outside = is_text & ((ids < 0) | (ids >= vocab))
    if outside.any():
        place = int(outside.argmax())
        sample = int(np.searchsorted(starts, place, "right")) - 1
        raise SampleError(
            "token_outside_vocabulary",
            f"token {place - int(starts[sample])} has id {ids[place]}, expected 0 to {vocab - 1}, as the embedding has "
            f"{vocab} rows, or {IMAGE} for a picture; use the tokenizer of this language model",
            sample_id=seatings[sample].sample_id,
        )
    tokens = _Tokens(ids, trainable, is_text, np.flatnonzero(~is_text), starts, counts)
    _check_pictures(seatings, tokens)
    return tokens


def _check_pictures(seatings: Sequence[Seating], tokens: _Tokens) -> None:
    owners = np.searchsorted(tokens.starts, tokens.image_places, "right") - 1
    for seating, places in zip(seatings, np.bincount(owners, minlength=len(seatings)).tolist()):
        if places != len(seating.grids):
            raise SampleError(
                "image_count",
                f"its text has places for {places} pictures, but it comes with {len(seating.grids)}",
                sample_id=seating.sample_id,
            )


def _lay_out(grids: Sequence[TileGrid | ClipGrid], side: Grid) -> tuple[list[NDArray[np.int32]], int]:
    """The rows of each picture, and how many tiles they have together."""
    pictures, tiles = [], 0
    for grid in grids:
        pictures.append(picture_rows(grid, side, tiles * side.area))
        tiles += grid.num_tiles
    return pictures, tiles


def _blends(
    grids: Sequence[TileGrid | ClipGrid], side: Grid, pictures: Sequence[NDArray[np.int32]], image_seats: Sequence[int]
) -> tuple[Blend, ...]:
    """The blended rows of the batch, those that are summed and those of which the greatest is taken."""
    found: dict[Literal["sum", "max"], list[tuple[int, Mixture, NDArray[np.int64]]]] = {}
    tiles = 0
    for grid, picture, seat in zip(grids, pictures, image_seats, strict=True):
        mixed = mixture(grid, side)
        if mixed is not None:
            positions = np.flatnonzero(picture == BLENDED) + seat
            assert len(positions) == len(mixed.taps)
            found.setdefault(mixed.reduce, []).append((tiles * side.area, mixed, positions))
        tiles += grid.num_tiles
    return tuple(_joined(reduce, found[reduce]) for reduce in sorted(found))


def _joined(reduce: Literal["sum", "max"], parts: Sequence[tuple[int, Mixture, NDArray[np.int64]]]) -> Blend:
    """The mixtures of several pictures as one; each comes with its first visual row and the seats of its rows."""
    counts = np.cumsum([0] + [len(mixed.rows) for _, mixed, _ in parts])
    taps = np.concatenate([mixed.taps + before for before, (_, mixed, _) in zip(counts.tolist(), parts)])
    assert taps.min() >= 0
    assert taps.max() < counts[-1]
    taps_before = np.cumsum([0] + [mixed.taps.size for _, mixed, _ in parts]).tolist()
    readers = [mixed.readers + before for before, (_, mixed, _) in zip(taps_before, parts)]
    bounds = [mixed.reader_bounds[:-1] + before for before, (_, mixed, _) in zip(taps_before, parts)]
    return Blend(
        rows=torch.from_numpy(np.concatenate([mixed.rows + first for first, mixed, _ in parts])),
        taps=torch.from_numpy(taps),
        readers=torch.from_numpy(np.concatenate(readers).astype(np.int32)),
        reader_bounds=torch.from_numpy(np.append(np.concatenate(bounds), taps.size).astype(np.int32)),
        weights=torch.from_numpy(np.concatenate([mixed.weights for _, mixed, _ in parts])),
        positions=torch.from_numpy(np.concatenate([positions for _, _, positions in parts])),
        reduce=reduce,
    )


def _seat_samples(
    seatings: Sequence[Seating], lengths: NDArray, samples_per_row: NDArray, length: int | None, round_to: int
) -> tuple[tuple[int, int], NDArray]:
    """The shape (B, S), and the flat position of each sequence's first seat."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    row_ends = np.cumsum(samples_per_row)
    row_starts = row_ends - samples_per_row
    row_lengths = ends[row_ends] - ends[row_starts]
    longest = int(row_lengths.max())
    if length is not None and longest > length:
        row = int(row_lengths.argmax())
        _refuse_long_row(seatings[row_starts[row] : row_ends[row]], lengths[row_starts[row] : row_ends[row]], length)
    positions = longest if length is None else length
    positions += -positions % round_to
    row_firsts = np.arange(len(samples_per_row)) * positions - ends[row_starts]
    return (len(samples_per_row), positions), ends[:-1] + np.repeat(row_firsts, samples_per_row)


def _refuse_long_row(seatings: Sequence[Seating], lengths: NDArray, length: int) -> None:
    longest = int(lengths.argmax())
    if lengths[longest] > length:
        raise SampleError(
            "too_long",
            f"takes {lengths[longest]} positions, its pictures included, more than the length of {length}",
            sample_id=seatings[longest].sample_id,
        )
    names = ", ".join(repr(seating.sample_id) for seating in seatings)
    raise LlavaKitError(f"samples {names} share a row and take {lengths.sum()} positions, more than its length of {length}")


def _sequences(shape: tuple[int, int], firsts: NDArray, lengths: NDArray, samples_per_row: NDArray) -> tuple[Sequences, Tensor]:
    """Where the sequences of the flat batch lie, the padding at the end of a row among them, and the positions within each."""
    num_rows, positions = shape
    row_ends = np.arange(1, num_rows + 1) * positions
    filled = row_ends - positions  # where the padding of each row begins
    rows = np.repeat(np.arange(num_rows), samples_per_row)
    np.maximum.at(filled, rows, firsts + lengths)
    starts = np.sort(np.concatenate([firsts, filled[filled < row_ends]]))
    total = num_rows * positions
    spans = np.diff(starts, append=total)
    assert total < 2**31  # offsets and source are int32
    assert spans.min() > 0
    offsets = np.append(starts, total)
    sequences = Sequences(
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        host_offsets=tuple(offsets.tolist()),
        longest=int(spans.max()),
        packed=bool(samples_per_row.max() > 1),
    )
    position_ids = np.arange(total) - np.repeat(starts, spans)
    return sequences, torch.from_numpy(position_ids.reshape(shape))
