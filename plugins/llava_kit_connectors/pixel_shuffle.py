"""Pixel shuffle: squares of neighbouring patches become one row. N tiles, P patches a tile, f the side of a square."""

from __future__ import annotations

from torch import Tensor

from llava_kit import Connector, Grid, LlavaKitError

from .rowwise import Mlp


class PixelShuffle(Connector):
    """f x f patches side by side as one row of f * f * D_vision, then an MLP. The grid shrinks by f each way."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        grid: Grid,
        *,
        factor: int,
        depth: int = 2,
        activation: str = "gelu",
        bias: bool = True,
    ):
        super().__init__()
        if grid.rows % factor or grid.cols % factor:
            fitting = [str(f) for f in range(2, min(grid) + 1) if grid.rows % f == 0 and grid.cols % f == 0]
            raise LlavaKitError(
                f"connector pixel_shuffle: factor {factor} does not divide the encoder's grid of {grid.rows} x {grid.cols} "
                f"patches; factors that do: {', '.join(fitting) or 'none'}"
            )
        self.grid = grid
        self.factor = factor
        self.projection = Mlp(vision_width * factor**2, text_width, depth=depth, activation=activation, bias=bias)

    def output_grid(self, grid: Grid) -> Grid:
        return Grid(grid.rows // self.factor, grid.cols // self.factor)

    def forward(self, features: Tensor) -> Tensor:
        """[N, P, D_vision] -> [N, P / f^2, D]; the patches of a square stand in reading order."""
        rows, cols = self.output_grid(self.grid)
        squares = features.view(-1, rows, self.factor, cols, self.factor, features.shape[-1])
        squares = squares.permute(0, 1, 3, 2, 4, 5).flatten(3)
        return self.projection(squares.flatten(1, 2))
