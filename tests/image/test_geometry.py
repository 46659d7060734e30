"""Numbers of LLaVA's tilings, checked against the facts of the reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.errors import RecipeError
from llava_kit.image.geometry import MODES, TilingOptions, TilingPlan, best_canvas, fit_shorter_side
from llava_kit.image.options import VideoOptions, canvases_of

NEXT = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
sides = st.one_of(st.integers(1, 3000), st.sampled_from([1, 335, 336, 337, 20000, 65535]))


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((1, 1), (336, 672)),
        ((300, 336), (336, 672)),
        ((336, 300), (336, 672)),
        ((336, 336), (336, 672)),
        ((337, 337), (672, 672)),
        ((640, 480), (672, 672)),
        ((1920, 1080), (672, 672)),
        ((800, 400), (672, 336)),
        ((2000, 500), (1008, 336)),
        ((500, 2000), (336, 1008)),
        ((100, 1000), (336, 1008)),
        # Scaled down and rounded, nothing is left of these on any canvas: the smallest one it is.
        ((20000, 1), (336, 672)),
        ((1, 20000), (336, 672)),
    ],
)
def test_canvas_of_the_published_model(size, canvas):
    plan = TilingPlan(336, TilingOptions("anyres", NEXT))
    assert plan.geometry(size).canvas == canvas
    assert plan.grid(size) == TileGrid(size, Grid(canvas[1] // 336, canvas[0] // 336), "spatial_unpad")


def test_the_first_of_equal_canvases_wins():
    assert best_canvas((10, 10), ((336, 672), (672, 336))) == (336, 672)
    assert best_canvas((10, 10), ((672, 336), (336, 672))) == (672, 336)


def test_rule_of_transformers_reads_height_first():
    plan = TilingPlan(10, TilingOptions("anyres", ((10, 30),), rule="transformers"))
    assert plan.geometry((5, 5)).canvas == (30, 10)
    assert plan.grid((5, 5)).tiles == Grid(1, 3)


def test_places_on_the_canvas():
    plan = TilingPlan(336, TilingOptions("anyres", NEXT))
    assert plan.geometry((640, 480)) == ((672, 672), (672, 504), (0, 84), (2, 2))
    assert plan.geometry((1, 20000)) == ((336, 672), (1, 672), (167, 0), (2, 1))


def test_places_of_the_overview():
    place = {mode: TilingPlan(336, TilingOptions(mode)).geometry((640, 480)) for mode in ("square", "pad", "resize")}
    assert place["square"] == ((336, 336), (448, 336), (-56, 0), (1, 1))
    assert place["pad"] == ((336, 336), (336, 252), (0, 42), (1, 1))
    assert place["resize"] == ((336, 336), (336, 336), (0, 0), (1, 1))
    assert fit_shorter_side((333, 517), 336) == (336, 521)


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.sampled_from(MODES), st.sampled_from([16, 336, 384]))
def test_every_size_has_a_place(width, height, mode, tile):
    options = TilingOptions(mode, ((tile, 2 * tile), (2 * tile, tile), (3 * tile, 3 * tile)))
    plan = TilingPlan(tile, options)
    place, grid = plan.geometry((width, height)), plan.grid((width, height))
    assert min(place.resized) >= 1
    assert grid.size == (width, height)
    assert place.canvas == (place.tiles.cols * tile, place.tiles.rows * tile)
    if mode == "square":
        assert min(place.resized) == tile
        assert max(place.offset) == 0
    else:
        for axis in (0, 1):
            assert 0 <= place.offset[axis] <= place.canvas[axis] - place.resized[axis]
        assert any(place.resized[axis] == place.canvas[axis] for axis in (0, 1))
    assert (grid.tiles == place.tiles) == (mode == "anyres")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"mode": "sqare"}, ["tiling.mode", "'sqare'", "did you mean 'square'"]),
        ({"rule": "hf"}, ["tiling.rule", "'hf'", "llava, transformers"]),
        ({"mode": "anyres"}, ["tiling.pinpoints", "[[336, 672]"]),
        ({"mode": "anyres", "pinpoints": ((336,),)}, ["tiling.pinpoints", "[336]"]),
        ({"mode": "anyres", "pinpoints": ((336, 0),)}, ["[336, 0]"]),
        ({"mode": "anyres", "pinpoints": "(1x1),(6x6)"}, ["'(1x1),(6x6)'", "'(1x1),...,(6x6)'"]),
        ({"mode": "anyres", "pinpoints": "(3x1),...,(2x6)"}, ["a range from (1x1)"]),
        ({"mode": "anyres", "pinpoints": "[[336, 'a']]"}, ["[336, 'a']"]),
        ({"mode": "anyres", "pinpoints": "[]"}, ["'[]'"]),
        ({"mode": "anyres", "pinpoints": "__import__('os')"}, ["expected [width, height]"]),
        ({"mode": "anyres_max_9"}, ["mode: anyres and max_tiles: 9"]),
        ({"mode": "spatial_unpad"}, ["mode: anyres and merge: spatial_unpad"]),
        ({"merge": "unpad"}, ["merge: spatial_unpad"]),
        ({"merge": "spacial"}, ["tiling.merge", "did you mean 'spatial'"]),
        ({"several": "crop"}, ["tiling.several", "same, pad"]),
        ({"resampler": "cv2"}, ["tiling.resampler", "torch, pillow"]),
        ({"max_tiles": 9}, ["tiling.max_tiles", "anyres with merge spatial_unpad"]),
        ({"mode": "anyres", "pinpoints": NEXT, "merge": "flat", "max_tiles": 9}, ["tiling.max_tiles", "found anyres, flat"]),
        ({"mode": "anyres", "pinpoints": NEXT, "max_tiles": 0}, ["tiling.max_tiles", "above 0"]),
        ({"mode": "x", "rule": "y", "several": "z"}, ["tiling.mode", "tiling.rule", "tiling.several"]),
    ],
)
def test_wrong_options_are_told(keys, words):
    with pytest.raises(RecipeError) as caught:
        TilingOptions(**keys)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"frames": 0}, ["tiling.video.frames", "above 0"]),
        ({"pool": "mean"}, ["tiling.video.pool", "average, max, bilinear"]),
        ({"newline": "line"}, ["tiling.video.newline", "grid, frame, one_token, no_token"]),
        ({"frame": "anyres"}, ["tiling.video.frame:", "square, resize, pad"]),
    ],
)
def test_wrong_video_options_are_told(keys, words):
    with pytest.raises(RecipeError) as caught:
        VideoOptions(**keys)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_range_counts_in_tiles_heights_running_faster():
    assert canvases_of("(1x1),...,(2x3)", 10) == ((10, 10), (10, 20), (10, 30), (20, 10), (20, 20), (20, 30))
    assert canvases_of(" (2x1) , ... , (2x2) ", 384) == ((768, 384), (768, 768))
    assert len(TilingPlan(384, TilingOptions("anyres", "(1x1),...,(6x6)")).canvases) == 36


def test_a_list_may_be_text():
    for text in ("[(336, 672), (672, 336)]", "[[336, 672], [672, 336]]", "((336, 672), (672, 336))"):
        assert canvases_of(text, 336) == NEXT[:2]
        assert TilingPlan(336, TilingOptions("anyres", text, rule="transformers")).canvases == ((672, 336), (336, 672))


def test_pictures_of_several_are_padded():
    plan = TilingPlan(336, TilingOptions("anyres", NEXT, several="pad"))
    assert plan.grid((640, 480)) == plan.grid((640, 480), alone=True) == TileGrid((640, 480), Grid(2, 2), "spatial_unpad")
    assert plan.grid((640, 480), alone=False) == TileGrid((640, 480), merge="spatial_unpad")
    assert plan.geometry((640, 480), alone=False) == TilingPlan(336, TilingOptions("pad")).geometry((640, 480))
    same = TilingPlan(336, TilingOptions("anyres", NEXT))
    assert same.grid((640, 480), alone=False) == same.grid((640, 480))


def test_newlines_are_there_when_they_are_needed():
    assert TilingOptions("anyres", NEXT).has_newlines
    assert not TilingOptions("anyres", NEXT, merge="spatial").has_newlines
    assert not TilingOptions("pad").has_newlines
    assert TilingOptions("pad", video=VideoOptions()).has_newlines
    assert not TilingOptions("pad", video=VideoOptions(newline="no_token")).has_newlines


def test_all_canvases_that_are_no_multiples_are_listed():
    with pytest.raises(RecipeError) as caught:
        TilingPlan(336, TilingOptions("anyres", ((336, 672), (300, 336), (336, 1000))))
    assert "[300, 336], [336, 1000]" in str(caught.value)
    assert "336 pixels" in str(caught.value)
    assert "672" not in str(caught.value)
