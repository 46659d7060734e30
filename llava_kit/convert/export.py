"""Samples of any source written as LLaVA's own JSON with PNG files, so that every other tool can read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.conversation import Clip, ClipFolder, Conversation, ImageSlot, Message, Sample
from ..core.source import DataSource
from ..errors import DataError, SampleError
from ..image.reader import picture_size, read_picture
from .loader import BadSample

Show = Callable[[int, int], None]
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
PLACEHOLDER = "<image>"


def export_samples(
    source: DataSource, count: int, destination: str | os.PathLike[str], show: Show
) -> tuple[int, list[BadSample]]:
    """Writes the first `count` samples to `destination`: data.json, and images/ with the pictures. A new or empty folder.

    Returns how many were written, and those that could not be. data.json appears when all is there. A row that LLaVA's format
    cannot say exactly (a typed `<image>` beside a real one, a picture in the middle of its turn's text) is written as
    OpenAI-style `messages`; the source `llava_json` reads both.
    """
    folder = Path(destination)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already and not empty; expected a new folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    written, bad = 0, []
    unfinished = folder / "data.json.tmp"
    with open(unfinished, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("[")
        for index, sample in _samples(source, count, bad, show):
            try:
                names = _write_pictures(sample, folder, index)
            except SampleError as error:
                bad.append(BadSample(sample.id, error.reason, error.message))
                continue
            file.write(",\n" if written else "\n")
            file.write(json.dumps(row_of(sample, names), ensure_ascii=False))
            written += 1
        file.write("\n]\n")
    os.replace(unfinished, folder / "data.json")
    return written, bad


def check_samples(source: DataSource, count: int, show: Show) -> list[BadSample]:
    """Those of the first `count` samples that cannot be used: rows, turns, places of pictures, and the pictures' headers."""
    bad: list[BadSample] = []
    for _, sample in _samples(source, count, bad, show):
        try:
            _check(sample)
        except SampleError as error:
            bad.append(BadSample(sample.id, error.reason, error.message))
    return bad


def _check(sample: Sample) -> None:
    messages = sample.conversation.messages
    roles = [message.role for message in messages]
    if len(roles) < 2 or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise SampleError("bad_turns", f"found the turns {', '.join(roles) or 'none'}; expected user, assistant, ...")
    for turn, message in enumerate(messages):
        if message.role == "assistant" and not message.text.strip():
            raise SampleError("empty_answer", f"turn {turn}, an answer, is empty")
    if sorted(_slots(sample.conversation)) != list(range(len(sample.images))):
        raise SampleError("image_count", f"has {len(sample.images)} pictures and {len(_slots(sample.conversation))} places")
    for image in sample.images:
        if isinstance(image, Clip | ClipFolder):
            raise SampleError("video", f"shows the clip {image.name!r}; only pictures are exported")
        picture_size(image)


def _samples(source: DataSource, count: int, bad: list[BadSample], show: Show) -> Iterator[tuple[int, Sample]]:
    for index in range(count):
        try:
            yield index, source[index]
        except SampleError as error:
            bad.append(BadSample(error.sample_id or f"number {index}", error.reason, error.message))
        show(index + 1, count)


def _slots(conversation: Conversation) -> list[int]:
    """The pictures in the order in which they are shown."""
    return [part.index for message in conversation.messages for part in message.parts if isinstance(part, ImageSlot)]


def _write_pictures(sample: Sample, folder: Path, index: int) -> list[str]:
    """The names of the pictures, in the order in which they are shown."""
    names = []
    for number, slot in enumerate(_slots(sample.conversation)):
        name = f"images/{index:08}.png" if len(sample.images) == 1 else f"images/{index:08}_{number}.png"
        read_picture(sample.images[slot]).save(folder / name)
        names.append(name)
    return names


def row_of(sample: Sample, pictures: list[str]) -> dict[str, Any]:
    """The sample as a row; `pictures` are called so, in the order in which they are shown."""
    conversation = sample.conversation
    row: dict[str, Any] = {"id": sample.id}
    if conversation.system is not None:
        row["system"] = conversation.system
    if any(_unsayable(message, bool(pictures)) for message in conversation.messages):
        names = iter(pictures)
        turns = [{"role": message.role, "content": _parts(message, names)} for message in conversation.messages]
        return {**row, "messages": turns}
    if pictures:
        row["image"] = pictures[0] if len(pictures) == 1 else pictures
    row["conversations"] = [
        {
            "from": _SPEAKERS[message.role],
            "value": "".join(part if isinstance(part, str) else PLACEHOLDER for part in message.parts),
        }
        for message in conversation.messages
    ]
    return row


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
