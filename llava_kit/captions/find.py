"""The first pass: the phrases of every caption, found by several processes, written down so that none is looked for twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..core.conversation import Clip, ClipFolder, ImageFile, ImageUrl, Sample
from ..core.source import DataSource
from ..data.workers import make_ahead
from ..errors import DataError, SampleError, TrainingError
from ..store.journal import Journal
from .phrases import PhraseFinder, clean

Show = Callable[[int, int], None]
# Rows in one piece of work: some seconds of a slow finder, so that a killed run loses little.
BATCH_ROWS = 512


class Found(NamedTuple):
    """One row: its captions' phrases, or why it has none (`reason`, empty where it has)."""

    row: int
    id: str
    phrases: list[list[str]]
    reason: str = ""
    message: str = ""


def find_phrases(
    source: DataSource, count: int, finder: PhraseFinder, journal: Journal, *, max_letters: int, workers: int, show: Show
) -> None:
    """Brings the journal to the end of the first `count` rows; those that it has already are not looked at again.

    Raises:
        DataError: a worker died.
        LlavaKitError: the finder gave something else than a list of phrases for each caption.
    """
    done = 0
    for entry in journal.entries():
        done = entry["rows"][1]
    show(done, count)

    def make(step: int) -> dict[str, Any]:
        begin = done + step * BATCH_ROWS
        return _batch(source, range(begin, min(begin + BATCH_ROWS, count)), finder, max_letters)

    for entry in in_order(make, -(-(count - done) // BATCH_ROWS), workers):
        journal.append(entry)
        show(entry["rows"][1], count)


def in_order(make: Callable[[int], Any], steps: int, workers: int) -> Iterator[Any]:
    """`make(0)`, `make(1)`, ... made by so many processes. Raises DataError where one died."""
    try:
        yield from make_ahead(make, 0, steps, workers) if min(workers, steps) > 1 else map(make, range(steps))
    except TrainingError as error:  # a worker that died; the rest of its words is about training
        raise DataError(
            f"{str(error).partition('; ')[0]}; the phrases that were found are kept, the same command goes on; fewer --workers "
            "take less memory"
        ) from error


def found(entry: Mapping[str, Any]) -> Iterator[Found]:
    """What an entry of the journal holds, row after row."""
    for told in entry["found"]:
        yield Found(*told)


def root_of(image: ImageFile) -> str:
    """The folder under which a picture file is said to be; without one, that of the file."""
    return os.path.dirname(os.path.abspath(image.path)) if image.root is None else _absolute(image.root)


def path_of(image: ImageFile) -> str:
    """The whole path of a picture file."""
    return (
        os.path.abspath(image.path) if image.root is None else os.path.normpath(os.path.join(_absolute(image.root), image.path))
    )


@lru_cache(maxsize=256)
def _absolute(folder: str) -> str:
    return os.path.abspath(folder)


def captions_of(sample: Sample) -> list[str]:
    """The captions of a sample: those beside its conversation, else the answer where it has a single turn.

    Raises:
        SampleError: it has none, or not one picture.
    """
    if len(sample.images) != 1 or isinstance(sample.images[0], Clip | ClipFolder):
        shown = ", ".join(repr(image.name) for image in sample.images[:3]) or "nothing"
        raise SampleError("no_picture", f"shows {shown[:200]}; expected one picture with captions", sample_id=sample.id)
    if sample.annotations.captions:
        return list(sample.annotations.captions)
    messages = sample.conversation.messages
    if [message.role for message in messages] == ["user", "assistant"]:
        return [messages[1].text]
    raise SampleError(
        "no_caption", f"has no captions and {len(messages)} turns; expected captions, or a single answer", sample_id=sample.id
    )


def _batch(source: DataSource, rows: range, finder: PhraseFinder, max_letters: int) -> dict[str, Any]:
    """One entry of the journal."""
    read: list[tuple[int, str, list[str]]] = []
    bad: list[Found] = []
    under: set[str] = set()
    for row in rows:
        try:
            sample = source[row]
            read.append((row, sample.id, _checked(sample, max_letters)))
            image = sample.images[0]
            if not isinstance(image, ImageUrl):
                under.add(root_of(image) if isinstance(image, ImageFile) else "")
        except SampleError as error:
            bad.append(Found(row, error.sample_id or f"number {row}", [], error.reason, error.message))
    captions = [caption for _, _, several in read for caption in several]
    phrases = iter(_asked(finder, captions))
    good = [Found(row, identity, [next(phrases) for _ in several]) for row, identity, several in read]
    return {"rows": [rows.start, rows.stop], "roots": sorted(under), "found": [list(told) for told in sorted(good + bad)]}


def _checked(sample: Sample, max_letters: int) -> list[str]:
    captions = captions_of(sample)
    longest = max(map(len, captions))
    if longest > max_letters:
        raise SampleError(
            "long_caption",
            f"has a caption of {longest} letters; expected at most {max_letters} (--max-letters)",
            sample_id=sample.id,
        )
    if not any(caption.strip() for caption in captions):
        raise SampleError("no_caption", "its captions are empty", sample_id=sample.id)
    return captions


def _asked(finder: PhraseFinder, captions: Sequence[str]) -> list[list[str]]:
    phrases = finder.phrases(captions) if captions else []
    if len(phrases) != len(captions):
        raise DataError(f"finder {finder.name!r}: gave phrases for {len(phrases)} of {len(captions)} captions; expected all")
    return [[printable for phrase in of_one if (printable := clean(phrase))] for of_one in phrases]
