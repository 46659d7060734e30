"""`llava-kit inspect image`: the canvas and tiles of pictures or bare sizes, what is kept of them, and the rows they take."""

from __future__ import annotations

import argparse
import json
import re

from ..core.conversation import ImageFile
from ..core.tiles import Grid
from ..data.cut import Cut, cut_of
from ..errors import LlavaKitError
from ..image.geometry import TilingOptions, TilingPlan

EXAMPLES = """\
examples:
  llava-kit inspect image photo.jpg --recipe llava_next_vicuna_7b --png cut.png
  llava-kit inspect image --size 640x480 --json --tiling '{"mode": "anyres", "pinpoints": [[336, 672], [672, 672]]}'
  llava-kit inspect image --size 1920x1080 --tile 384 \\
    --tiling '{"mode": "anyres", "pinpoints": "(1x1),...,(6x6)", "max_tiles": 9}'

JSON: a list, in the order of the pictures, then of the sizes, of
  size     [width, height] of the picture in pixels, upright
  canvas   [width, height] of what is cut into tiles; of the one tile where there is only the overview
  tiles    [across, down] on the canvas; [1, 1] where there is only the overview
  resized  [width, height] of the picture on the canvas, in pixels of the canvas
  offset   [x, y] of its upper left corner there; negative where mode square crops
  kept     [rows, columns] of the canvas's visual rows that hold picture
  shrunk   [rows, columns] that these are shrunk to by max_tiles; null where they stay as they are
  merge    how the tiles are put together: flat, spatial or spatial_unpad
  rows     positions that the picture takes in the input, overview and newlines included
"""

# CLIP ViT-L/14 at 336 pixels, the encoder of LLaVA 1.5 and LLaVA-NeXT.
DEFAULT_TILE, DEFAULT_PATCH = 336, 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Pictures or sizes, the tiling, and how to print."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("files", nargs="*", metavar="FILE", help="picture files")
    parser.add_argument("--size", action="append", default=[], metavar="WxH", help="a bare size, may be repeated")
    parser.add_argument("--recipe", metavar="NAME", help="take encoder, connector and tiling from this recipe")
    parser.add_argument("--tile", metavar="PIXELS", help=f"side of the encoder's tile (default {DEFAULT_TILE})")
    parser.add_argument("--patch", metavar="PIXELS", help=f"side of its patches (default {DEFAULT_PATCH})")
    parser.add_argument("--tiling", metavar="JSON", help='the tiling block of a recipe (default {"mode": "pad"})')
    parser.add_argument("--json", action="store_true", help="for programs; see below")
    parser.add_argument("--png", metavar="FILE", help="draw the pictures with tiles, bands and counts")


def run(arguments: argparse.Namespace) -> int:
    """Print the numbers, draw the picture; returns the exit code."""
    if not arguments.files and not arguments.size:
        raise LlavaKitError("inspect image: found nothing to look at; give picture files or --size WxH")
    sizes = [_parse_size(text) for text in arguments.size]
    plan, side = _plan_of(arguments)
    cuts = [_cut_file(path, plan, side, pixels=arguments.png is not None) for path in arguments.files]
    cuts += [cut_of(f"{size[0]}x{size[1]}", None, size, plan, side) for size in sizes]
    if arguments.png is not None:
        _draw(cuts, plan, arguments.png)
    if arguments.json:
        print(json.dumps([cut.record() for cut in cuts]))
    else:
        _print_table(cuts, plan, side)
    return 0


def _cut_file(path: str, plan: TilingPlan, side: Grid, pixels: bool) -> Cut:
    from ..image.reader import picture_size, read_picture

    picture = read_picture(ImageFile(path)) if pixels else None
    return cut_of(path, picture, picture.size if picture else picture_size(ImageFile(path)), plan, side)


