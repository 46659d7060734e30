"""The second pass: the chosen captions as rows of LLaVA's JSON, each with the phrase that it was taken for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..core.conversation import ImageFile, ImageUrl, Sample
from ..core.source import DataSource
from ..errors import SampleError
from ..recipe.filter_captions import FilterCaptions
from ..store.journal import Journal
from ..store.pictures import PictureStore, picture_file
from .choose import Choice, key_of
from .find import Found, Show, captions_of, found, place_of, roots
from .pair import caption_row

ROWS, REJECTED, UNFINISHED = "data.json", "rejected.jsonl", ".unfinished"
RULE = "concept-balanced"


class Chosen(NamedTuple):
    """A chosen caption: the sample it is of, which of its captions, and the phrase that it was taken for."""

    row: int
    number: int
    several: bool
    phrase: str
    frequency: int


class Rejected(NamedTuple):
    index: int
    id: str
    reason: str
    message: str


class Written(NamedTuple):
    """How many rows and pictures were written, the folder under which rows name pictures, why samples were rejected, and the
    names of the most frequent phrases by key."""

    rows: int
    pictures: int
    image_root: str
    rejected: dict[str, int]
    names: dict[int, str]


def write_rows(source: DataSource, journal: Journal, choice: Choice, options: FilterCaptions, show: Show) -> Written:
    """Writes `data.json` and `rejected.jsonl` (both appear when they are whole) and what pictures there are to write."""
    folder = Path(options.to)
    (folder / UNFINISHED).mkdir(exist_ok=True)
    namer = _Namer(options, roots(journal))
    names: dict[int, str] = {}
    rejected: Counter[str] = Counter()
    rows, total = 0, len(choice.captions)
    unfinished = [folder / UNFINISHED / name for name in (ROWS, REJECTED)]
    # A lone surrogate has no bytes; the backslash makes an escape of it, which JSON reads as the same.
    how: Any = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace"}
    with open(unfinished[0], **how) as good, open(unfinished[1], **how) as bad:
        good.write("[")
        for made in _made(source, _chosen(journal, choice, names), options, namer):
            if isinstance(made, Rejected):
                bad.write(json.dumps(made._asdict(), ensure_ascii=False) + "\n")
                rejected[made.reason] += 1
                continue
            good.write((",\n" if rows else "\n") + json.dumps(made, ensure_ascii=False))
            rows += 1
            show(rows, total)
        good.write("\n]\n")
    os.replace(unfinished[0], folder / ROWS)
    os.replace(unfinished[1], folder / REJECTED)
    if not rejected:
        (folder / REJECTED).unlink()
    return Written(rows, namer.written, namer.image_root, dict(sorted(rejected.items())), names)


def _made(
    source: DataSource, chosen: Iterator[Chosen | Found], options: FilterCaptions, namer: _Namer
) -> Iterator[dict[str, Any] | Rejected]:
    """The row of each chosen caption; a sample that cannot be used is told once."""
    row, sample, picture = -1, None, ""
    for entry in chosen:
        if isinstance(entry, Found):
            yield Rejected(entry.row, entry.id, entry.reason, entry.message)
            continue
        try:
            if entry.row != row:
                row, sample = entry.row, None
                read = source[row]
                picture, sample = namer.name(read.images[0]), read
        except SampleError as error:
            yield Rejected(row, error.sample_id or f"number {row}", error.reason, error.message)
        if sample is not None:
            yield _row(sample, picture, entry, options)


def _row(sample: Sample, picture: str, chosen: Chosen, options: FilterCaptions) -> dict[str, Any]:
    identity = f"{sample.id}/{chosen.number}" if chosen.several else sample.id
    note: dict[str, Any] = {
        "provenance": f"captions chosen by llava-kit ({RULE})",
        "filter": {
            "rule": RULE,
            "phrase": chosen.phrase,
            "frequency": chosen.frequency,
            "least": options.least,
            "most": options.most,
            "seed": options.seed,
        },
    }
    caption = captions_of(sample)[chosen.number]
    return caption_row(sample, caption, identity, options.pair, options.seed, note, picture)


def _chosen(journal: Journal, choice: Choice, names: dict[int, str]) -> Iterator[Chosen | Found]:
    """The chosen captions in the order of the source, and between them the rows that have none to choose.

    `names` is filled with the phrases of `choice.top`, by key.
    """
    unnamed = {key for key, _, _ in choice.top}
    place, first = 0, 0
    for told in found(journal):
        if told.reason:
            yield told
            continue
        after = first + len(told.phrases)
        while place < len(choice.captions) and choice.captions[place] < after:
            number = int(choice.captions[place]) - first
            phrases = {key_of(phrase): phrase for phrase in told.phrases[number]}
            for key in unnamed & phrases.keys():
                names[key] = phrases[key]
                unnamed.discard(key)
            key = int(choice.keys[place])
            yield Chosen(told.row, number, len(told.phrases) > 1, phrases[key], int(choice.frequency[place]))
            place += 1
        first = after


class _Namer:
    """What rows call their pictures: by their path where they are, or by that of a copy.

    `image_root` is the folder under which all these paths are, seen from the folder of the rows.
    """

    def __init__(self, options: FilterCaptions, roots: set[str]):
        self._folder = os.path.abspath(options.to)
        self._store = PictureStore(self._folder, Path(self._folder) / UNFINISHED)
        self._keeps = options.pictures == "keep"
        # Pictures that are no files (their root is empty) are written beside the rows.
        under = {root or self._folder for root in roots} if self._keeps else set()
        self._root = os.path.commonpath(under or {self._folder})
        self.written = 0

    @property
    def image_root(self) -> str:
        return "." if self._root == self._folder else self._root

    def name(self, image: Any) -> str:
        """The picture's name in a row. Raises SampleError for one that cannot be read, where it must be copied."""
        if self._keeps and isinstance(image, ImageUrl):
            return image.url
        if self._keeps and isinstance(image, ImageFile):
            return os.path.relpath(place_of(image)[1], self._root)
        copied = self._store.add(picture_file(image))
        self.written += 1
        return os.path.relpath(os.path.join(self._folder, copied), self._root)
