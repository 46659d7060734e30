"""Tiles and canvases against the image processors of transformers, the ones that LLaVA's published weights are served with."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.image.geometry import TilingPlan, fit_canvas
from llava_kit.image.tiling import Tiler, TilingOptions

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPEC = EncoderSpec(image_size=336, grid=Grid(24, 24), width=1024, mean=MEAN, std=STD)
NEXT = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # LLaVA-NeXT's five canvases
LOPSIDED = ((336, 672), (1008, 672), (672, 1344))
SIZES = [(640, 480), (333, 517), (1024, 768), (100, 80), (336, 336), (337, 337), (900, 300), (61, 700), (500, 335)]
# Bytes, not normalised numbers: what is compared is the picture.
AS_BYTES = {"do_rescale": False, "do_normalize": False}
LEVELS, MEAN_LEVELS = 2, 0.02


@pytest.fixture
def rows_first(monkeypatch):
    """Pillow as it was when the weights were trained: rows first, bytes in between. Newer ones choose the order by cost."""
    plain = Image.Image.resize

    def resize(self, size, resample=None, **keys):
        if "box" in keys:  # ours, which has its order already
            return plain(self, size, resample, **keys)
        return plain(plain(self, (size[0], self.height), resample, **keys), size, resample, **keys)

    monkeypatch.setattr(Image.Image, "resize", resize)


def photograph(width: int, height: int) -> Image.Image:
    """Smooth light, a hard edge and grain, so that a shift of a fraction of a pixel shows."""
    rng = np.random.default_rng(width * 10007 + height)
    across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    light = 90 + 80 * across * np.array([1, 0.4, 0]) + 60 * down * np.array([0, 0.5, 1])
    light = light + 70 * ((across + down) % 0.31 > 0.17) + rng.integers(-25, 25, (height, width, 3))
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


def differences(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    assert ours.shape == theirs.shape
    apart = np.abs(ours.astype(np.int64) - np.asarray(theirs).astype(np.int64))
    return apart.max(), apart.mean()


def pillow_processor(kind: type, **keys):
    return kind(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, **AS_BYTES, **keys)


@pytest.mark.parametrize("size", SIZES)
def test_square_is_clips_processor(size, rows_first):
    picture = photograph(*size)
    tiles, grid = Tiler(SPEC, TilingOptions("square")).cut(picture)
    theirs = pillow_processor(CLIPImageProcessorPil)(picture, return_tensors="np")["pixel_values"]
    greatest, mean = differences(tiles, theirs)
    assert greatest <= LEVELS
    assert mean <= MEAN_LEVELS
    assert grid.num_tiles == 1


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (5000, 40), (1, 1)])
def test_square_of_a_thread_is_the_same_crop(size):
    """Beyond a ratio of eight another way is taken; a peer that makes the whole long picture agrees where it can."""
    picture = photograph(*size)
    tiles, _ = Tiler(SPEC, TilingOptions("square")).cut(picture)
    width, height = (336, int(336 * size[1] / size[0])) if size[0] <= size[1] else (int(336 * size[0] / size[1]), 336)
    if width * height > 10**8:  # the peer would need gigabytes: compare with the window that it would look at
        middle = np.asarray(picture)[size[1] // 2, size[0] // 2].astype(np.int64)
        assert np.abs(tiles[0, :, 168, 168].astype(np.int64) - middle).max() <= 40
        return
    theirs = picture.resize((width, size[1]), Image.Resampling.BICUBIC).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 336) // 2, (height - 336) // 2
    theirs = np.asarray(theirs.crop((left, top, left + 336, top + 336))).transpose(2, 0, 1)[None]
    assert differences(tiles, theirs)[0] <= LEVELS


@pytest.mark.parametrize("size", SIZES)
def test_pad_is_a_square_of_the_mean_colour_then_clips_processor(size, rows_first):
    picture = photograph(*size)
    longer = max(size)
    square = Image.new("RGB", (longer, longer), (122, 116, 104))
    square.paste(picture, ((longer - size[0]) // 2, (longer - size[1]) // 2))
    theirs = pillow_processor(CLIPImageProcessorPil)(square, return_tensors="np")["pixel_values"]
    greatest, mean = differences(Tiler(SPEC, TilingOptions("pad")).cut(picture)[0], theirs)
    assert greatest <= LEVELS
    assert mean <= MEAN_LEVELS


@pytest.mark.parametrize("size", SIZES)
def test_resize_squashes_like_clips_processor(size, rows_first):
    picture = photograph(*size)
    processor = CLIPImageProcessorPil(size={"height": 336, "width": 336}, do_center_crop=False, **AS_BYTES)
    theirs = processor(picture, return_tensors="np")["pixel_values"]
    greatest, mean = differences(Tiler(SPEC, TilingOptions("resize")).cut(picture)[0], theirs)
    assert greatest <= LEVELS
    assert mean <= MEAN_LEVELS


@pytest.mark.parametrize("pinpoints", [NEXT, LOPSIDED])
@pytest.mark.parametrize("size", SIZES)
def test_anyres_is_llava_nexts_processor(size, pinpoints, rows_first):
    picture = photograph(*size)
    tiles, grid = Tiler(SPEC, TilingOptions("anyres", pinpoints, rule="transformers")).cut(picture)
    processor = pillow_processor(LlavaNextImageProcessorPil, image_grid_pinpoints=[list(entry) for entry in pinpoints])
    theirs = processor(picture, return_tensors="np")
    assert tuple(theirs["image_sizes"][0]) == (size[1], size[0])
    greatest, mean = differences(tiles, theirs["pixel_values"][0])
    assert grid.size == size
    assert greatest <= LEVELS
    assert mean <= MEAN_LEVELS


EXTREME = [(1, 1), (3, 700), (700, 3), (2000, 31), (5000, 40)]


@pytest.mark.parametrize("size", [*SIZES, *EXTREME])
def test_with_pillows_resampler_the_bytes_are_those_of_the_pil_processors(size):
    """Whatever order of the axes the installed Pillow takes: every mode, not one byte apart."""
    picture = photograph(*size)

    def ours(mode: str, *canvases, **keys) -> np.ndarray:
        return Tiler(SPEC, TilingOptions(mode, *canvases, resampler="pillow", **keys)).cut(picture)[0]

    processor = pillow_processor(CLIPImageProcessorPil)
    np.testing.assert_array_equal(ours("square"), processor(picture, return_tensors="np")["pixel_values"])

    longer = max(size)
    square = Image.new("RGB", (longer, longer), (122, 116, 104))
    square.paste(picture, ((longer - size[0]) // 2, (longer - size[1]) // 2))
    np.testing.assert_array_equal(ours("pad"), processor(square, return_tensors="np")["pixel_values"])

    processor = pillow_processor(LlavaImageProcessorPil, do_pad=True)
    np.testing.assert_array_equal(ours("pad"), processor(picture, return_tensors="np")["pixel_values"])

    squashing = CLIPImageProcessorPil(size={"height": 336, "width": 336}, do_center_crop=False, **AS_BYTES)
    np.testing.assert_array_equal(ours("resize"), squashing(picture, return_tensors="np")["pixel_values"])

    for pinpoints in (NEXT, LOPSIDED):
        processor = pillow_processor(LlavaNextImageProcessorPil, image_grid_pinpoints=[list(entry) for entry in pinpoints])
        theirs = processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(ours("anyres", pinpoints, rule="transformers"), theirs)


@pytest.mark.parametrize("size", SIZES)
def test_with_todays_pillow_the_difference_is_bounded(size):
    picture = photograph(*size)
    theirs = pillow_processor(CLIPImageProcessorPil)(picture, return_tensors="np")["pixel_values"]
    greatest, mean = differences(Tiler(SPEC, TilingOptions("square")).cut(picture)[0], theirs)
    assert greatest <= 8
    assert mean <= 0.5


# The last size is left out: its long side is cropped before it is resampled, through Pillow.
@pytest.mark.parametrize("size", [size for size in SIZES if size != (61, 700)])
def test_default_processors_agree_to_the_byte(size):
    """transformers' default classes resample with torch, as we do."""
    picture = photograph(*size)
    theirs = pillow_processor(CLIPImageProcessor)(picture, return_tensors="np")["pixel_values"]
    assert differences(Tiler(SPEC, TilingOptions("square")).cut(picture)[0], theirs)[0] == 0
    processor = pillow_processor(LlavaNextImageProcessor, image_grid_pinpoints=[list(entry) for entry in NEXT])
    theirs = processor(picture, return_tensors="np")["pixel_values"][0]
    assert differences(Tiler(SPEC, TilingOptions("anyres", NEXT, rule="transformers")).cut(picture)[0], theirs)[0] == 0


