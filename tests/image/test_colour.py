"""Every mode becomes RGB as a person would see it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llava_kit.image.colour import to_rgb
from llava_kit.image.reader import read_picture


def greys(picture) -> list[int]:
    pixels = np.asarray(to_rgb(picture))
    assert (pixels[..., :1] == pixels).all()
    return pixels[0, :, 0].tolist()


def test_transparent_is_white_whatever_lies_under_it():
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == (255, 0, 0)
    half = to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0))
    assert half == (127, 127, 127)
    assert greys(Image.new("LA", (1, 1), (0, 0))) == [255]
    assert greys(Image.new("La", (1, 1), (0, 0))) == [255]
    assert to_rgb(Image.new("RGBa", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_transparency(encode, format):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    found = read_picture(encode(picture, format, transparency=0))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_a_colour_declared_transparent(encode):
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    found = read_picture(encode(picture, "PNG", transparency=(255, 0, 0)))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_sixteen_bits_are_scaled(encode):
    deep = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
    assert deep.mode == "I;16"
    assert greys(deep) == [0, 1, 128, 255]
    for format in ("PNG", "TIFF"):
        assert np.asarray(read_picture(encode(deep, format)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 20, 100]], np.int32), [0, 153, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.5, 200]], np.float32), [0, 0, 200]),
        (np.array([[-1, 0.2, 1]], np.float32), [0, 153, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.array([[7, 7, 7]], np.float32), [7, 7, 7]),
        (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
    ],
)
def test_numbers_without_a_fixed_range(values, expected):
    assert greys(Image.fromarray(values)) == expected


def test_the_rest():
    assert greys(Image.new("1", (1, 1), 1)) == [255]
    assert greys(Image.new("L", (1, 1), 77)) == [77]
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert to_rgb(Image.new("YCbCr", (1, 1), (76, 85, 255))).getpixel((0, 0))[0] > 240
    assert to_rgb(Image.new("HSV", (1, 1), (0, 255, 255))).getpixel((0, 0)) == (255, 0, 0)


def test_the_original_is_left_alone():
    picture = Image.new("RGB", (2, 2), "red")
    to_rgb(picture).putpixel((0, 0), (0, 0, 0))
    assert picture.getpixel((0, 0)) == (255, 0, 0)
