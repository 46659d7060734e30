"""Samples of any source written as LLaVA's own JSON with PNG files, so that every other tool can read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..core.conversation import Clip, ClipFolder, Sample
from ..core.source import DataSource
from ..data.loader import BadSample
from ..errors import DataError, SampleError
from ..image.reader import picture_size, read_picture
from ..store.row import row_of, shown_pictures

Show = Callable[[int, int], None]


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
    if sorted(shown_pictures(sample)) != list(range(len(sample.images))):
        raise SampleError("image_count", f"has {len(sample.images)} pictures and {len(shown_pictures(sample))} places")
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


def _write_pictures(sample: Sample, folder: Path, index: int) -> list[str]:
    """The names of the pictures, in the order in which they are shown."""
    names = []
    for number, slot in enumerate(shown_pictures(sample)):
        name = f"images/{index:08}.png" if len(sample.images) == 1 else f"images/{index:08}_{number}.png"
        read_picture(sample.images[slot]).save(folder / name)
        names.append(name)
    return names
