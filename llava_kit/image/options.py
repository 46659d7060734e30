"""How pictures are to be cut: the options of a recipe's `tiling` block, checked, and what the originals called them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.tiles import ClipNewline, Merge, Pool, Rule
from ..errors import RecipeError, suggest

MODES = ("square", "pad", "resize", "anyres")
MERGES = ("flat", "spatial", "spatial_unpad")
RULES = ("llava", "transformers")
SEVERAL = ("same", "pad")
RESAMPLERS = ("torch", "pillow")
FRAMES = ("square", "resize", "pad")
POOLS = ("average", "max", "bilinear")
CLIP_NEWLINES = ("grid", "frame", "one_token", "no_token")

Pinpoints = tuple[tuple[int, int], ...] | str

_RANGE = re.compile(r"\(\s*(\d+)\s*x\s*(\d+)\s*\)\s*,\s*\.\.\.\s*,\s*\(\s*(\d+)\s*x\s*(\d+)\s*\)")
PINPOINTS_MEANT = (
    "[width, height] pairs in pixels such as [[336, 672], [672, 336]], or a range of tiles such as '(1x1),...,(6x6)'"
)


@dataclass(frozen=True)
class VideoOptions:
    """How clips are cut; the fields of the block `tiling.video`.

    At most `frames` frames are looked at, spread evenly; each becomes one tile by the mode `frame`, its visual rows pooled two
    by two. `time_instruction` puts the sentence that tells the frames' times before the question.
    """

    frames: int = 32
    frame: str = "square"
    pool: Pool = "bilinear"
    newline: ClipNewline = "grid"
    time_instruction: bool = False

    def __post_init__(self):
        problems = _unknown("tiling.video", self, {"frame": FRAMES, "pool": POOLS, "newline": CLIP_NEWLINES})
        if not isinstance(self.frames, int) or self.frames < 1:
            problems.append(f"tiling.video.frames: found {self.frames!r}, expected a whole number above 0")
        if problems:
            raise RecipeError(problems)


@dataclass(frozen=True)
class TilingOptions:
    """How pictures are cut; the fields of a recipe's `tiling` block.

    mode       `square` resizes the shorter side and crops the centre; `pad` fills up to a square with the encoder's mean
               colour; `resize` squashes to a square; `anyres` adds tiles of the best canvas among `pinpoints`
    pinpoints  (width, height) of canvases in pixels, or the range string of the originals, counted in tiles
    merge, max_tiles, rule  as in `TileGrid`; `rule` also decides among equal canvases
    several    anyres: `pad` gives each picture of a sample that has two or more one padded tile, as LLaVA-NeXT trains
    resampler  `torch`: fast, within 2 of 255 of Pillow; `pillow`: its very bytes
    video      None: clips are refused
    """

    mode: str = "pad"
    pinpoints: Pinpoints = ()
    merge: Merge = "spatial_unpad"
    max_tiles: int | None = None
    rule: Rule = "llava"
    several: str = "same"
    resampler: str = "torch"
    video: VideoOptions | None = None

    def __post_init__(self):
        known = {"mode": MODES, "merge": MERGES, "rule": RULES, "several": SEVERAL, "resampler": RESAMPLERS}
        if problems := [
            f"tiling.{key}: {hint}" for key in ("mode", "merge") if (hint := foreign_word(key, getattr(self, key)))
        ]:
            raise RecipeError(problems)
        problems = _unknown("tiling", self, known)
        if self.mode == "anyres" and not self.pinpoints:
            problems.append(f"tiling.pinpoints: found none; anyres needs canvases to choose from: {PINPOINTS_MEANT}")
        elif wrong := wrong_pinpoints(self.pinpoints):
            problems.append(f"tiling.pinpoints: found {wrong[0]}; expected {wrong[1]}")
        if self.max_tiles is not None:
            if not isinstance(self.max_tiles, int) or self.max_tiles < 1:
                problems.append(f"tiling.max_tiles: found {self.max_tiles!r}, expected a whole number above 0")
            if self.mode != "anyres" or self.merge != "spatial_unpad":
                problems.append(f"tiling.max_tiles: {max_tiles_meant(self.mode, self.merge)}")
        if problems:
            raise RecipeError(problems)

    @property
    def has_newlines(self) -> bool:
        """Whether a model that is fed so needs a newline row."""
        clips = self.video is not None and self.video.newline != "no_token"
        return clips or (self.mode == "anyres" and self.merge == "spatial_unpad")


def max_tiles_meant(mode: str, merge: str) -> str:
    """What is wrong with `max_tiles` beside another mode or merge."""
    return f"only anyres with merge spatial_unpad shrinks its canvas; take it out, or set these (found {mode}, {merge})"


def foreign_word(key: str, value: Any) -> str | None:
    """What to write for a value of `mode` or `merge` that is the originals' word; None where it is not."""
    if not isinstance(value, str):
        return None
    if key == "mode" and (match := re.fullmatch(r"anyres_max_(\d+)", value)):
        return f"{value} is written mode: anyres and max_tiles: {match[1]}"
    if key == "mode" and value in MERGES:
        return f"{value} is written mode: anyres and merge: {value}"
    if key == "merge" and value == "unpad":
        return "unpad is written merge: spatial_unpad"
    return None


