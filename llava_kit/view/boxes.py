"""Boxes of a sample for a drawing: those that stand beside the conversation and those that stand in its text."""

from __future__ import annotations

import math
import re
from typing import Any

from ..core.annotations import Box, unpadded
from ..core.conversation import Message, Sample

_NUMBER = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_IN_TEXT = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
# Boxes are written with two or three decimals: what lies outside by less is rounding.
_ROUNDING = 0.005


def beside(sample: Sample) -> list[dict[str, Any]]:
    """The annotated boxes: label, box in shares of the picture (null: not a number), and what is wrong with it."""
    return [{"label": box.label, "box": _numbers(box), "problem": problem_of(box)} for box in sample.annotations.boxes]


def in_text(sample: Sample, size: tuple[int, int] | None) -> list[dict[str, Any]]:
    """The boxes `[x1, y1, x2, y2]` in the turns: which turn, from which letter to which, and the place in the picture.

    `picture` takes the numbers as shares of the picture, `padded` as shares of the square that it is padded to.
    """
    found = []
    for turn, message in enumerate(sample.conversation.messages):
        for match in matches_in(message):
            box = Box("", *map(float, match.groups()))
            found.append(
                {
                    "turn": turn,
                    "start": match.start(),
                    "end": match.end(),
                    "picture": _numbers(box),
                    "padded": _numbers(unpadded(box, size)) if size else _numbers(box),
                    "problem": problem_of(box),
                }
            )
    return found


def matches_in(message: Message) -> list[re.Match[str]]:
    """Where boxes stand in the message's text; four whole numbers are a box only where they are 0 and 1."""
    text = message.text
    if "[" not in text:
        return []
    return [match for match in _IN_TEXT.finditer(text) if "." in match[0] or all(n in ("0", "1") for n in match.groups())]


def count_boxes(sample: Sample) -> int:
    """How many boxes the sample has, beside its text and in it."""
    return len(sample.annotations.boxes) + sum(len(matches_in(message)) for message in sample.conversation.messages)


def problem_of(box: Box) -> str | None:
    """What is wrong with the shares of a box, or None."""
    if not all(map(math.isfinite, box[1:])):
        return "is not a number"
    if box.right <= box.left or box.bottom <= box.top:
        return "has no area; expected left < right and top < bottom"
    if min(box[1:]) < -_ROUNDING or max(box[1:]) > 1 + _ROUNDING:
        return "reaches out of the picture; expected shares from 0 to 1"
    return None


def _numbers(box: Box) -> list[float] | None:
    return [round(value, 6) for value in box[1:]] if all(map(math.isfinite, box[1:])) else None
