"""The resampler against Pillow, on shapes that fast paths get wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_kit.image.resize import pad_and_resize, resize, resize_and_crop, resize_onto


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 4099 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Rows first, bytes in between."""
    image = Image.fromarray(pixels)
    image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


lengths = st.one_of(st.integers(1, 12), st.integers(1, 400))


@settings(max_examples=150, deadline=None)
@given(lengths, lengths, lengths, lengths)
def test_any_size_to_any_size(width, height, new_width, new_height):
    pixels = noise(width, height)
    assert apart(resize(pixels, new_width, new_height), pillow(pixels, new_width, new_height)) <= 2


@pytest.mark.parametrize("size", [(65535, 1), (1, 65535), (20000, 3)])
def test_threads(size):
    pixels = noise(*size)
    for target in ((64, 64), (336, 1), (1, 336)):
        assert apart(resize(pixels, *target), pillow(pixels, *target)) <= 2


def test_flat_colours_stay():
    pixels = np.full((77, 131, 3), (122, 116, 104), np.uint8)
    assert (resize(pixels, 64, 90) == pixels[0, 0]).all()


def test_views_and_read_only_arrays(recwarn):
    pixels = noise(40, 30)
    expected = resize(pixels, 20, 25)
    fixed = pixels.copy()
    fixed.setflags(write=False)
    np.testing.assert_array_equal(resize(fixed, 20, 25), expected)
    np.testing.assert_array_equal(resize(np.repeat(pixels, 2, axis=1)[:, ::2], 20, 25), expected)
    np.testing.assert_array_equal(resize(pixels[::-1][::-1], 20, 25), expected)
    np.testing.assert_array_equal(resize(np.asfortranarray(pixels), 20, 25), expected)
    assert not recwarn.list
    np.testing.assert_array_equal(pixels, noise(40, 30))


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (30, 500), (500, 30), (61, 700), (300, 200)])
def test_crop_of_a_long_picture_is_the_middle_of_the_whole(size):
    pixels = noise(*size)
    tile = 32
    width, height = (tile, int(tile * size[1] / size[0])) if size[0] <= size[1] else (int(tile * size[0] / size[1]), tile)
    x, y = (width - tile) // 2, (height - tile) // 2
    assert apart(resize_and_crop(pixels, width, height, tile), pillow(pixels, width, height)[y : y + tile, x : x + tile]) <= 2


def padded(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    height, width = pixels.shape[:2]
    longer = max(width, height)
    square = np.full((longer, longer, 3), colour, np.uint8)
    x, y = (longer - width) // 2, (longer - height) // 2
    square[y : y + height, x : x + width] = pixels
    return square


@pytest.mark.parametrize("size", [(7, 7), (96, 64), (64, 96), (97, 64), (64, 97), (1, 300), (300, 1), (2, 333)])
def test_padding_is_the_same_as_on_the_whole_square(size):
    pixels, colour = noise(*size), (122, 116, 104)
    for tile in (16, 64, 336):
        np.testing.assert_array_equal(pad_and_resize(pixels, tile, colour), resize(padded(pixels, colour), tile, tile))


def test_padding_of_a_picture_too_tall_for_a_square_stays_near(monkeypatch):
    pixels, colour = noise(40, 600), (122, 116, 104)
    exact = pad_and_resize(pixels, 64, colour)
    monkeypatch.setattr("llava_kit.image.resize._WHOLE", 1000)
    near = pad_and_resize(pixels, 64, colour)
    assert 0 < apart(near, exact) <= 8
    assert np.abs(near.astype(int) - exact).mean() < 0.3


def test_padding_makes_no_square():
    """That of a thread as long as a JPEG may be would take 13 GB."""
    tracemalloc.start()
    for size in ((1, 65535), (65535, 1), (3, 4000)):
        assert pad_and_resize(noise(*size), 64, (122, 116, 104)).shape == (64, 64, 3)
    greatest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert greatest < 2**25


@pytest.mark.parametrize("size", [(7, 7), (96, 64), (64, 96), (97, 64), (40, 600), (1, 300), (300, 1)])
def test_pillow_resampler_is_one_call_of_pillow(size):
    pixels, colour = noise(*size), (122, 116, 104)
    for width, height in ((48, 48), (100, 31), (31, 100), size):
        one_call = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(resize(pixels, width, height, resampler="pillow"), one_call)
    for tile in (16, 336):
        square = Image.fromarray(padded(pixels, colour)).resize((tile, tile), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pad_and_resize(pixels, tile, colour, resampler="pillow"), square)


def test_pillow_resampler_bounds_what_it_makes(monkeypatch):
    pixels, tile = noise(30, 500), 32
    exact = resize_and_crop(pixels, tile, 533, tile, resampler="pillow")
    whole = Image.fromarray(pixels).resize((tile, 533), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(exact, np.asarray(whole)[250 : 250 + tile])
    monkeypatch.setattr("llava_kit.image.resize._WHOLE", 1000)
    assert apart(resize_and_crop(pixels, tile, 533, tile, resampler="pillow"), exact) <= 8


def test_bytes_do_not_depend_on_vector_instructions():
    """A run is the same on another processor: torch's plain and vectorised kernels agree."""
    script = (
        "import numpy as np, sys\n"
        "from llava_kit.image.resize import resize\n"
        "pixels = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(211, 157, 3)\n"
        "sys.stdout.buffer.write(resize(pixels, 96, 64).tobytes() + resize(pixels, 301, 336).tobytes())"
    )
    pixels = noise(157, 211)
    plain = subprocess.run(
        [sys.executable, "-c", script],
        input=pixels.tobytes(),
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        check=True,
    )
    assert plain.stdout == resize(pixels, 96, 64).tobytes() + resize(pixels, 301, 336).tobytes()


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, lengths, lengths)
def test_a_fourth_byte_changes_nothing(width, height, new_width, new_height):
    pixels = noise(width, height)
    four = np.concatenate([pixels, np.full((height, width, 1), 77, np.uint8)], axis=2)[..., :3]
    np.testing.assert_array_equal(resize(four, new_width, new_height), resize(pixels, new_width, new_height))
    tile, colour = min(new_width, 64), (122, 116, 104)
    np.testing.assert_array_equal(pad_and_resize(four, tile, colour), pad_and_resize(pixels, tile, colour))


@pytest.mark.parametrize("resampler", ["torch", "pillow"])
def test_canvas_is_black_beside_the_picture(resampler):
    pixels = noise(60, 40)
    four = np.concatenate([pixels, np.full((40, 60, 1), 255, np.uint8)], axis=2)[..., :3]
    for source in (pixels, four):
        canvas = resize_onto(source, 90, 60, (96, 64), (3, 2), resampler)
        assert canvas.shape == (64, 96, 3)
        np.testing.assert_array_equal(canvas[2:62, 3:93], resize(pixels, 90, 60, resampler))
        canvas = canvas.copy()
        canvas[2:62, 3:93] = 0
        assert not canvas.any()
        np.testing.assert_array_equal(resize_onto(source, 60, 40, (60, 40), (0, 0), resampler), pixels)