FOREIGN_KEYS = {
    "unpad": "write merge: spatial_unpad for true, merge: spatial for false",
    "image_aspect_ratio": "it is called mode here; anyres_max_N is mode: anyres and max_tiles: N",
    "mm_patch_merge_type": "it is called merge here",
    "image_grid_pinpoints": "it is called pinpoints here",
    "frames_upbound": "it is called frames here, in the block video",
    "mm_spatial_pool_mode": "it is called pool here, in the block video",
    "mm_newline_position": "it is called newline here, in the block video",
    "add_time_instruction": "it is called time_instruction here, in the block video",
}
"""Keys of the originals' configs and command lines, each with what to write in the block `tiling`."""


def wrong_pinpoints(pinpoints: Any) -> tuple[str, str] | None:
    """What was found among canvases, and what was expected; None when they are right."""
    if isinstance(pinpoints, str):
        text = repr(pinpoints if len(pinpoints) <= 60 else f"{pinpoints[:57]}...")
        if found := _RANGE.fullmatch(pinpoints.strip()):
            first, last = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
            if min(first) < 1 or first[0] > last[0] or first[1] > last[1]:
                return text, "a range from (1x1) or more up to no less than that"
            return None
        pinpoints = _literal(pinpoints)
        if not pinpoints:
            return text, PINPOINTS_MEANT
    for entry in pinpoints:
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(type(side) is int and side > 0 for side in entry):
            return str(list(entry) if isinstance(entry, tuple) else entry), "[width, height] in whole pixels above 0"
    return None


def canvases_of(pinpoints: Pinpoints, tile: int) -> tuple[tuple[int, int], ...]:
    """The canvases in pixels, in the order of the list. A range holds every width with every height, heights running faster."""
    if not isinstance(pinpoints, str):
        return pinpoints
    if found := _RANGE.fullmatch(pinpoints.strip()):
        columns, rows = range(int(found[1]), int(found[3]) + 1), range(int(found[2]), int(found[4]) + 1)
        return tuple((column * tile, row * tile) for column in columns for row in rows)
    canvases = _literal(pinpoints)
    assert canvases is not None  # TilingOptions has checked it
    return canvases


def _literal(text: str) -> tuple[Any, ...] | None:
    """A list of lists or tuples written as text, as some published configs hold it; None where it is none."""
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(found, list | tuple) or not all(isinstance(entry, list | tuple) for entry in found):
        return None
    return tuple(map(tuple, found))


def _unknown(where: str, options: Any, known: Mapping[str, tuple[str, ...]]) -> list[str]:
    problems = []
    for key, values in known.items():
        value = getattr(options, key)
        if value not in values:
            problems.append(
                f"{where}.{key}: found {value!r}, expected one of {', '.join(values)}; {suggest(str(value), values)}"
            )
    return problems