def test_colours_that_transformers_sees_alike_and_those_it_does_not():
    """What docs/pictures.md says of its PIL processors: transparency on white as here, deep greys clipped instead of scaled."""

    def seen(picture: Image.Image) -> tuple[list[int], list[int]]:
        theirs = pillow_processor(CLIPImageProcessorPil)(picture, return_tensors="np")["pixel_values"]
        ours, _ = Tiler(SPEC, TilingOptions("square", resampler="pillow")).cut(picture)
        return ours[0, :, 168, 168].tolist(), theirs[0, :, 168, 168].tolist()

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0])
    palette.info["transparency"] = 0
    alike = [
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)),
        Image.new("RGBA", (8, 8), (9, 90, 200, 100)),
        Image.new("LA", (8, 8), (77, 0)),
        palette,
        Image.new("1", (8, 8), 1),
        Image.new("L", (8, 8), 33),
        Image.new("CMYK", (8, 8), (10, 200, 100, 20)),
    ]
    for picture in alike:
        ours, theirs = seen(picture)
        assert ours == theirs, picture.mode
    assert seen(Image.fromarray(np.full((8, 8), 257 * 40, np.uint16))) == ([40] * 3, [255] * 3)
    assert seen(Image.fromarray(np.full((8, 8), 0.5, np.float32))) == ([128] * 3, [0] * 3)


