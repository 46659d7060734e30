"""Every mode becomes RGB as a person would see it, alone and on the whole way from a file to a tile."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.image.colour import to_rgb
from llava_kit.image.reader import picture_size, read_picture, read_pixels
from llava_kit.image.tiling import Tiler, TilingOptions

HALF = (0.5, 0.5, 0.5)
TILER = Tiler(EncoderSpec(8, Grid(2, 2), 4, HALF, HALF), TilingOptions("anyres", ((8, 8), (16, 8), (8, 16), (16, 16))))
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


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


def halves(mode: str, left, right) -> Image.Image:
    """16 x 8 pixels of two values of `mode`."""
    picture = Image.new(mode, (16, 8), right)
    picture.paste(left, (0, 0, 8, 8))
    return picture


def palette(left, right) -> Image.Image:
    picture = halves("P", 0, 1)
    picture.putpalette([*left, *right])
    return picture


def sixteen(*values: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.repeat(np.array([values], np.uint16), 8, 0), 16 // len(values), 1))


def adobe_cmyk() -> Image.Image:
    """Red ink and none: Pillow writes CMYK JPEGs inverted, with Adobe's marker, and inverts them again on reading."""
    return halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0))


END_TO_END = {
    "grey": (halves("L", 77, 200), "PNG", {}, (77,) * 3, (200,) * 3),
    "grey JPEG": (halves("L", 77, 200), "JPEG", {"quality": 100}, (77,) * 3, (200,) * 3),
    "one bit": (halves("1", 0, 1), "PNG", {}, BLACK, WHITE),
    "one bit TIFF": (halves("1", 0, 1), "TIFF", {"compression": "group4"}, BLACK, WHITE),
    "grey and alpha": (halves("LA", (77, 255), (0, 0)), "PNG", {}, (77,) * 3, WHITE),
    "colour and alpha": (halves("RGBA", (255, 0, 0, 255), (255, 0, 0, 0)), "PNG", {}, RED, WHITE),
    "half transparent": (halves("RGBA", (0, 0, 0, 128), (0, 0, 0, 255)), "WEBP", {"lossless": True}, (127,) * 3, BLACK),
    "palette": (palette((255, 0, 0), (0, 0, 255)), "PNG", {}, RED, (0, 0, 255)),
    "palette GIF": (palette((255, 0, 0), (0, 0, 255)), "GIF", {}, RED, (0, 0, 255)),
    "palette, transparent": (palette((255, 0, 0), (0, 0, 255)), "PNG", {"transparency": 1}, RED, WHITE),
    "palette, half transparent": (
        palette((0, 0, 0), (0, 0, 255)),
        "PNG",
        {"transparency": b"\x80\xff"},
        (127,) * 3,
        (0, 0, 255),
    ),
    "grey declared transparent": (halves("L", 77, 0), "PNG", {"transparency": 0}, (77,) * 3, WHITE),
    "16 bits": (sixteen(257 * 40, 65535), "PNG", {}, (40,) * 3, WHITE),
    "16 bits TIFF": (sixteen(257 * 40, 65535), "TIFF", {}, (40,) * 3, WHITE),
    "CMYK TIFF": (adobe_cmyk(), "TIFF", {}, RED, WHITE),
    "CMYK JPEG of Adobe": (adobe_cmyk(), "JPEG", {"quality": 100, "subsampling": 0}, RED, WHITE),
    "YCbCr": (halves("YCbCr", (76, 85, 255), (255, 128, 128)), "JPEG", {"quality": 100, "subsampling": 0}, RED, WHITE),
    "Lab": (halves("LAB", (0, 128, 128), (255, 128, 128)), "TIFF", {}, BLACK, WHITE),
}


@pytest.mark.parametrize("name", END_TO_END)
def test_from_a_file_to_the_tile(encode, name):
    """Left and right half on the overview and on the detail tiles; a JPEG may be some levels off."""
    picture, format, keys, left, right = END_TO_END[name]
    ref = encode(picture, format, **keys)
    tiles, grid = TILER.cut(read_pixels(ref))
    assert grid.size == picture_size(ref) == (16, 8)
    assert tiles.shape == (3, 3, 8, 8)
    levels = 6 if format == "JPEG" else 1 if name == "Lab" else 0
    for place, wanted in zip((tiles[1], tiles[2]), (left, right)):
        assert np.abs(place[:, 4, 4].astype(int) - wanted).max() <= levels
    # The overview is squashed to a half, so the border between the colours reaches two pixels far.
    for column, wanted in ((0, left), (7, right)):
        assert np.abs(tiles[0, :, 4, column].astype(int) - wanted).max() <= levels + 3


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_turned_jpeg_is_cut_upright(encode, mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned by 90 degrees
    colours = {"L": (0, 255), "RGB": (BLACK, WHITE), "CMYK": ((0, 0, 0, 255), (0, 0, 0, 0))}[mode]
    stored = halves(mode, *colours)
    tiles, grid = TILER.cut(read_pixels(encode(stored, "JPEG", quality=100, exif=exif)))
    assert (grid.size, grid.tiles) == ((8, 16), (2, 1))
    assert tiles[1].max() < 10, "what was stored on the left is above"
    assert tiles[2].min() > 245
