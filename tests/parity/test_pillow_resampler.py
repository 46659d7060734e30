"""The exact option of resampling against the PIL image processors of transformers: equal to the byte before normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llava_kit.image.geometry import TilingOptions, TilingPlan, fit_shorter_side
from llava_kit.image.resize import pad_and_resize, resize, resize_and_crop

TILE, COLOUR = 112, (122, 116, 104)
PINPOINTS = ((112, 224), (224, 112), (224, 224), (336, 112), (112, 336))
SIZES = [(640, 480), (333, 517), (427, 640), (100, 80), (112, 112), (113, 113), (900, 300), (61, 700), (1200, 90)]
KEYS = {
    "size": {"shortest_edge": TILE},
    "crop_size": {"height": TILE, "width": TILE},
    "do_rescale": False,
    "do_normalize": False,
}


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 4099 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def theirs(picture: np.ndarray) -> np.ndarray:
    """[height, width, 3]"""
    tiles = CLIPImageProcessorPil(**KEYS)(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    return tiles[0].transpose(1, 2, 0)


@pytest.mark.parametrize("size", SIZES)
def test_square(size):
    pixels = noise(*size)
    ours = resize_and_crop(pixels, *fit_shorter_side(size, TILE), TILE, resampler="pillow")
    np.testing.assert_array_equal(ours, theirs(pixels))


@pytest.mark.parametrize("size", SIZES)
def test_pad(size):
    pixels, longer = noise(*size), max(size)
    square = Image.new("RGB", (longer, longer), COLOUR)
    square.paste(Image.fromarray(pixels), ((longer - size[0]) // 2, (longer - size[1]) // 2))
    np.testing.assert_array_equal(pad_and_resize(pixels, TILE, COLOUR, resampler="pillow"), theirs(np.asarray(square)))


@pytest.mark.parametrize("size", SIZES)
def test_anyres(size):
    pixels = noise(*size)
    processor = LlavaNextImageProcessorPil(**KEYS, image_grid_pinpoints=[list(entry) for entry in PINPOINTS])
    tiles = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(resize(pixels, TILE, TILE, resampler="pillow"), tiles[0])
    place = TilingPlan(TILE, TilingOptions("anyres", PINPOINTS, rule="transformers")).geometry(size)
    rows, columns = place.tiles
    canvas = tiles[1:].reshape(rows, columns, TILE, TILE, 3).transpose(0, 2, 1, 3, 4).reshape(rows * TILE, columns * TILE, 3)
    (x, y), (width, height) = place.offset, place.resized
    np.testing.assert_array_equal(resize(pixels, width, height, resampler="pillow"), canvas[y : y + height, x : x + width])
