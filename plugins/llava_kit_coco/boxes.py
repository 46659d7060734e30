"""Boxes as the publishers write them, in pixels, become shares of a picture that was looked at; and boxes in a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from llava_kit.core.annotations import Box, BoxConvention, box_of_pixels, padded
from llava_kit.errors import SampleError

# So far a box may stand out of its picture and be cut to it: annotators' tools round corners to whole pixels.
SLACK_PIXELS = 1.0
# So far a share may stand out, for the same reason: a pixel of a small picture.
SLACK_SHARE = 0.01
# LLaVA 1.5 writes two decimals, and no zeros at the end but one: [0.28, 0.34, 0.4, 0.0].
_TEXT_DECIMALS = 2


class Checked(NamedTuple):
    """The boxes that can be used, and how many were left out."""

    boxes: list[Box]
    num_dropped: int


def pixel_box(label: str, numbers: Any, size: tuple[int, int]) -> Box:
    """The box of `[x, y, width, height]` in pixels of a picture of `size`; cut to it where it stands out by a pixel or less.

    Raises:
        SampleError: reason `bad_box`, for numbers that are no box, or none in this picture.
    """
    x, y, width, height = _four(label, numbers, "[x, y, width, height]")
    if width < 0 or height < 0:
        raise SampleError("bad_box", f"box of {label!r} is {numbers}; its width or height is negative")
    corners = (x, y, x + width, y + height)
    limits = (*size, *size)
    if any(not -SLACK_PIXELS <= value <= limit + SLACK_PIXELS for value, limit in zip(corners, limits)):
        raise SampleError(
            "bad_box",
            f"box of {label!r} is {numbers} ([x, y, width, height]); outside of its picture, {size[0]} x {size[1]} pixels",
        )
    left, top, right, bottom = (min(max(value, 0.0), limit) for value, limit in zip(corners, limits))
    return box_of_pixels(label, (left, top), (right - left, bottom - top), size)


def share_box(label: str, numbers: Any) -> Box:
    """The box of `[left, top, right, bottom]` in shares of its picture, as LLaVA writes them; cut as `pixel_box` does.

    Raises:
        SampleError: reason `bad_box`, as `pixel_box`.
    """
    corners = _four(label, numbers, "[left, top, right, bottom]")
    if any(not -SLACK_SHARE <= value <= 1 + SLACK_SHARE for value in corners):
        raise SampleError(
            "bad_box",
            f"box of {label!r} is {numbers}; expected shares from 0 to 1 [left, top, right, bottom], or `width` and "
            "`height` of the picture in the row, to which pixels can be compared",
        )
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in corners)
    if right < left or bottom < top:
        raise SampleError("bad_box", f"box of {label!r} is {numbers}; its right or bottom comes before its left or top")
    return Box(label, left, top, right, bottom)


def picture_size(row: dict[str, Any], name: str) -> tuple[int, int]:
    """`width` and `height` of a row about a picture. Raises SampleError, reason `bad_row`, where they are no sizes."""
    width, height = row.get("width"), row.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    raise SampleError("bad_row", f"picture {name!r} has width {width!r} and height {height!r}; expected whole numbers above 0")


def keep_good(makers: Iterable[Any], drop: bool) -> Checked:
    """What each of `makers` (functions without arguments) makes; a bad box ends it, or with `drop` is counted."""
    boxes, num_dropped = [], 0
    for make in makers:
        try:
            boxes.append(make())
        except SampleError as error:
            if not drop or error.reason != "bad_box":
                raise
            num_dropped += 1
    return Checked(boxes, num_dropped)


def in_text(box: Box, size: tuple[int, int], convention: BoxConvention) -> str:
    """`[0.28, 0.34, 0.4, 0.71]`: left, top, right, bottom as LLaVA 1.5 writes them."""
    if convention == "padded":
        box = padded(box, size)
    return str([round(value, _TEXT_DECIMALS) for value in box[1:]])


def _four(label: str, numbers: Any, form: str) -> list[float]:
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(_is_number(value) for value in numbers):
        raise SampleError("bad_box", f"box of {label!r} is {str(numbers)[:80]}; expected four numbers {form}")
    return [float(value) for value in numbers]


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False
