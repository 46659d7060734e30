"""What a row says beside its conversation: captions and boxes as `data convert` writes them, each number looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llava_kit.core.annotations import CONVENTIONS, Annotations, Box
from llava_kit.errors import SampleError

_ELSE = "; if these keys mean something else in this file, read it with annotations=false"


def read_annotations(row: Mapping[str, Any]) -> Annotations:
    """`captions`, `boxes` and `box_convention` of a row. Raises `SampleError` (`bad_annotation`) for what is none of these."""
    convention = row.get("box_convention")
    if convention is not None and convention not in CONVENTIONS:
        raise _error(f"its box_convention is {convention!r}; expected {' or '.join(map(repr, CONVENTIONS))}")
    return Annotations(captions=_captions(row.get("captions")), boxes=_boxes(row.get("boxes")), text_boxes=convention)


def _captions(captions: Any) -> tuple[str, ...]:
    if captions is None:
        return ()
    if not isinstance(captions, list):
        raise _error(f"its captions are {_kind(captions)}; expected a list of texts")
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise _error(f"caption {number} is {_kind(caption)}; expected a text")
    return tuple(captions)


def _boxes(boxes: Any) -> tuple[Box, ...]:
    if boxes is None:
        return ()
    if not isinstance(boxes, list):
        raise _error(f"its boxes are {_kind(boxes)}; expected a list of {{label, box}}")
    return tuple(_box(entry, number) for number, entry in enumerate(boxes))


def _box(entry: Any, number: int) -> Box:
    if not isinstance(entry, dict) or "label" not in entry or "box" not in entry:
        found = f"has the keys {', '.join(map(repr, entry)) or 'none'}" if isinstance(entry, dict) else f"is {_kind(entry)}"
        raise _error(f"box {number} {found}; expected an object with label and box")
    label, sides = entry["label"], entry["box"]
    if not isinstance(label, str):
        raise _error(f"box {number} has {_kind(label)} as its label; expected a text")
    if not isinstance(sides, list) or len(sides) != 4 or not all(_is_number(side) for side in sides):
        raise _error(f"box {number} ({label[:40]!r}) is {str(sides)[:80]}; expected [left, top, right, bottom] in shares")
    if not all(_is_finite(side) for side in sides):
        raise _error(f"box {number} ({label[:40]!r}) is {str(sides)[:80]}; expected numbers that are finite")
    return Box(label, *map(float, sides))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _error(message: str) -> SampleError:
    return SampleError("bad_annotation", message + _ELSE)
