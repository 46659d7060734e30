"""Picture -> tiles: resize, pad and AnyRes as LLaVA does them. N tiles, the overview first; S the side of a tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.tiles import ClipGrid, EncoderSpec, TileGrid
from ..errors import DataError
from .colour import to_rgb
from .geometry import Geometry, TilingPlan, fit_shorter_side
from .memory import pixels_of
from .options import TilingOptions, VideoOptions
from .resize import pad_and_resize, resize, resize_and_crop, resize_onto

__all__ = ["Geometry", "Tiler", "TilingOptions", "VideoOptions"]


class Tiler:
    """Cuts pictures for one encoder. Holds numbers only: it can be pickled to data workers and shared by threads.

    Raises `RecipeError` for options that do not fit the encoder's tile.
    """

    def __init__(self, spec: EncoderSpec, options: TilingOptions):
        self.spec, self.options = spec, options
        self._plan = TilingPlan(spec.image_size, options)
        # LLaVA's own rounding of the mean colour: (122, 116, 104) for CLIP, (127, 127, 127) for SigLIP.
        self._colour = (int(255 * spec.mean[0]), int(255 * spec.mean[1]), int(255 * spec.mean[2]))

    def plan(self, size: tuple[int, int], *, alone: bool = True) -> TileGrid:
        """How a picture of `size` (width, height) will be cut; no pixels needed. `alone`: the only one of its sample."""
        return self._plan.grid(size, alone=alone)

    def plan_clip(self, num_frames: int) -> ClipGrid:
        """How a clip will be cut of which `num_frames` are looked at. The options must have a `video` block."""
        return self._plan.clip(num_frames)

    def geometry(self, size: tuple[int, int], *, alone: bool = True) -> Geometry:
        """Where a picture of `size` lies on its canvas, for those who want to draw it."""
        return self._plan.geometry(size, alone=alone)

    def cut(self, picture: Image.Image | NDArray[np.uint8], *, alone: bool = True) -> tuple[NDArray[np.uint8], TileGrid]:
        """An upright picture, PIL or uint8 [H, W, 3] -> its tiles, uint8 [N, 3, S, S] in C order, and how it was cut."""
        pixels = _pixels(picture)
        side = self.spec.image_size
        size = (pixels.shape[1], pixels.shape[0])
        grid = self.plan(size, alone=alone)
        tiles = np.empty((grid.num_tiles, 3, side, side), np.uint8)
        tiles[0] = self._overview(pixels, self._plan.mode(alone)).transpose(2, 0, 1)
        if grid.tiles.area:
            canvas = self._canvas(pixels, size).reshape(grid.tiles.rows, side, grid.tiles.cols, side, 3)
            tiles[1:].reshape(*grid.tiles, 3, side, side)[:] = canvas.transpose(0, 2, 4, 1, 3)
        return tiles, grid

    def cut_frame(self, picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame of a clip -> its one tile, uint8 [3, S, S]. The options must have a `video` block."""
        assert self.options.video is not None
        return self._overview(_pixels(picture), self.options.video.frame).transpose(2, 0, 1)

    def _overview(self, pixels: NDArray[np.uint8], mode: str) -> NDArray[np.uint8]:
        """The whole picture on one tile, uint8 [S, S, 3]. AnyRes squashes it: LLaVA-NeXT was trained so."""
        side, resampler = self.spec.image_size, self.options.resampler
        if mode == "pad":
            return pad_and_resize(pixels, side, self._colour, resampler)
        if mode == "square":
            size = (pixels.shape[1], pixels.shape[0])
            return resize_and_crop(pixels, *fit_shorter_side(size, side), side, resampler)
        return resize(pixels, side, side, resampler)

    def _canvas(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """The picture on its AnyRes canvas, black around it: uint8 [canvas height, canvas width, 3]."""
        place = self.geometry(size)
        return resize_onto(pixels, *place.resized, place.canvas, place.offset, self.options.resampler)


def _pixels(picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(picture, Image.Image):
        return pixels_of(picture if picture.mode == "RGB" else to_rgb(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DataError(f"picture: found an array {picture.dtype} {list(picture.shape)}; expected uint8 [height, width, 3]")
    return picture
