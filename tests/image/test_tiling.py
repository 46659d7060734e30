"""Pictures become tiles: order, layout, places and colours. N tiles, the overview first; S the side of a tile."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.errors import DataError, RecipeError
from llava_kit.image.tiling import Tiler, TilingOptions

CLIP = (0.48145466, 0.4578275, 0.40821073)
SPEC = EncoderSpec(image_size=16, grid=Grid(4, 4), width=8, mean=CLIP, std=(0.27, 0.26, 0.28))
CANVASES = ((16, 32), (32, 16), (32, 32), (48, 16), (16, 48))
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def quartered(width: int, height: int) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    x, y = width // 2, height // 2
    pixels[:y, :x], pixels[:y, x:], pixels[y:, :x], pixels[y:, x:] = RED, GREEN, BLUE, WHITE
    return pixels


def tiler(mode: str, **keys) -> Tiler:
    return Tiler(SPEC, TilingOptions(mode, CANVASES if mode == "anyres" else (), **keys))


@pytest.mark.parametrize("mode", ["square", "pad", "resize", "anyres"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (31, 47), (1, 20000), (20000, 1), (1, 65535), (96, 64)])
def test_tiles_are_bytes_in_c_order_and_as_planned(mode, size):
    cut = tiler(mode)
    tiles, grid = cut.cut(np.full((size[1], size[0], 3), 200, np.uint8))
    assert grid == cut.plan(size)
    assert tiles.shape == (grid.num_tiles, 3, 16, 16)
    assert tiles.dtype == np.uint8
    assert tiles.flags.c_contiguous
    assert tiles.flags.writeable
    if mode != "pad":  # which dilutes a thread with its colour
        assert (tiles[0] == 200).any()


def test_detail_tiles_are_row_major_after_the_overview():
    tiles, grid = tiler("anyres").cut(quartered(32, 32))
    assert grid.tiles == Grid(2, 2)
    assert [tuple(tile[:, 8, 8]) for tile in tiles[1:]] == [RED, GREEN, BLUE, WHITE]
    assert [tuple(tiles[0][:, y, x]) for y in (2, 13) for x in (2, 13)] == [RED, GREEN, BLUE, WHITE]


def test_the_canvas_is_black_around_the_picture():
    tiles, grid = tiler("anyres").cut(np.full((22, 30, 3), 255, np.uint8))
    assert grid.tiles == Grid(2, 2)
    place = tiler("anyres").geometry((30, 22))
    assert place == ((32, 32), (32, 24), (0, 4), (2, 2))
    canvas = tiles[1:].reshape(2, 2, 3, 16, 16).transpose(2, 0, 3, 1, 4).reshape(3, 32, 32)
    assert (canvas[:, :4] == 0).all()
    assert (canvas[:, 28:] == 0).all()
    assert (canvas[:, 4:28] == 255).all()


def test_the_picture_of_a_thread_is_not_lost():
    tiles, grid = tiler("anyres").cut(np.full((20000, 1, 3), 255, np.uint8))
    assert grid.tiles == Grid(2, 1)
    assert (tiles[1:] == 255).any(axis=(1, 3)).sum() == 2 * 16  # one column of one pixel in each line
    assert (tiles[0] == 255).all()


def test_pad_has_the_mean_colour_at_the_sides():
    tiles, _ = tiler("pad").cut(np.full((16, 32, 3), 255, np.uint8))
    assert tuple(tiles[0][:, 0, 8]) == tuple(tiles[0][:, 15, 8]) == (122, 116, 104)
    assert tuple(tiles[0][:, 8, 8]) == WHITE


def test_square_shows_the_centre():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    tiles, _ = tiler("square").cut(pixels)
    assert (tiles[0][:, :, 1:15] > 240).all()


def test_merge_is_passed_on():
    assert tiler("anyres", merge="flat").plan((30, 20)).merge == "flat"
    assert tiler("anyres").plan((30, 20)).merge == "spatial_unpad"
    assert tiler("pad").plan((30, 20)).merge == "spatial", "an overview that is all there is has no newline, as in LLaVA 1.5"


def test_pillow_pictures_and_arrays_give_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for mode in ("square", "pad", "resize", "anyres"):
        np.testing.assert_array_equal(tiler(mode).cut(pixels)[0], tiler(mode).cut(Image.fromarray(pixels))[0])
    see_through = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (tiler("pad").cut(see_through)[0] == 255).all()


def test_the_picture_is_not_changed_and_not_shared():
    pixels = quartered(16, 16)
    tiles, _ = tiler("pad").cut(pixels)
    tiles[:] = 0
    np.testing.assert_array_equal(pixels, quartered(16, 16))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(DataError, match=r"expected uint8 \[height, width, 3\]"):
        tiler("pad").cut(pixels)


def test_canvases_that_do_not_fit_the_encoder_are_refused_at_once():
    with pytest.raises(RecipeError, match=r"\[20, 32\].*16 pixels"):
        Tiler(SPEC, TilingOptions("anyres", ((16, 32), (20, 32))))


def test_a_tiler_goes_to_workers():
    pixels = quartered(53, 37)
    again = pickle.loads(pickle.dumps(tiler("anyres")))
    np.testing.assert_array_equal(again.cut(pixels)[0], tiler("anyres").cut(pixels)[0])


def test_small_drawn_pictures_are_quick():
    """0.12 ms was measured; four times that is a lost fast path, not a busy machine."""
    cut = Tiler(EncoderSpec(64, Grid(8, 8), 8, CLIP, CLIP), TilingOptions("pad"))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    times = []
    for _ in range(10):
        start = time.process_time()
        for _ in range(20):
            cut.cut(pixels)
        times.append((time.process_time() - start) / 20)
    assert min(times) < 0.5e-3


def test_reading_and_planning_need_no_torch():
    script = "import sys, llava_kit.image.reader, llava_kit.image.geometry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
