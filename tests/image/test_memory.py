"""Pillow's memory as an array: the same pixels, alive as long as needed, and only recognised where it is whole."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from llava_kit.image.memory import pixels_of, whole


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 4099 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The last is kept by Pillow in two pieces.
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (64, 48), (333, 211), (2300, 2000)])
def test_pixels_are_those_of_the_picture(size):
    pixels = noise(*size)
    picture = Image.fromarray(pixels)
    found = pixels_of(picture)
    del picture
    gc.collect()
    others = [Image.new("RGB", size, "red") for _ in range(3)]  # would take freed memory
    assert found.shape == (size[1], size[0], 3)
    np.testing.assert_array_equal(found, pixels)
    assert len(others) == 3


def test_where_pillow_lends_nothing_the_pixels_are_packed(monkeypatch):
    pixels = noise(40, 30)
    lent = pixels_of(Image.fromarray(pixels))
    assert lent.strides == (160, 4, 1)
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    packed = pixels_of(Image.fromarray(pixels))
    assert packed.strides == (120, 3, 1)
    np.testing.assert_array_equal(packed, lent)


def test_whole_is_found_only_behind_the_first_three_of_four_bytes():
    four = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4).copy()  # a base of its own
    assert whole(four[..., :3]) is four
    views = [four[..., 1:], four[1:, :, :3], four[:, 1:, :3], four[::-1, :, :3], four[..., 2::-1], four[::2, :, :3]]
    for view in [*views, four[..., :3].copy(), four[..., :3].transpose(1, 0, 2), four.astype(np.int32)[..., :3]]:
        assert whole(view) is view
    square = np.zeros((4, 4, 4), np.uint8)
    turned = square.transpose(1, 0, 2)[..., :3]
    assert whole(turned) is turned