def _plan_of(arguments: argparse.Namespace) -> tuple[TilingPlan, Grid]:
    """The tiling that was asked for, and the visual rows of a tile."""
    if arguments.recipe is not None:
        beside = [f"--{key}" for key in ("tile", "patch", "tiling") if getattr(arguments, key) is not None]
        if beside:
            raise LlavaKitError(
                f"inspect image: found --recipe and {', '.join(beside)}; the recipe says these, give one or the other"
            )
        from ..recipe.load import load_recipe
        from .stage_data import tiling_of

        return tiling_of(load_recipe(arguments.recipe).model)
    tile = _parse_pixels("--tile", arguments.tile, DEFAULT_TILE)
    patch = _parse_pixels("--patch", arguments.patch, DEFAULT_PATCH)
    if patch > tile:
        raise LlavaKitError(f"--patch: found {patch}, expected at most the tile, {tile} pixels")
    # Pixels beyond the last whole patch are not seen, as by the convolution of the tower (384 / 14: 27 patches).
    return TilingPlan(tile, _parse_tiling(arguments.tiling)), Grid(tile // patch, tile // patch)


def _parse_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text.strip().lower())
    if found is None:
        raise LlavaKitError(f"--size: found {text!r}, expected WxH, width and height in whole pixels above 0, such as 640x480")
    return int(found[1]), int(found[2])


def _parse_pixels(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[1-9]\d{0,4}", text):
        raise LlavaKitError(f"{option}: found {text!r}, expected a number of pixels, such as {default}")
    return int(text)


def _parse_tiling(text: str | None) -> TilingOptions:
    """The options in a JSON object, held to the same rules as a recipe's block, by the same code."""
    if text is None:
        return TilingOptions()
    from pydantic import ValidationError

    from ..recipe.explain import explain
    from ..recipe.reader import read_text
    from ..recipe.schema import Tiling
    from ..recipe.tree import plain, told

    try:
        block = json.loads(text)
    except ValueError as error:
        raise LlavaKitError(f'--tiling: is no JSON ({error}); expected such as \'{{"mode": "pad"}}\'') from None
    if not isinstance(block, dict):
        raise LlavaKitError(f'--tiling: found {text}, expected a JSON object such as \'{{"mode": "pad"}}\'')
    tree = read_text(text, "--tiling")
    try:
        return Tiling.model_validate(plain(tree)).options()
    except ValidationError as error:
        raise LlavaKitError("\n".join(told(explain(error, Tiling, tree)))) from None


def _print_table(cuts: list[Cut], plan: TilingPlan, side: Grid) -> None:
    from .table import print_table

    shrunk = any(cut.shrunk is not None for cut in cuts)
    heads = ("picture", "size", "canvas", "tiles", "resized", "at", "kept", *(["shrunk"] if shrunk else []), "rows")
    rows: list[tuple[str, ...]] = [heads]
    for cut in cuts:
        shown = cut.record()
        pairs = [f"{shown[key][0]}x{shown[key][1]}" for key in ("size", "canvas", "tiles", "resized")]
        x, y = shown["offset"]
        fewer = ["x".join(map(str, shown["shrunk"] or ["-"]))] if shrunk else []
        rows.append((cut.name, *pairs, f"{x},{y}", "x".join(map(str, shown["kept"])), *fewer, str(cut.rows)))
    print_table(rows)
    options = plan.options
    mode = f"mode {options.mode}" + (f", merge {options.merge}, rule {options.rule}" if plan.canvases else "")
    if options.max_tiles is not None:
        mode += f", at most {options.max_tiles} tiles"
    newline = ", and a newline after each line" if plan.canvases and options.merge == "spatial_unpad" else ""
    parts = "overview + canvas" + newline if plan.canvases else "the overview alone"
    print(f"\ntile {plan.tile} pixels, {side.rows}x{side.cols} visual rows; {mode}: rows = {parts}")
    print("size, canvas, tiles, resized: width x height; at: x,y of the picture on the canvas; kept: lines x rows in each")
    if shrunk:
        print("shrunk: what the kept lines are interpolated to, after the connector")


def _draw(cuts: list[Cut], plan: TilingPlan, path: str) -> None:
    from .inspect_drawing import draw

    try:
        draw(cuts, plan).save(path, format="PNG")
    except OSError as error:
        raise LlavaKitError(f"--png {path}: cannot be written: {error.strerror or error}") from None
