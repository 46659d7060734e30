"""How a picture of a size is cut, in all the numbers that a table, a drawing or a page tells of it; no pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.tiles import Grid, TileGrid
from ..image.geometry import Geometry, TilingPlan


@dataclass(frozen=True)
class Cut:
    """One picture, or a bare size, and how it is cut.

    `side`: visual rows and columns of a tile; `kept`: y0, y1, x0, x1; `shrunk`: None where the kept lines stay as they are.
    """

    name: str
    picture: Any
    grid: TileGrid
    place: Geometry
    side: Grid
    kept: tuple[int, int, int, int]
    shrunk: Grid | None
    rows: int

    @property
    def overview(self) -> Geometry:
        """Where the picture lies on the overview tile; AnyRes squashes it there."""
        if not self.grid.tiles.area:
            return self.place
        tile = self.place.canvas[0] // self.place.tiles.cols
        return Geometry((tile, tile), (tile, tile), (0, 0), Grid(1, 1))

    @property
    def kept_shares(self) -> tuple[float, float, float, float]:
        """The kept window as shares of the canvas: left, top, right, bottom."""
        y0, y1, x0, x1 = self.kept
        tiles = self.grid.tiles if self.grid.tiles.area else Grid(1, 1)
        across, down = tiles.cols * self.side.cols, tiles.rows * self.side.rows
        return x0 / across, y0 / down, x1 / across, y1 / down

    def record(self) -> dict[str, Any]:
        """The numbers, as `inspect image --json` prints them."""
        y0, y1, x0, x1 = self.kept
        return {
            "size": list(self.grid.size),
            "canvas": list(self.place.canvas),
            "tiles": [self.place.tiles.cols, self.place.tiles.rows],
            "resized": list(self.place.resized),
            "offset": list(self.place.offset),
            "kept": [y1 - y0, x1 - x0],
            "shrunk": None if self.shrunk is None else list(self.shrunk),
            "merge": self.grid.merge,
            "rows": self.rows,
        }


def cut_of(name: str, picture: Any, size: tuple[int, int], plan: TilingPlan, side: Grid, *, alone: bool = True) -> Cut:
    """How a picture of `size` (width, height) is cut. `alone`: it is the only one of its sample."""
    from ..splice.layout import count_rows, is_shrunk, kept_lines, shown_grid  # numpy, which `--help` must not load

    grid = plan.grid(size, alone=alone)
    kept = kept_lines(grid, side) if grid.tiles.area else (0, side.rows, 0, side.cols)
    shrunk = shown_grid(grid, side) if grid.tiles.area and is_shrunk(grid, side) else None
    return Cut(name, picture, grid, plan.geometry(size, alone=alone), side, kept, shrunk, count_rows(grid, side))
