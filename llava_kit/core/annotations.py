"""What is known of a picture beside a conversation: captions, boxes, and how boxes in the text are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

BoxConvention = Literal["picture", "padded"]
"""What a box's numbers are shares of: the picture's own sides, or the square that it is padded to (VG boxes of LLaVA 1.5)."""

CONVENTIONS: tuple[BoxConvention, ...] = ("picture", "padded")


class Box(NamedTuple):
    """A named thing and where it is, in shares of the picture's width and height, from the top left corner."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Annotations:
    """Captions and boxes of a sample's first picture. Boxes here are always shares of the picture itself.

    `text_boxes` says what the numbers of boxes *within the conversation's text* are shares of; None where it holds none.
    """

    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    text_boxes: BoxConvention | None = None

    def __bool__(self) -> bool:
        return bool(self.captions or self.boxes or self.text_boxes)


def box_of_pixels(label: str, corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]) -> Box:
    """The box of a top left `corner` and an `extent` (width, height) in pixels of a picture of `size`, as COCO has them."""
    (x, y), (width, height) = corner, extent
    return Box(label, x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1])


def padded(box: Box, size: tuple[int, int]) -> Box:
    """The same place in shares of the square that a picture of `size` is padded to, the picture in its middle."""
    (width, height), side = size, max(size)
    x, y = (side - width) / 2 / side, (side - height) / 2 / side
    across, down = width / side, height / side
    return Box(box.label, x + box.left * across, y + box.top * down, x + box.right * across, y + box.bottom * down)


def unpadded(box: Box, size: tuple[int, int]) -> Box:
    """What `padded` undoes: shares of the square back into shares of a picture of `size`."""
    (width, height), side = size, max(size)
    x, y = (side - width) / 2 / side, (side - height) / 2 / side
    across, down = width / side, height / side
    return Box(box.label, (box.left - x) / across, (box.top - y) / down, (box.right - x) / across, (box.bottom - y) / down)
