"""Where the visual rows of one picture sit, as index arithmetic: AnyRes merge, unpad and newline need no pixels and no tensors.

A tile gives `side` visual rows (rows x cols, row-major). The tiles of a picture are numbered overview first, then the detail
tiles row-major; visual row `first + tile * side.area + patch` is patch `patch` of tile `tile`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.codes import NEWLINE
from ..core.tiles import Grid, Rule, TileGrid


def kept_lines(grid: TileGrid, side: Grid) -> tuple[int, int, int, int]:
    """The window (y0, y1, x0, x1) of the detail canvas that is kept, in visual rows; the whole canvas without unpad.

    The picture fills its canvas along one axis; along the other it is centred between two black bands of equal height (or
    width), which are cut. Halves are rounded down: an odd rest leaves one line of padding in.
    """
    height, width = grid.tiles.rows * side.rows, grid.tiles.cols * side.cols
    if grid.merge != "spatial_unpad" or not grid.tiles.area:
        return 0, height, 0, width
    picture_width, picture_height = grid.size
    if picture_width * grid.tiles.rows > picture_height * grid.tiles.cols:  # wider than its canvas: bands above and below
        band = (height - _scaled(picture_height, grid.tiles.cols * side.rows, picture_width, grid.rule)) // 2
        return band, height - band, 0, width
    band = (width - _scaled(picture_width, grid.tiles.rows * side.cols, picture_height, grid.rule)) // 2
    return 0, height, band, width - band


def _scaled(length: int, new: int, old: int, rule: Rule) -> int:
    """`length` times `new / old`, rounded down: in LLaVA's floats, or exactly.

    transformers rounds the floats to seven places first, which is exact for pictures of any size. LLaVA's miss a few sizes in
    a million: 352 x 748 fills 51 lines exactly, they see 50 and keep 50 lines instead of 52.
    """
    return int(length * (new / old)) if rule == "llava" else length * new // old


def count_rows(grid: TileGrid, side: Grid) -> int:
    """How many positions a picture takes, newlines included; known from its size, before any pixel is read."""
    newline = grid.merge == "spatial_unpad"
    if not grid.tiles.area:
        return side.area + newline
    y0, y1, x0, x1 = kept_lines(grid, side)
    return side.area + (y1 - y0) * (x1 - x0 + newline)


def picture_rows(grid: TileGrid, side: Grid, first: int) -> NDArray[np.int32]:
    """The rows of one picture in the order of their seats: int32 [count_rows(grid, side)], visual rows or NEWLINE.

    The overview comes first, then the detail tiles: one after another (`flat`), or the kept lines of their canvas, with
    `spatial_unpad` each ended by a newline row. So is an overview that has no detail tiles after it.
    """
    if grid.merge == "flat" or not grid.tiles.area:
        rows = np.arange(first, first + grid.num_tiles * side.area, dtype=np.int32)
        return np.append(rows, np.int32(NEWLINE)) if grid.merge == "spatial_unpad" else rows
    pattern = _pattern(grid.tiles, side, grid.merge == "spatial_unpad", kept_lines(grid, side))
    return np.where(pattern == NEWLINE, pattern, pattern + np.int32(first))


@lru_cache(maxsize=512)  # a data set has few shapes of picture; a pattern takes some 10 KiB
def _pattern(tiles: Grid, side: Grid, newlines: bool, window: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """`picture_rows` for `first` = 0."""
    y0, y1, x0, x1 = window
    y, x = np.arange(y0, y1, dtype=np.int32)[:, None], np.arange(x0, x1, dtype=np.int32)
    tile = 1 + y // side.rows * tiles.cols + x // side.cols
    lines = tile * side.area + y % side.rows * side.cols + x % side.cols
    if newlines:
        lines = np.pad(lines, ((0, 0), (0, 1)), constant_values=NEWLINE)
    rows = np.concatenate([np.arange(side.area, dtype=np.int32), lines.ravel()], dtype=np.int32)
    rows.setflags(write=False)
    return rows
