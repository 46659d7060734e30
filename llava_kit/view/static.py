"""The page as one file for somebody else: samples, pictures and charts within it, nothing outside asked for."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import LlavaKitError, SampleError
from .gallery import Gallery
from .page import data_block, static_page
from .search import text_of
from .spreads import Spreads

# Samples in a file where nobody said how many.
ROWS = 200
# Longest side of a picture in a file, in pixels, and its JPEG quality: some 70 KB a photograph.
LONGEST, QUALITY = 800, 80
# Frames of a clip in a file.
FRAMES = 8
# Samples that the size is estimated from, spread evenly.
TRIED = 8
MAX_MEGABYTES = 100
_MEGABYTE = 10**6


def write_static(
    gallery: Gallery,
    path: str | Path,
    *,
    max_megabytes: float = MAX_MEGABYTES,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """The bytes of the written file. It is there whole or not at all; memory holds one sample at a time.

    Raises LlavaKitError for one that would be larger than `max_megabytes`, before anything is written where that can be told.
    """
    path = Path(path)
    before, behind = static_page(gallery.name)
    limit = int(max_megabytes * _MEGABYTE)
    _check_estimate(gallery, limit, len(before) + len(behind))
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            written = _write(gallery, file, before, behind, limit, show)
        os.replace(temporary, path)
    except OSError as error:
        raise LlavaKitError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return written


def estimate(gallery: Gallery) -> float:
    """Bytes of a sample in a file, on average."""
    numbers = range(0, gallery.count, max(1, gallery.count // TRIED))
    return sum(len(_blocks(gallery, number)[0]) for number in numbers) / max(1, len(numbers))


def _check_estimate(gallery: Gallery, limit: int, page: int) -> None:
    each = estimate(gallery)
    expected = page + each * gallery.count
    if expected > 1.1 * limit:  # what is near is tried
        fits = int((limit - page) / each)
        less = f"`--limit {fits}` would fit, " if fits > 0 else ""
        raise LlavaKitError(
            f"{gallery.count} samples would make a file of some {expected / _MEGABYTE:,.1f} MB; expected "
            f"{limit / _MEGABYTE:,.1f} MB at most: {less}`--max-mb` allows more"
        )


def _write(gallery: Gallery, file: IO[str], before: str, behind: str, limit: int, show: Callable[[int, int], None]) -> int:
    written = 0

    def put(text: str) -> None:
        nonlocal written
        written += len(text.encode("utf-8"))
        if written > limit:
            raise LlavaKitError(
                f"the file grew beyond {limit / _MEGABYTE:,.0f} MB; nothing was written: "
                "take fewer samples with --limit, or allow more with --max-mb"
            )
        file.write(text)

    put(before)
    put(data_block("about", gallery.about()))
    rows = []
    for number in range(gallery.count):
        block, row = _blocks(gallery, number)
        put(block)
        rows.append(row)
        show(number + 1, gallery.count)
    put(data_block("rows", rows))
    spreads = Spreads(gallery)
    spreads.run()
    put(data_block("spreads", spreads.told()))
    put(behind)
    return written


def _blocks(gallery: Gallery, number: int) -> tuple[str, dict[str, Any]]:
    """The block of a sample, pictures included, and its line of the list with the text that is searched."""
    detail = gallery.detail(number)
    for index, picture in enumerate(detail["pictures"]):
        if picture["problem"] is None:
            _embed(gallery, number, index, picture)
    row = gallery.row(number)
    # Whether a picture is whole shows only when its pixels are read.
    unread = next((picture["problem"] for picture in detail["pictures"] if picture["problem"]), None)
    row["problem"] = detail["problem"] = detail["problem"] or unread
    try:
        row["text"] = text_of(gallery.sample(number))
    except SampleError:
        row["text"] = row["id"]
    return data_block(f"sample-{number}", detail), row


def _embed(gallery: Gallery, number: int, index: int, picture: dict[str, Any]) -> None:
    """The pixels as data: addresses, one for each frame that is shown."""
    frames = (picture["frames"] or [0])[:FRAMES]
    try:
        found = [gallery.picture(number, index, frame, longest=LONGEST, quality=QUALITY) for frame in frames]
    except SampleError as error:
        picture["problem"] = {"reason": error.reason, "message": error.message}
        return
    picture["sources"] = [f"data:{type};base64,{base64.b64encode(body).decode('ascii')}" for body, type in found]
    if picture["frames"]:
        picture["frames"] = frames
