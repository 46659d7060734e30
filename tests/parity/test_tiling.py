"""Canvases, counts and merged sequences over thousands of sizes, by both rules: nothing differs.

`rule: transformers` is held to the functions of transformers (LLaVA-NeXT, and OneVision for `max_tiles: 9`); `rule: llava` to
own writings of what LLaVA-NeXT's repository computes (`select_best_resolution`, `unpad_image`, the merge in `llava_arch.py`).
"""

from __future__ import annotations

import math
import random
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, LlavaOnevisionProcessor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, get_anyres_image_grid_shape, unpad_image
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from llava_kit.core.splice import BLENDED, NEWLINE
from llava_kit.core.tiles import ClipGrid, Grid, TileGrid
from llava_kit.image.geometry import TilingPlan
from llava_kit.image.options import TilingOptions
from llava_kit.splice.blend import mixture
from llava_kit.splice.layout import canvas_lines, count_rows, kept_lines, picture_rows, shown_grid

FIVE = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SEVEN = tuple((w * 336, h * 336) for w, h in ((2, 2), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (4, 1)))
RANGE = "(1x1),...,(6x6)"
CONFIGS = {
    "five": (336, 24, FIVE, None),
    "seven": (336, 24, SEVEN, None),
    "range": (384, 27, RANGE, None),
    "range, max 9": (384, 27, RANGE, 9),
}
# Where a known exact quotient comes out of LLaVA's float product a hair lower (352 x 748 and its like).
FLOATS = [(352, 748), (376, 799), (748, 352), (799, 376)]


def sizes_to_try() -> list[tuple[int, int]]:
    """Every 24th width and height from 1 to 2304, sizes next to the tiles' borders, and 3,000 at random."""
    draw = random.Random(0)
    coarse, borders = range(1, 2305, 24), (1, 2, 335, 336, 337, 383, 384, 385, 672, 673, 1008, 2303, 2304)
    sizes = {(width, height) for width in coarse for height in coarse}
    sizes |= {(width, height) for width in borders for height in borders} | set(FLOATS)
    sizes |= {(draw.randint(1, 2304), draw.randint(1, 2304)) for _ in range(1500)}
    sizes |= {(round(10 ** draw.uniform(0, 3.6)), round(10 ** draw.uniform(0, 3.6))) for _ in range(1500)}
    return sorted(sizes)


SIZES = sizes_to_try()


def plan_of(config: str, rule: str) -> TilingPlan:
    tile, _, pinpoints, most = CONFIGS[config]
    return TilingPlan(tile, TilingOptions("anyres", pinpoints, max_tiles=most, rule=rule))


def canvas_of_llava(size: tuple[int, int], pinpoints) -> tuple[int, int]:
    """As the original chooses: most of the picture's own pixels, then least waste, then the first."""
    best, best_effective, least = None, 0, math.inf
    for width, height in pinpoints:
        scale = min(width / size[0], height / size[1])
        effective = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        waste = width * height - effective
        if effective > best_effective or (effective == best_effective and waste < least):
            best, best_effective, least = (width, height), effective, waste
    return best


def unpadded_by_llava(canvas: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[D, height, width] -> without the bands beside a picture of `size`, in the original's floats."""
    _, height, width = canvas.shape
    if size[0] / size[1] > width / height:
        band = (height - int(size[1] * (width / size[0]))) // 2
        return canvas[:, band : height - band]
    band = (width - int(size[0] * (height / size[1]))) // 2
    return canvas[:, :, band : width - band]


@cache
def pinpoints_of(config: str) -> list[list[int]]:
    """As a config holds them; a range as the original spells it out."""
    tile, _, pinpoints, _ = CONFIGS[config]
    if isinstance(pinpoints, str):
        return [[i * tile, j * tile] for i in range(1, 7) for j in range(1, 7)]
    return [list(pair) for pair in pinpoints]


@cache
def numbered(tiles: Grid, side: int) -> torch.Tensor:
    """[1, height, width]: the number of the visual row at each place of a canvas, tiles moved about as tensors."""
    count = (1 + tiles.area) * side * side
    rows = torch.arange(count)[side * side :].view(*tiles, side, side)
    return rows.permute(0, 2, 1, 3).reshape(1, tiles.rows * side, tiles.cols * side)


def check_window(grid: TileGrid, side: int, theirs: torch.Tensor) -> None:
    """The kept part of the canvas is a window of `numbered`: its corners and its shape say all."""
    y0, y1, x0, x1 = kept_lines(grid, Grid(side, side))
    assert tuple(theirs.shape[1:]) == (y1 - y0, x1 - x0), grid
    if theirs.numel():
        ours = numbered(grid.tiles, side)[:, y0:y1, x0:x1]
        assert theirs[0, 0, 0] == ours[0, 0, 0], grid
        assert theirs[0, -1, -1] == ours[0, -1, -1], grid


@pytest.mark.parametrize("config", CONFIGS)
def test_canvas_and_count_by_the_rule_of_transformers(config):
    assert len(SIZES) > 10_000
    tile, side, _, most = CONFIGS[config]
    plan, pinpoints = plan_of(config, "transformers"), pinpoints_of(config)
    count = _counter(config)
    for width, height in SIZES:
        grid = plan.grid((width, height))
        assert tuple(grid.tiles) == get_anyres_image_grid_shape((height, width), pinpoints, tile), (width, height)
        assert count_rows(grid, Grid(side, side)) == count(height, width, tile, tile), (width, height)
        if most is None:
            check_window(grid, side, unpad_image(numbered(grid.tiles, side), (height, width)))


def _counter(config: str):
    """The counting of transformers' processors, which needs no tokenizer."""
    _, side, _, most = CONFIGS[config]
    kind = LlavaNextProcessor if most is None else LlavaOnevisionProcessor
    processor = kind.__new__(kind)
    processor.image_processor = LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints_of(config))
    processor.patch_size, processor.num_additional_image_tokens = 14, 0
    processor.num_image_tokens, processor.vision_aspect_ratio = side * side, f"anyres_max_{most}"
    return processor._get_number_of_features


