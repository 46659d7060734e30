"""Pictures as tiles: what an encoder takes, how a picture is cut, and what came of it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Merge = Literal["flat", "spatial", "spatial_unpad"]
"""How detail tiles become one sequence: tile after tile; line by line across tiles; so, without padding and with newlines."""

Rule = Literal["llava", "transformers"]
"""Whose arithmetic decides where the original LLaVA-NeXT and its port in transformers differ."""

Pool = Literal["average", "max", "bilinear"]
"""How each two by two visual rows of a frame become one; `bilinear` keeps the odd line that the others drop."""

ClipNewline = Literal["grid", "frame", "one_token", "no_token"]
"""Where newline rows stand in a clip: after each line of each frame, after each frame, after the clip, nowhere."""


class Grid(NamedTuple):
    """Rows and columns: of patches in a tile, or of tiles in a picture."""

    rows: int
    cols: int

    @property
    def area(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True)
class EncoderSpec:
    """All that a data worker must know of an encoder.

    `image_size` is the side of its square tiles in pixels, `grid` the patch rows and columns of its output (the class token
    not counted), `width` the features of a patch, `mean` and `std` the normalisation of pixels scaled to 0..1.
    """

    image_size: int
    grid: Grid
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TileGrid:
    """How one picture was cut: the overview tile first, then `tiles.rows x tiles.cols` detail tiles, row-major.

    size       the picture's own (width, height) in pixels, after its orientation was applied
    tiles      (0, 0) when there is only the overview
    merge      `flat`: the rows of one tile after those of the other; `spatial`: line by line across the tiles; `spatial_unpad`:
               so, but lines of the canvas that hold no picture are left out and a newline row ends each line (an overview
               alone is ended by one, too)
    max_tiles  a canvas that keeps more visual rows than so many tiles have is shrunk to as many (`anyres_max_N`; only with
               `spatial_unpad`); None: never
    rule       whose rounding decides which lines are left out
    """

    size: tuple[int, int]
    tiles: Grid = Grid(0, 0)
    merge: Merge = "spatial"
    max_tiles: int | None = None
    rule: Rule = "llava"

    @property
    def num_tiles(self) -> int:
        return 1 + self.tiles.area


@dataclass(frozen=True)
class ClipGrid:
    """How a clip was cut: one tile for each of `num_tiles` frames, its visual rows pooled two by two."""

    num_tiles: int
    pool: Pool = "bilinear"
    newline: ClipNewline = "grid"
