"""A sample as a row of LLaVA's own JSON, so that every other tool can read it; the source `llava_json` reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.annotations import Annotations
from ..core.conversation import ImageSlot, Message, Sample

SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
PLACEHOLDER = "<image>"
# Six decimals place a corner within a hundredth of a pixel in the widest picture that is read.
_DECIMALS = 6


def row_of(sample: Sample, pictures: Sequence[str]) -> dict[str, Any]:
    """The sample as a row; `pictures` are called so, in the order in which they are shown.

    A row that LLaVA's format cannot say exactly (a typed `<image>` beside a real one, a picture in the middle of its turn's
    text) becomes OpenAI-style `messages`. Annotations stand beside the conversation as `captions`, `boxes` and
    `box_convention`, tags that JSON can say as `tags`; the original code ignores such keys.
    """
    conversation = sample.conversation
    row: dict[str, Any] = {"id": sample.id}
    if conversation.system is not None:
        row["system"] = conversation.system
    if any(_unsayable(message, bool(pictures)) for message in conversation.messages):
        names = iter(pictures)
        row["messages"] = [{"role": message.role, "content": _parts(message, names)} for message in conversation.messages]
    else:
        if pictures:
            row["image"] = pictures[0] if len(pictures) == 1 else list(pictures)
        row["conversations"] = [
            {
                "from": SPEAKERS[message.role],
                "value": "".join(part if isinstance(part, str) else PLACEHOLDER for part in message.parts),
            }
            for message in conversation.messages
        ]
    return {**row, **annotation_keys(sample.annotations), **_tags(sample.tags)}


def shown_pictures(sample: Sample) -> list[int]:
    """The sample's pictures in the order in which they are shown."""
    return [part.index for message in sample.conversation.messages for part in message.parts if isinstance(part, ImageSlot)]


def annotation_keys(annotations: Annotations) -> dict[str, Any]:
    """The keys of a row that hold captions and boxes; none for what is not there."""
    keys: dict[str, Any] = {}
    if annotations.captions:
        keys["captions"] = list(annotations.captions)
    if annotations.boxes:
        keys["boxes"] = [
            {"label": box.label, "box": [round(value, _DECIMALS) for value in box[1:]]} for box in annotations.boxes
        ]
    if annotations.text_boxes is not None:
        keys["box_convention"] = annotations.text_boxes
    return keys


def _tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in tags.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            continue
        kept[name] = value
    return {"tags": kept} if kept else {}


def _unsayable(message: Message, pictures: bool) -> bool:
    """Whether the turn would be read otherwise from LLaVA's format than it was."""
    if message.role != "user" or not pictures:
        return False
    shown = sum(isinstance(part, ImageSlot) for part in message.parts)
    if PLACEHOLDER in message.text:
        return True
    first, *rest = message.parts or ("",)
    text = "".join(part for part in rest if isinstance(part, str))
    # The only picture of a turn is moved to its beginning by everybody who trains on LLaVA's format.
    return shown == 1 and not (
        isinstance(first, ImageSlot) and (not text or (text[0] == "\n" and text[1:] == text.strip() != ""))
    )


def _parts(message: Message, names: Iterator[str]) -> list[dict[str, str]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": next(names)}
        for part in message.parts
    ]
