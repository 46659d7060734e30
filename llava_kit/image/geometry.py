"""How a picture of a given size is laid on tiles: numbers only, no pixels and no torch, so a header is enough to plan with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..core.tiles import Grid, Merge, Rule, TileGrid
from ..errors import RecipeError, suggest

MODES = ("square", "pad", "resize", "anyres")
MERGES = ("flat", "spatial", "spatial_unpad")
RULES = ("llava", "transformers")


@dataclass(frozen=True)
class TilingOptions:
    """How pictures are cut; the fields of a recipe's `tiling` block.

    `mode`: `square` resizes the shorter side and crops the centre; `pad` fills up to a square with the encoder's mean colour;
    `resize` squashes to a square; `anyres` adds tiles of the best canvas among `pinpoints` (width, height), put together
    as `merge` says. `rule`: whose choice among equal canvases, and whose rounding of what the canvas holds beside the picture.
    """

    mode: str = "pad"
    pinpoints: tuple[tuple[int, int], ...] = ()
    merge: Merge = "spatial_unpad"
    rule: Rule = "llava"

    def __post_init__(self):
        for key, value, known in (("mode", self.mode, MODES), ("merge", self.merge, MERGES), ("rule", self.rule, RULES)):
            if value not in known:
                raise RecipeError(
                    f"tiling.{key}: found {value!r}, expected one of {', '.join(known)}; {suggest(str(value), known)}"
                )
        if self.mode == "anyres" and not self.pinpoints:
            raise RecipeError(
                "tiling.pinpoints: found none; anyres needs canvases to choose from, as [width, height] in pixels, "
                "multiples of the encoder's tile, such as [[336, 672], [672, 336]]"
            )
        for entry in self.pinpoints:
            if len(entry) != 2 or not all(isinstance(side, int) and side > 0 for side in entry):
                raise RecipeError(f"tiling.pinpoints: found {list(entry)}, expected [width, height] in whole pixels above 0")


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
    """Tiling options for tiles of one size, checked."""

    def __init__(self, tile: int, options: TilingOptions):
        self.tile, self.options = tile, options
        self.canvases: tuple[tuple[int, int], ...] = ()
        if options.mode == "anyres":
            wrong = [list(entry) for entry in options.pinpoints if entry[0] % tile or entry[1] % tile]
            if wrong:
                raise RecipeError(
                    f"tiling.pinpoints: {', '.join(map(str, wrong))}: both sides must be multiples of the encoder's tile, "
                    f"{tile} pixels"
                )
            # transformers reads the same list as (height, width). For a list that holds each entry's mirror image this changes
            # only which of two equal canvases comes first, and the first one wins.
            flip = options.rule == "transformers"
            self.canvases = tuple((b, a) if flip else (a, b) for a, b in options.pinpoints)

    def grid(self, size: tuple[int, int]) -> TileGrid:
        """How a picture of `size` (width, height) is cut."""
        if not self.canvases:
            return TileGrid(size)
        width, height = best_canvas(size, self.canvases)
        return TileGrid(size, Grid(height // self.tile, width // self.tile), self.options.merge, self.options.rule)

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """Where a picture of `size` lies on its canvas. Without detail tiles the canvas is the one overview tile."""
        tile, mode = self.tile, self.options.mode
        if self.canvases:
            canvas = best_canvas(size, self.canvases)
            resized = fit_canvas(size, canvas)
            offset = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)
            return Geometry(canvas, resized, offset, Grid(canvas[1] // tile, canvas[0] // tile))
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
