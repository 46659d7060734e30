"""A sample as a row of LLaVA's own JSON, so that every other tool can read it; the source `llava_json` reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.annotations import Annotations
from ..core.conversation import Clip, ClipFolder, ImageSlot, Message, Sample
from ..errors import SampleError

SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
PLACEHOLDER, VIDEO = "<image>", "<video>"
# Six decimals place a corner within a hundredth of a pixel in the widest picture that is read.
_DECIMALS = 6
# Times of frames come from divisions by a rate: a microsecond is more than these are off, and less than any frame lasts.
_SECONDS = 1e-6


def row_of(sample: Sample, names: Sequence[str]) -> dict[str, Any]:
    """The sample as a row; its pictures and clips are called `names`, in the order in which they are shown.

    Clips are folders of frames and stand in the key `video`, marked by `<image>` as in LLaVA-NeXT's files, or by `<video>` in a
    row that has pictures too. A row that LLaVA's format cannot say exactly (a typed `<image>` beside a real one, a picture in
    the middle of its turn's text) becomes OpenAI-style `messages`. Annotations stand beside the conversation as `captions`,
    `boxes` and `box_convention`, tags that JSON can say as `tags`; the original code ignores such keys.

    Raises `SampleError` for a clip whose frames no rate can place.
    """
    row = _head(sample)
    shown = shown_pictures(sample)
    words = _words(sample, shown)
    if any(_unsayable(message, words) for message in sample.conversation.messages):
        return {**row, **_messages(sample, names, plain=False), **_notes(sample)}
    for key, clips in (("image", False), ("video", True)):
        listed = [name for slot, name in zip(shown, names, strict=True) if is_clip(sample, slot) == clips]
        if listed:
            row[key] = listed[0] if len(listed) == 1 else listed
    word_of = {slot: VIDEO if is_clip(sample, slot) and "image" in row else PLACEHOLDER for slot in shown}
    row["conversations"] = [
        {
            "from": SPEAKERS[message.role],
            "value": "".join(part if isinstance(part, str) else word_of[part.index] for part in message.parts),
        }
        for message in sample.conversation.messages
    ]
    return {**row, **_notes(sample)}


def messages_of(sample: Sample, names: Sequence[str]) -> dict[str, Any]:
    """The sample as a row of OpenAI-style `messages`, with its system text; `names` and all else as in `row_of`."""
    return {"id": sample.id, **_rate(sample), **_messages(sample, names, plain=True), **_notes(sample)}


def is_clip(sample: Sample, slot: int) -> bool:
    """Whether what stands at `slot` is a clip."""
    return slot < len(sample.images) and isinstance(sample.images[slot], Clip | ClipFolder)


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


def _head(sample: Sample) -> dict[str, Any]:
    system = sample.conversation.system
    return {"id": sample.id, **({} if system is None else {"system": system}), **_rate(sample)}


def _notes(sample: Sample) -> dict[str, Any]:
    return {**annotation_keys(sample.annotations), **_tags(sample.tags)}


def _rate(sample: Sample) -> dict[str, float]:
    """The key that says how many frames of the clips make a second; one a second needs no word."""
    rates = {_frames_per_second(image) for image in sample.images if isinstance(image, Clip | ClipFolder)}
    if len(rates) > 1:
        raise SampleError("video", f"shows clips of {len(rates)} rates of frames; a row has one for all its clips")
    return {} if rates <= {1.0} else {"frames_per_second": rates.pop()}


def _frames_per_second(clip: Clip | ClipFolder) -> float:
    if isinstance(clip, ClipFolder):
        return clip.frames_per_second
    if clip.times is None:
        return 1.0
    times = clip.times
    step = times[1] - times[0] if len(times) > 1 else (clip.duration or 1.0)
    if step <= 0 or any(abs(time - number * step) > _SECONDS for number, time in enumerate(times)):
        raise SampleError("video", f"clip {clip.name!r} has frames at uneven times; in a folder of frames all steps are equal")
    return round(1 / step, 6)


def _tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in tags.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            continue
        kept[name] = value
    return {"tags": kept} if kept else {}


def _words(sample: Sample, shown: Sequence[int]) -> tuple[str, ...]:
    """What would mark a place in the row's text."""
    if any(is_clip(sample, slot) for slot in shown):
        return (PLACEHOLDER, VIDEO)
    return (PLACEHOLDER,) if shown else ()


def _unsayable(message: Message, words: Sequence[str]) -> bool:
    """Whether the turn would be read otherwise from LLaVA's format than it was."""
    if message.role != "user" or not words:
        return False
    shown = sum(isinstance(part, ImageSlot) for part in message.parts)
    if any(word in message.text for word in words):
        return True
    first, *rest = message.parts or ("",)
    text = "".join(part for part in rest if isinstance(part, str))
    # The only picture of a turn is moved to its beginning by everybody who trains on LLaVA's format.
    return shown == 1 and not (
        isinstance(first, ImageSlot) and (not text or (text[0] == "\n" and text[1:] == text.strip() != ""))
    )


def _messages(sample: Sample, names: Sequence[str], *, plain: bool) -> dict[str, Any]:
    """`messages`; `plain` as OpenAI has them: the system text among them, text alone as a text, pictures as `image_url`."""
    name_of = dict(zip(shown_pictures(sample), names, strict=True))
    messages: list[dict[str, Any]] = []
    if plain and sample.conversation.system is not None:
        messages.append({"role": "system", "content": sample.conversation.system})
    for message in sample.conversation.messages:
        content: Any = [_part(sample, part, name_of, plain) for part in message.parts]
        if plain and not any(isinstance(part, ImageSlot) for part in message.parts):
            content = message.text
        messages.append({"role": message.role, "content": content})
    return {"messages": messages}


def _part(sample: Sample, part: str | ImageSlot, name_of: Mapping[int, str], plain: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    name = name_of[part.index]
    if is_clip(sample, part.index):
        return {"type": "video", "video": name}
    return {"type": "image_url", "image_url": {"url": name}} if plain else {"type": "image", "image": name}
