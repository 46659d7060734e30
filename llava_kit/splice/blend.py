"""Which visual rows go into a row that is a blend of others, and by how much: canvases that are shrunk, frames that are pooled.

Q visual rows go into R blended ones, at most four into each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.tiles import ClipGrid, Grid, TileGrid
from .inverse import readers
from .layout import canvas_lines, count_newlines, count_rows, is_shrunk, kept_lines, pooled_grid, shown_grid

# torch has two CPU kernels for bilinear interpolation; up to this sum of the new sides it takes the one that fuses (2.15,
# found by trying). CUDA's always does.
FUSED = 128


class Mixture(NamedTuple):
    """The blended rows of a picture, in the order of their seats.

    rows     int64 [Q]       visual rows, counted from the picture's first, each once
    taps     int64 [R, 4]    places in `rows`
    weights  float32 [R, 4]  zero where fewer than four go in
    readers  int64 [4 * R]   the flat places in `taps`, grouped by the row they read; those of a row begin at
    reader_bounds [Q + 1]
    """

    rows: NDArray[np.int64]
    taps: NDArray[np.int64]
    weights: NDArray[np.float32]
    readers: NDArray[np.int64]
    reader_bounds: NDArray[np.int64]
    reduce: Literal["sum", "max"]


def mixture(grid: TileGrid | ClipGrid, side: Grid) -> Mixture | None:
    """Of what the blended rows of a picture are made; None when it has none. The arrays are shared and read-only."""
    if isinstance(grid, ClipGrid):
        return _clip(grid, side)
    if not grid.tiles.area or not is_shrunk(grid, side):
        return None
    return _shrunk(grid.tiles, side, kept_lines(grid, side), shown_grid(grid, side))


def count_projected(grid: TileGrid | ClipGrid, side: Grid) -> int:
    """How many visual rows of a picture a rowwise connector makes: those in use, and those that go into blends."""
    mixed = mixture(grid, side)
    rows = count_rows(grid, side) - count_newlines(grid, side)
    return rows if mixed is None else rows - len(mixed.taps) + len(mixed.rows)


@lru_cache(maxsize=64)  # up to half a MiB each
def _shrunk(tiles: Grid, side: Grid, window: tuple[int, int, int, int], shown: Grid) -> Mixture:
    lines = canvas_lines(tiles, side, window)
    return _frozen(*_resampled(lines, shown), "sum")


@lru_cache(maxsize=64)
def _clip(grid: ClipGrid, side: Grid) -> Mixture:
    """One frame's mixture for each of its frames."""
    frame = np.arange(side.area).reshape(side)
    pooled = pooled_grid(grid, side)
    if grid.pool == "bilinear":
        rows, taps, weights = _resampled(frame, pooled)
    else:
        whole = frame[: 2 * pooled.rows, : 2 * pooled.cols].reshape(pooled.rows, 2, pooled.cols, 2)
        rows, taps = _numbered(whole.transpose(0, 2, 1, 3).reshape(-1, 4))
        weights = np.full(taps.shape, 0.25, np.float32)
    frames = np.arange(grid.num_tiles)
    return _frozen(
        (rows + frames[:, None] * side.area).ravel(),
        (taps + frames[:, None, None] * len(rows)).reshape(-1, 4),
        np.tile(weights, (grid.num_tiles, 1)),
        "max" if grid.pool == "max" else "sum",
    )


def _resampled(lines: NDArray, shown: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows, taps and weights of `lines` [height, width], brought to `shown` by bilinear interpolation."""
    fused = shown.rows + shown.cols <= FUSED
    above, below, down = _axis(lines.shape[0], shown.rows, fused)
    left, right, across = _axis(lines.shape[1], shown.cols, fused)
    corners = [lines[np.ix_(y, x)] for y in (above, below) for x in (left, right)]
    rows, taps = _numbered(np.stack(corners, axis=-1).reshape(-1, 4))
    one = np.float32(1)
    weights = [y[:, None] * x for y in (one - down, down) for x in (one - across, across)]
    return rows, taps, np.stack(weights, axis=-1).reshape(-1, 4)


def _axis(length: int, new: int, fused: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each of `new` places the neighbours before and after it among `length`, and the weight of the one after.

    Pixel centres correspond (`align_corners=False`). The numbers are float32 as in torch's `interpolate`, which the original
    calls: in float64 the weights would be off by 1e-5, and rows with them. `fused`: multiplication and subtraction are rounded
    once, together. It matters just below powers of two alone, and there by 8e-6 of the distance between two rows at most.
    """
    scale = np.float32(length) / np.float32(new)
    if fused:
        places = ((np.arange(new) + 0.5) * float(scale) - 0.5).astype(np.float32)
    else:
        places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    places = np.maximum(places, np.float32(0))
    before = np.minimum(places.astype(np.int64), length - 1)
    return before, np.minimum(before + 1, length - 1), (places - before.astype(np.float32)).astype(np.float32)


def _numbered(found: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different numbers in `found` [R, 4], and for each of its elements the place among them."""
    rows, places = np.unique(found, return_inverse=True)
    return rows.astype(np.int64), places.reshape(found.shape).astype(np.int64)


def _frozen(rows: NDArray, taps: NDArray, weights: NDArray, reduce: Literal["sum", "max"]) -> Mixture:
    arrays = (rows, taps, weights, *readers(taps, len(rows)))
    for array in arrays:
        array.setflags(write=False)
    return Mixture(*arrays, reduce)
