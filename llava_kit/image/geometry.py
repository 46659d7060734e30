"""How a picture of a given size is laid on tiles: numbers only, no pixels and no torch, so a header is enough to plan with."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..core.tiles import ClipGrid, Grid, TileGrid
from ..errors import RecipeError
from .options import MODES, TilingOptions, canvases_of

__all__ = ["MODES", "Geometry", "TilingOptions", "TilingPlan", "best_canvas", "fit_canvas", "fit_shorter_side"]


class Geometry(NamedTuple):
    """Where a picture lies on its canvas, in pixels of the canvas.

    canvas   (width, height) of the area that is cut into tiles
    resized  (width, height) of the picture once it was brought to the canvas
    offset   (x, y) of its upper left corner; negative in mode `square`, where what sticks out is cropped away
    tiles    rows and columns of tiles on the canvas
    """

    canvas: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    tiles: Grid


class TilingPlan:
    """Tiling options for tiles of one size, checked.

    `alone` below: the picture is the only one of its sample; with `several: pad` those of other samples are padded.
    """

    def __init__(self, tile: int, options: TilingOptions):
        self.tile, self.options = tile, options
        self.canvases: tuple[tuple[int, int], ...] = ()
        if options.mode == "anyres":
            canvases = canvases_of(options.pinpoints, tile)
            wrong = [list(entry) for entry in canvases if entry[0] % tile or entry[1] % tile]
            if wrong:
                raise RecipeError(
                    f"tiling.pinpoints: {', '.join(map(str, wrong))}: both sides must be multiples of the encoder's tile, "
                    f"{tile} pixels"
                )
            # transformers reads the same list as (height, width). For a list that holds each entry's mirror image this changes
            # only which of two equal canvases comes first, and the first one wins.
            flip = options.rule == "transformers"
            self.canvases = tuple((b, a) if flip else (a, b) for a, b in canvases)

    def mode(self, alone: bool = True) -> str:
        """The mode in which a picture is cut."""
        return "pad" if self.options.several == "pad" and not alone else self.options.mode

    def grid(self, size: tuple[int, int], *, alone: bool = True) -> TileGrid:
        """How a picture of `size` (width, height) is cut."""
        options = self.options
        if options.mode != "anyres":
            return TileGrid(size)  # LLaVA 1.5: an overview and no newline, whatever merge says
        if self.mode(alone) == "pad":
            return TileGrid(size, merge=options.merge, rule=options.rule)
        width, height = best_canvas(size, self.canvases)
        tiles = Grid(height // self.tile, width // self.tile)
        return TileGrid(size, tiles, options.merge, options.max_tiles, options.rule)

    def clip(self, num_frames: int) -> ClipGrid:
        """How a clip is cut of which `num_frames` are looked at."""
        video = self.options.video
        assert video is not None
        return ClipGrid(num_frames, video.pool, video.newline)

    def geometry(self, size: tuple[int, int], *, alone: bool = True) -> Geometry:
        """Where a picture of `size` lies on its canvas. Without detail tiles the canvas is the one overview tile."""
        mode = self.mode(alone)
        if mode == "anyres":
            canvas = best_canvas(size, self.canvases)
            resized = fit_canvas(size, canvas)
            offset = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)
            return Geometry(canvas, resized, offset, Grid(canvas[1] // self.tile, canvas[0] // self.tile))
        return overview_place(size, self.tile, mode)


def overview_place(size: tuple[int, int], tile: int, mode: str) -> Geometry:
    """Where a picture of `size` lies on the one tile that shows it whole, by `square`, `pad` or `resize`."""
    resized, offset = (tile, tile), (0, 0)
    if mode == "square":
        resized = fit_shorter_side(size, tile)
        offset = (-((resized[0] - tile) // 2), -((resized[1] - tile) // 2))
    elif mode == "pad":
        resized, offset = _fit_padded(size, tile)
    return Geometry((tile, tile), resized, offset, Grid(1, 1))


def best_canvas(size: tuple[int, int], canvases: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The (width, height) that shows most of the picture's own pixels, then wastes least; the first of equals.

    No canvas gains by enlarging, so a small picture takes the smallest. The floats are LLaVA's own (`select_best_resolution`):
    exact fractions would choose differently where `int(width * scale)` lands just below a whole number.
    """
    width, height = size
    best, best_shown, best_waste = canvases[0], -1, 0
    for canvas in canvases:
        scale = min(canvas[0] / width, canvas[1] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        waste = canvas[0] * canvas[1] - shown
        if shown > best_shown or (shown == best_shown and waste < best_waste):
            best, best_shown, best_waste = canvas, shown, waste
    return best


def fit_canvas(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the picture when it fills the canvas along one axis, its ratio kept; rounded up, so at least 1."""
    width, height = size
    scale_x, scale_y = canvas[0] / width, canvas[1] / height
    if scale_x < scale_y:
        return canvas[0], min(math.ceil(height * scale_x), canvas[1])
    return min(math.ceil(width * scale_y), canvas[0]), canvas[1]


def fit_shorter_side(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """(width, height) of the picture when its shorter side is a tile long, the longer rounded down as CLIP's processor does."""
    width, height = size
    if width <= height:
        return tile, int(tile * height / width)
    return int(tile * width / height), tile


def _fit_padded(size: tuple[int, int], tile: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and place of a picture that was padded to a square before it was resized: to the nearest pixel."""
    long = max(size)
    resized = (max(1, round(size[0] * tile / long)), max(1, round(size[1] * tile / long)))
    x, y = (min(round((long - side) // 2 * tile / long), tile - new) for side, new in zip(size, resized))
    return resized, (x, y)
