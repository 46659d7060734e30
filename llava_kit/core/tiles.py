"""Pictures as tiles: what an encoder takes, how a picture is cut, and what came of it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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

    `size` is the picture's own (width, height) in pixels after its orientation was applied. `tiles` is (0, 0) when there is
    only the overview. `unpad`: the rows of the canvas that hold no picture are left out and a newline row ends each line.
    """

    size: tuple[int, int]
    tiles: Grid = Grid(0, 0)
    unpad: bool = False

    @property
    def num_tiles(self) -> int:
        return 1 + self.tiles.area