@pytest.mark.parametrize("config", CONFIGS)
def test_canvas_and_count_by_the_rule_of_llava(config):
    tile, side, _, most = CONFIGS[config]
    plan, pinpoints = plan_of(config, "llava"), pinpoints_of(config)
    for size in SIZES:
        grid = plan.grid(size)
        width, height = canvas_of_llava(size, pinpoints)
        assert grid.tiles == (height // tile, width // tile), size
        kept = unpadded_by_llava(numbered(grid.tiles, side), size)
        check_window(grid, side, kept)
        _, height, width = kept.shape
        if most is not None and (times := math.sqrt(height * width / (most * side**2))) > 1.1:
            height, width = int(height // times), int(width // times)
        assert count_rows(grid, Grid(side, side)) == side**2 + height * (width + 1), size


@pytest.mark.parametrize("rule", ["llava", "transformers"])
@pytest.mark.parametrize("config", ["five", "seven", "range"])
def test_merged_sequences(config, rule):
    """Each different canvas with each different window, whole: `pack_image_features` of transformers on numbered rows."""
    side = CONFIGS[config][1]
    plan, small = plan_of(config, rule), Grid(side, side)
    grids = {(grid.tiles, kept_lines(grid, small)): grid for grid in map(plan.grid, SIZES)}
    for (tiles, _), grid in grids.items():
        features = torch.arange(grid.num_tiles * side * side, dtype=torch.float64).view(grid.num_tiles, -1, 1)
        if rule == "transformers":
            packed = _packed(LlavaNextModel, config, features, grid.size, vision_feature_select_strategy="full")
        else:
            canvas = unpadded_by_llava(numbered(tiles, side).double(), grid.size)
            canvas = F.pad(canvas, (0, 1), value=NEWLINE)
            packed = torch.cat([features[0, :, 0], canvas.flatten()])
        assert torch.equal(packed.flatten().to(torch.int32), torch.from_numpy(picture_rows(grid, small, 0))), grid
    assert len(grids) > 50


def _packed(model_class, config: str, features: torch.Tensor, size: tuple[int, int], **options) -> torch.Tensor:
    tile, side, _, _ = CONFIGS[config]
    vision = SimpleNamespace(image_size=tile, patch_size=tile // side)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints_of(config)))
    newline = torch.full(features.shape[2:], float(NEWLINE), dtype=features.dtype)
    packed, _ = model_class.pack_image_features(model, [features], [(size[1], size[0])], image_newline=newline, **options)
    return packed[0]


def mixed_rows(grid: TileGrid | ClipGrid, side: Grid, flat: torch.Tensor) -> torch.Tensor:
    """The sequence of a picture whose rows are `flat` [V, D], newlines as NEWLINE; blends in plain torch."""
    rows = torch.from_numpy(picture_rows(grid, side, 0))
    made = flat.new_full((len(rows), flat.shape[1]), float(NEWLINE))
    made[rows >= 0] = flat[rows[rows >= 0].long()]
    mixed = mixture(grid, side)
    if mixed is not None:
        four = flat[torch.tensor(mixed.rows)][torch.tensor(mixed.taps)]
        weights = torch.tensor(mixed.weights)[..., None].to(flat.dtype)
        made[rows == BLENDED] = (four * weights).sum(1) if mixed.reduce == "sum" else four.max(1).values
    return made


CLOSE = 1e-6
"""For rows of unit size, in float32: another order of four products."""


@pytest.mark.parametrize("rule", ["llava", "transformers"])
def test_shrunk_canvases_are_interpolated_as_the_original_does(rule):
    config = "range, max 9"
    plan, side = plan_of(config, rule), Grid(27, 27)
    grids = {(grid.tiles, shown_grid(grid, side)): grid for grid in map(plan.grid, SIZES)}
    shrunk = [grid for grid in grids.values() if BLENDED in picture_rows(grid, side, 0)]
    assert len(shrunk) > 100
    random.Random(1).shuffle(shrunk)
    for grid in [plan.grid((1920, 1080)), plan.grid((959, 1166)), plan.grid((2304, 2304)), *shrunk[:40]]:
        torch.manual_seed(grid.num_tiles)
        features = torch.randn(grid.num_tiles, side.area, 4)
        ours = mixed_rows(grid, side, features.flatten(0, 1))
        if rule == "transformers":
            theirs = _packed(LlavaOnevisionModel, config, features, grid.size, vision_aspect_ratio="anyres_max_9")
        else:
            theirs = _shrunk_by_llava(features, grid)
        assert (ours - theirs).abs().max() <= CLOSE, grid


def _shrunk_by_llava(features: torch.Tensor, grid: TileGrid) -> torch.Tensor:
    side, width = 27, features.shape[2]
    canvas = features[1:].view(*grid.tiles, side, side, width).permute(4, 0, 2, 1, 3)
    canvas = canvas.reshape(width, grid.tiles.rows * side, grid.tiles.cols * side)
    canvas = unpadded_by_llava(canvas, grid.size)
    _, height, columns = canvas.shape
    times = math.sqrt(height * columns / (9 * side**2))
    if times > 1.1:
        canvas = F.interpolate(canvas[None], [int(height // times), int(columns // times)], mode="bilinear")[0]
    canvas = F.pad(canvas, (0, 1), value=NEWLINE)
    return torch.cat([features[0], canvas.flatten(1).T])


@pytest.mark.parametrize(("side", "pooled"), [(27, 14), (24, 12), (16, 8), (5, 3)])
def test_frames_are_pooled_as_in_onevision(side, pooled):
    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=side, patch_size=1)))
    features = torch.randn(3, side * side, 6, generator=torch.Generator().manual_seed(0))
    theirs = LlavaOnevisionModel.apply_pooling(model, features).flatten(0, 1)
    clip = ClipGrid(3, "bilinear", "no_token")
    ours = mixed_rows(clip, Grid(side, side), features.flatten(0, 1))
    assert count_rows(clip, Grid(side, side)) == len(ours) == 3 * pooled**2
    assert (ours - theirs).abs().max() <= CLOSE


@pytest.mark.parametrize(("pool", "function"), [("average", F.avg_pool2d), ("max", F.max_pool2d)])
@pytest.mark.parametrize(("side", "pooled"), [(27, 13), (24, 12)])
@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
def test_clips_are_joined_as_in_next_video(side, pooled, pool, function, newline):
    """The rows of three frames, pooled with a stride of two, with newlines where `mm_newline_position` puts them."""
    features = torch.randn(3, side * side, 6, generator=torch.Generator().manual_seed(0))
    frames = function(features.view(3, side, side, 6).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    end = torch.full((6,), float(NEWLINE))
    if newline == "grid":
        theirs = torch.cat([frames, end.expand(3, pooled, 1, 6)], dim=2).flatten(0, 2)
    elif newline == "frame":
        theirs = torch.cat([frames.flatten(1, 2), end.expand(3, 1, 6)], dim=1).flatten(0, 1)
    else:
        theirs = torch.cat([frames.flatten(0, 2), end[None]] if newline == "one_token" else [frames.flatten(0, 2)])
    clip = ClipGrid(3, pool, newline)
    ours = mixed_rows(clip, Grid(side, side), features.flatten(0, 1))
    assert count_rows(clip, Grid(side, side)) == len(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("side", "clip", "rows"),
    [
        (27, ClipGrid(1, "bilinear", "grid"), 210),
        (27, ClipGrid(32, "bilinear", "no_token"), 32 * 196),
        (27, ClipGrid(32, "bilinear", "one_token"), 32 * 196 + 1),
        (27, ClipGrid(32, "bilinear", "frame"), 32 * 197),
        (24, ClipGrid(8, "average", "no_token"), 8 * 144),
        (24, ClipGrid(8, "bilinear", "grid"), 8 * 12 * 13),
    ],
)
def test_counts_of_clips(side, clip, rows):
    assert count_rows(clip, Grid(side, side)) == rows


# Picture; canvas in tiles, kept, tokens: five pinpoints; seven: tokens, canvas; the range of SigLIP; the same with max 9.
# All of it came from running the original's functions.
TABLE = """
1x1        1x2 24x24 1176  1176 1x2   1485 1x1 27x27     1485 27x27
224x224    1x2 24x24 1176  1176 1x2   1485 1x1 27x27     1485 27x27
336x336    1x2 24x24 1176  1176 1x2   1485 1x1 27x27     1485 27x27
384x384    2x2 48x48 2928  2928 2x2   1485 1x1 27x27     1485 27x27
640x427    2x2 32x48 2144  2144 2x2   2709 2x2 36x54     2709 36x54
640x480    2x2 36x48 2340  2340 2x2   2929 2x2 40x54     2929 40x54
480x640    2x2 48x36 2352  2352 2x2   2943 2x2 54x40     2943 54x40
672x672    2x2 48x48 2928  2928 2x2   3699 2x2 54x54     3699 54x54
1000x1000  2x2 48x48 2928  2928 2x2   7371 3x3 81x81     7371 81x81
1024x768   2x2 36x48 2340  2340 2x2   4725 3x2 54x73     4725 54x73
1920x1080  2x2 28x48 1948  1948 2x2  10929 5x3 75x135    7269 60x108
1080x1920  2x2 48x28 1968  1968 2x2  10989 3x5 135x75    7317 108x60
800x400    2x1 24x48 1752  1752 2x1   4009 3x2 40x81     4009 40x81
2000x500   3x1 18x72 1890  2904 4x1   7249 6x2 40x162    7249 40x162
500x2000   1x3 72x18 1944  2976 1x4   7371 2x6 162x40    7371 162x40
4000x300   3x1 6x72  1014  1352 4x1   2848 6x1 13x162    2848 13x162
300x4000   1x3 72x6  1080  1440 1x4   2997 1x6 162x13    2997 162x13
100x1000   1x3 72x8  1224  1224 1x3   1539 1x3 81x9      1539 81x9
2304x2304  2x2 48x48 2928  2928 2x2  27135 6x6 162x162   7371 81x81
3000x500   3x1 12x72 1452  2128 4x1   5130 6x1 27x162    5130 27x162
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_the_table_of_the_original(line):
    words = line.split()
    size, canvas, kept, seven_canvas, range_canvas, range_kept, capped = (
        tuple(map(int, words[place].split("x"))) for place in (0, 1, 2, 5, 7, 8, 10)
    )
    assert _row("five", size) == (canvas, kept, int(words[3]))
    assert (_row("seven", size)[0], _row("seven", size)[2]) == (seven_canvas, int(words[4]))
    assert _row("range", size) == (range_canvas, range_kept, int(words[6]))
    assert _row("range, max 9", size) == (range_canvas, capped, int(words[9]))


def _row(config: str, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Tiles across and down, lines and rows in each, positions."""
    side = Grid(CONFIGS[config][1], CONFIGS[config][1])
    grid = plan_of(config, "llava").grid(size)
    return (grid.tiles.cols, grid.tiles.rows), tuple(shown_grid(grid, side)), count_rows(grid, side)


def test_the_cap_leaves_a_fifth_more_than_it_says():
    """The paper says 729 * (9 + 1) at most; a canvas within 1.21 times nine tiles is left as it is."""
    assert _row("range, max 9", (959, 1166)) == ((3, 4), (98, 81), 8765)
    plan, side = plan_of("range, max 9", "llava"), Grid(27, 27)
    assert max(count_rows(plan.grid(size), side) for size in SIZES) <= 8765


def test_both_rules_differ_where_they_are_known_to():
    llava, transformers = plan_of("five", "llava"), plan_of("five", "transformers")
    side = Grid(24, 24)
    counts = {size: [count_rows(plan.grid(size), side) for plan in (llava, transformers)] for size in FLOATS}
    assert counts == {(352, 748): [1826, 1876], (376, 799): [1826, 1876], (748, 352): [1800, 1848], (799, 376): [1800, 1848]}


def test_windows_hold_the_rows_in_reading_order():
    assert np.array_equal(canvas_lines(Grid(2, 2), Grid(3, 3), (0, 6, 0, 6)), numbered(Grid(2, 2), 3)[0].numpy())


def test_the_table_of_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "pictures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) x (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for width, height, *counts in rows:
        found = [_row(config, (int(width), int(height)))[2] for config in CONFIGS]
        assert found == [int(count.replace(",", "")) for count in counts], (width, height)
    assert f"over {len(SIZES):,} sizes" in " ".join(text.split())
