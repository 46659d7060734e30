"""Boxes that cannot be: no numbers, outside of their picture, empty or swapped; in annotations and in the text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ..core.annotations import Box, unpadded
from ..core.conversation import Sample
from .text import Mistake

# Boxes are written with two or three decimals, and people draw a little over the edge.
OVER_THE_EDGE = 0.01
_NUMBER = r"\s*(-?\d+(?:\.\d+)?|-?nan|-?inf)\s*"
_IN_TEXT = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]", re.IGNORECASE)


def find_mistakes(sample: Sample, size: tuple[int, int] | None) -> Iterator[Mistake]:
    """What is wrong with the boxes of `sample`, whose first picture has `size` (None: it is not known)."""
    for box in sample.annotations.boxes:
        yield from _annotated(box)
    if sample.images:
        yield from _in_text(sample, size)


def _annotated(box: Box) -> Iterator[Mistake]:
    name = f"the box of {box.label!r}" if box.label.strip() else "a box"
    if not box.label.strip():
        yield "box_without_label", f"the box {_told(box)} names nothing"
    if not all(math.isfinite(value) for value in box[1:]):
        yield "box_not_a_number", f"{name} is {_told(box)}"
        return
    if box.right <= box.left or box.bottom <= box.top:
        yield "box_empty", f"{name} is {_told(box)}; expected left < right and top < bottom"
    if _outside(box):
        yield "box_outside", f"{name} is {_told(box)}; expected shares of the picture, from 0 to 1"


def _in_text(sample: Sample, size: tuple[int, int] | None) -> Iterator[Mistake]:
    """Four numbers in brackets are a box where the sample states a convention, or where all have decimals (a list has none)."""
    convention = sample.annotations.text_boxes
    unstated = False
    for turn, message in enumerate(sample.conversation.messages):
        for found in _IN_TEXT.finditer(message.text) if "[" in message.text else ():
            numbers = found.groups()
            if convention is None and not all("." in number for number in numbers):
                continue
            box = Box("", *map(float, numbers))
            where = f"turn {turn} says {found.group()}"
            if not all(math.isfinite(value) for value in box[1:]):
                yield "box_not_a_number", where
                continue
            if convention is None:
                if not _outside(box) and not unstated:
                    unstated = True
                    yield "text_box_convention", f"{where}; its box_convention is not stated (picture or padded)"
                continue
            if box.right <= box.left or box.bottom <= box.top:
                yield "text_box_empty", f"{where}; expected left < right and top < bottom"
            if _outside(unpadded(box, size) if convention == "padded" and size is not None else box):
                yield "text_box_outside", f"{where}; by its convention ({convention}) that lies outside of the picture"


def _outside(box: Box) -> bool:
    return min(box[1:]) < -OVER_THE_EDGE or max(box[1:]) > 1 + OVER_THE_EDGE


def _told(box: Box) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in box[1:])}]"
