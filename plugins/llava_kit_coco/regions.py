"""Regions of a picture as turns of a conversation: a box that is to be described, or a description that is to be found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import ImageRef, Sample
from llava_kit.errors import SampleError

from .boxes import in_text
from .chance import chance
from .options import RegionOptions
from .talk import conversation


class _Wording(NamedTuple):
    describe: str
    locate: str


# LLaVA 1.5's paper, table of its mixture; and the rows of llava_v1_5_mix665k.json.
WORDINGS = {
    "paper": _Wording(
        "Provide a short description for this region. {}",
        "Provide the bounding box coordinate of the region this sentence describes. {}",
    ),
    "released": _Wording(
        "Please provide a short description for this region: {}",
        "Please provide the bounding box coordinate of the region this sentence describes: {}",
    ),
}
_TASKS = ("describe", "locate")


class Place(NamedTuple):
    """A picture with what its rows say of it; `name` is the sample's."""

    name: str
    picture: ImageRef
    size: tuple[int, int]
    tags: dict[str, Any]


def region_sample(place: Place, boxes: Sequence[Box], options: RegionOptions) -> Sample:
    """A conversation with a turn for each of `boxes`, whose labels are the phrases; the task of each follows from the seed.

    The annotations hold the boxes as shares of the picture; `text_boxes` says what the numbers in the text are shares of.
    """
    if not boxes:
        raise SampleError("no_regions", "it has no region that can be used")
    choose = chance(options.seed, "task", place.name)
    turns = [
        _turn(box, place.size, choose.choice(_TASKS) if options.task == "both" else options.task, options) for box in boxes
    ]
    return Sample(
        place.name, conversation(turns), (place.picture,), place.tags, Annotations(boxes=tuple(boxes), text_boxes=options.boxes)
    )


def _turn(box: Box, size: tuple[int, int], task: str, options: RegionOptions) -> tuple[str, str]:
    wording, numbers = WORDINGS[options.wording], in_text(box, size, options.boxes)
    if task == "describe":
        return wording.describe.format(f"{numbers}."), as_sentence(box.label)
    return wording.locate.format(_stopped(box.label)), numbers


def as_sentence(phrase: str) -> str:
    """The phrase with a capital and a full stop, as the released rows have their answers: `Third person from right.`"""
    return _stopped(phrase[:1].upper() + phrase[1:])


def _stopped(phrase: str) -> str:
    return phrase if phrase.endswith((".", "!", "?")) else f"{phrase}."