def sizes_to_try() -> list[tuple[int, int]]:
    draw = random.Random(0)
    coarse = range(1, 2305, 24)
    near_the_edges = [1, 2, 335, 336, 337, 671, 672, 673, 1007, 1008, 1009, 2304, 20000]
    return (
        [(width, height) for width in coarse for height in coarse]
        + [(width, height) for width in near_the_edges for height in near_the_edges]
        + [(draw.randint(1, 2304), draw.randint(1, 2304)) for _ in range(3000)]
    )


@pytest.mark.parametrize("pinpoints", [NEXT, LOPSIDED])
def test_canvas_is_the_peers_for_every_size(pinpoints):
    ours = TilingPlan(336, TilingOptions("anyres", pinpoints, rule="transformers"))
    original = TilingPlan(336, TilingOptions("anyres", pinpoints))
    as_heights_first = [(height, width) for width, height in pinpoints]
    for width, height in sizes_to_try():
        # transformers takes and gives (height, width); the original code took the same list as (width, height)
        theirs = select_best_resolution((height, width), list(pinpoints))
        place = ours.geometry((width, height))
        assert place.canvas == (theirs[1], theirs[0]), (width, height)
        assert place.tiles == ours.grid((width, height)).tiles == (theirs[0] // 336, theirs[1] // 336)
        theirs = select_best_resolution((height, width), as_heights_first)
        assert original.geometry((width, height)).canvas == (theirs[1], theirs[0]), (width, height)


def test_resized_size_is_the_peers():
    for width, height in sizes_to_try()[::7]:
        for canvas in NEXT:
            picture = np.broadcast_to(np.uint8(0), (3, height, width))
            theirs = get_patch_output_size(picture, (canvas[1], canvas[0]), input_data_format="channels_first")
            assert fit_canvas((width, height), canvas) == (theirs[1], theirs[0]), (width, height, canvas)


def test_the_two_rules_differ_for_about_six_sizes_in_a_hundred():
    llava, transformers = (TilingPlan(336, TilingOptions("anyres", NEXT, rule=rule)) for rule in ("llava", "transformers"))
    sizes = [(width, height) for width in range(1, 1400, 6) for height in range(1, 1400, 6)]
    differing = [size for size in sizes if llava.geometry(size) != transformers.geometry(size)]
    assert len(differing) / len(sizes) == pytest.approx(0.059, abs=0.001)
    assert llava.geometry((300, 200)).canvas == (336, 672)
    assert transformers.geometry((300, 200)).canvas == (672, 336)
