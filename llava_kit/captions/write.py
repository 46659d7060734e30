"""The second pass: the chosen captions as rows of LLaVA's JSON, each with the phrase that it was taken for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core.conversation import ImageFile, ImageUrl, Sample
from ..core.source import DataSource
from ..errors import DataError, SampleError
from ..recipe.filter_captions import FilterCaptions
from ..store.pictures import PictureStore, picture_file
from .choose import Choice, key_of
from .find import Found, Show, captions_of, found, in_order, path_of
from .pair import caption_row
from .spool import Spool

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


class Made(NamedTuple):
    """What came of one entry of the spool: rows as lines of JSON, who was rejected, how many pictures were written."""

    rows: list[str]
    rejected: list[Rejected]
    pictures: int
    names: dict[int, str]
    """The most frequent phrases that were met, by key."""


class Written(NamedTuple):
    """How many rows and pictures were written, the folder under which rows name pictures, why samples were rejected, and the
    names of the most frequent phrases by key."""

    rows: int
    pictures: int
    image_root: str
    rejected: dict[str, int]
    names: dict[int, str]


def write_rows(
    source: DataSource, spool: Spool, choice: Choice, options: FilterCaptions, *, workers: int, show: Show
) -> Written:
    """Writes `data.json` and `rejected.jsonl` (both appear when they are whole) and what pictures there are to write.

    Raises:
        DataError: a worker died, or the disk refused it.
        OSError: the disk refused.
    """
    folder = Path(options.to)
    namer = Namer(options, spool.roots)
    names: dict[int, str] = {}
    rejected: Counter[str] = Counter()
    rows = pictures = 0
    unfinished = [folder / UNFINISHED / name for name in (ROWS, REJECTED)]
    # A lone surrogate has no bytes; the backslash makes an escape of it, which JSON reads as the same.
    how: Any = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace"}
    (folder / UNFINISHED).mkdir(exist_ok=True)
    with open(unfinished[0], **how) as good, open(unfinished[1], **how) as bad:
        good.write("[")
        for made in in_order(RowMaker(source, spool, choice, options, namer), len(spool), workers):
            for row in made.rows:
                good.write((",\n" if rows else "\n") + row)
                rows += 1
            for entry in made.rejected:
                bad.write(json.dumps(entry._asdict(), ensure_ascii=False) + "\n")
                rejected[entry.reason] += 1
            pictures += made.pictures
            names = {**made.names, **names}
            show(rows, len(choice.captions))
        good.write("\n]\n")
    os.replace(unfinished[0], folder / ROWS)
    os.replace(unfinished[1], folder / REJECTED)
    if not rejected:
        (folder / REJECTED).unlink()
    return Written(rows, pictures, namer.image_root, dict(sorted(rejected.items())), names)


@dataclass(frozen=True)
class RowMaker:
    """`make(number)`: the rows of entry `number` of the spool; this is what a worker process does."""

    source: DataSource
    spool: Spool
    choice: Choice
    options: FilterCaptions
    namer: Namer

    def __call__(self, number: int) -> Made:
        made = Made([], [], 0, {})
        before = self.namer.written
        row, identity, sample, picture = -1, "", None, ""
        for entry in self._chosen(number, made.names):
            if isinstance(entry, Found):
                made.rejected.append(Rejected(entry.row, entry.id, entry.reason, entry.message))
                continue
            try:
                if entry.row != row:
                    row, identity, sample = entry.row, f"number {entry.row}", None
                    read = self.source[row]
                    identity = read.id
                    picture, sample = self.namer.name(read.images[0]), read
            except SampleError as error:  # told once, however many of its captions were chosen
                made.rejected.append(Rejected(row, error.sample_id or identity, error.reason, error.message))
            except OSError as error:
                raise disk_error(Path(self.options.to), error) from error
            if sample is not None:
                made.rows.append(json.dumps(_row(sample, picture, entry, self.options), ensure_ascii=False))
        return made._replace(pictures=self.namer.written - before)

    def _chosen(self, number: int, names: dict[int, str]) -> Iterator[Chosen | Found]:
        """The chosen captions of an entry in the order of the source, and between them the rows that have none to choose."""
        choice, first = self.choice, self.spool.first_caption(number)
        place = int(choice.captions.searchsorted(first))
        top = {key for key, _, _ in choice.top}
        for told in found(self.spool.entry(number)):
            if told.reason:
                yield told
            after = first + len(told.phrases)
            while place < len(choice.captions) and choice.captions[place] < after:
                caption = int(choice.captions[place]) - first
                phrases = {key_of(phrase): phrase for phrase in told.phrases[caption]}
                names.update((key, phrases[key]) for key in top & phrases.keys())
                phrase = phrases[int(choice.keys[place])]
                yield Chosen(told.row, caption, len(told.phrases) > 1, phrase, int(choice.frequency[place]))
                place += 1
            first = after


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


class Namer:
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
        return os.path.relpath(self._root, self._folder)

    def name(self, image: Any) -> str:
        """The picture's name in a row. Raises SampleError for one that cannot be read, where it must be copied."""
        if self._keeps and isinstance(image, ImageUrl):
            return image.url
        if self._keeps and isinstance(image, ImageFile):
            return self._seen_from_root(path_of(image))
        copied = self._store.add(picture_file(image))
        self.written += 1
        return self._seen_from_root(os.path.join(self._folder, copied))

    def _seen_from_root(self, path: str) -> str:
        prefix = self._root.rstrip(os.sep) + os.sep
        return path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, self._root)


def disk_error(folder: Path, error: OSError) -> DataError:
    """What is said when the disk refuses."""
    return DataError(
        f"{folder}: cannot be written: {os.strerror(error.errno or 0)}; the phrases that were found are kept, the "
        "same command goes on"
    )
