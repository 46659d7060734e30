"""Where the visual rows of one picture sit, as index arithmetic: AnyRes merge, unpad and newline need no pixels and no tensors.

A tile gives `side` visual rows (rows x cols, row-major). The tiles of a picture are numbered overview first, then the detail
tiles row-major; visual row `first + tile * side.area + patch` is patch `patch` of tile `tile`. Of a clip each frame is a tile.
Rows that are blends of others (a canvas that is shrunk, frames that are pooled) have the code BLENDED; `blend` says of which.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.codes import BLENDED, NEWLINE
from ..core.tiles import ClipGrid, Grid, Rule, TileGrid

# A canvas may have so many times more sides than `max_tiles` tiles before it is shrunk (LLaVA-NeXT, llava_arch.py).
SLACK = 1.1


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


def shown_grid(grid: TileGrid, side: Grid) -> Grid:
    """Lines of the canvas and rows in each, newlines not counted: the kept window, shrunk where `max_tiles` asks for it."""
    y0, y1, x0, x1 = kept_lines(grid, side)
    kept = Grid(y1 - y0, x1 - x0)
    if grid.max_tiles is None or grid.merge != "spatial_unpad":
        return kept
    times = math.sqrt(kept.area / (grid.max_tiles * side.area))
    # The original fails where a side would vanish.
    return Grid(max(1, int(kept.rows // times)), max(1, int(kept.cols // times))) if times > SLACK else kept


def pooled_grid(clip: ClipGrid, side: Grid) -> Grid:
    """Lines of a frame and rows in each, pooled two by two; `bilinear` rounds up, the others drop an odd line."""
    up = clip.pool == "bilinear"
    return Grid((side.rows + up) // 2, (side.cols + up) // 2)


def count_rows(grid: TileGrid | ClipGrid, side: Grid) -> int:
    """How many positions a picture or a clip takes, newlines included; known from its size, before any pixel is read."""
    if isinstance(grid, ClipGrid):
        pooled = pooled_grid(grid, side)
        newlines = {"grid": grid.num_tiles * pooled.rows, "frame": grid.num_tiles, "one_token": 1, "no_token": 0}
        return grid.num_tiles * pooled.area + newlines[grid.newline]
    newline = grid.merge == "spatial_unpad"
    if not grid.tiles.area:
        return side.area + newline
    shown = shown_grid(grid, side)
    return side.area + shown.rows * (shown.cols + newline)


def count_newlines(grid: TileGrid | ClipGrid, side: Grid) -> int:
    """How many of `count_rows` are newlines."""
    if isinstance(grid, ClipGrid):
        return count_rows(grid, side) - grid.num_tiles * pooled_grid(grid, side).area
    if grid.merge != "spatial_unpad":
        return 0
    return shown_grid(grid, side).rows if grid.tiles.area else 1


def picture_rows(grid: TileGrid | ClipGrid, side: Grid, first: int) -> NDArray[np.int32]:
    """The rows of one picture in the order of their seats: int32 [count_rows(grid, side)]; visual rows, NEWLINE or BLENDED.

    The overview comes first, then the detail tiles: one after another (`flat`), or the kept lines of their canvas, with
    `spatial_unpad` each ended by a newline row. So is an overview that has no detail tiles after it.
    """
    if isinstance(grid, ClipGrid):
        return _clip_rows(grid, side)
    if grid.merge == "flat" or not grid.tiles.area:
        rows = np.arange(first, first + grid.num_tiles * side.area, dtype=np.int32)
        return np.append(rows, np.int32(NEWLINE)) if grid.merge == "spatial_unpad" else rows
    if is_shrunk(grid, side):
        overview = np.arange(first, first + side.area, dtype=np.int32)
        return np.concatenate([overview, _ended(np.full(shown_grid(grid, side), BLENDED, np.int32)).ravel()])
    pattern = _pattern(grid.tiles, side, grid.merge == "spatial_unpad", kept_lines(grid, side))
    return np.where(pattern == NEWLINE, pattern, pattern + np.int32(first))


def is_shrunk(grid: TileGrid, side: Grid) -> bool:
    """Whether the rows of the canvas are blends."""
    y0, y1, x0, x1 = kept_lines(grid, side)
    return shown_grid(grid, side) != (y1 - y0, x1 - x0)


def canvas_lines(tiles: Grid, side: Grid, window: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """int32 [y1 - y0, x1 - x0]: which visual row, counted from the overview's first, lies at each place of the window."""
    y0, y1, x0, x1 = window
    y, x = np.arange(y0, y1, dtype=np.int32)[:, None], np.arange(x0, x1, dtype=np.int32)
    tile = 1 + y // side.rows * tiles.cols + x // side.cols
    return tile * side.area + y % side.rows * side.cols + x % side.cols


@lru_cache(maxsize=512)  # a data set has few shapes of picture; a pattern takes some 10 KiB
def _pattern(tiles: Grid, side: Grid, newlines: bool, window: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """`picture_rows` for `first` = 0."""
    lines = canvas_lines(tiles, side, window)
    if newlines:
        lines = _ended(lines)
    rows = np.concatenate([np.arange(side.area, dtype=np.int32), lines.ravel()], dtype=np.int32)
    rows.setflags(write=False)
    return rows


def _ended(lines: NDArray[np.int32]) -> NDArray[np.int32]:
    """The lines [..., rows, cols], each ended by a newline."""
    return np.pad(lines, (*[(0, 0)] * (lines.ndim - 1), (0, 1)), constant_values=NEWLINE)


def _clip_rows(grid: ClipGrid, side: Grid) -> NDArray[np.int32]:
    frames = np.full((grid.num_tiles, *pooled_grid(grid, side)), BLENDED, np.int32)
    if grid.newline == "grid":
        return _ended(frames).ravel()
    if grid.newline == "frame":
        return _ended(frames.reshape(grid.num_tiles, -1)).ravel()
    return _ended(frames.reshape(1, -1)).ravel() if grid.newline == "one_token" else frames.ravel()
