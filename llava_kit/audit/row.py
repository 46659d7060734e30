"""Rows looked at, a chunk at a time: what is wrong with each alone, and the marks by which all are compared later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.conversation import Sample
from ..core.source import DataSource
from ..errors import SampleError, first_line
from ..store.facts import source_of
from . import boxes, text
from .likeness import LOOK_SIDE
from .markers import Markers
from .pictures import PictureChecker, PictureMark, number_of
from .report import Finding
from .text import Mistake

if TYPE_CHECKING:
    from ..data.example import ExampleMaker

ROWS_AT_ONCE = 32


@dataclass
class Marks:
    """What is kept of rows to compare them.

    rows, ids, samples        of each row that could be read: its number, and hashes of its id and of all it says and shows
    asked_rows, asked         of each question: its row, and a hash of it with the pictures of its sample
    shown                     int64 [n, 3]   of each picture that is shown: row, number in its sample, place in `looks` or -1
    names, digests, hashes    uint64 [n]     as `PictureMark` has them
    looks                     uint8 [l, 3 * LOOK_SIDE²]
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.uint64]
    samples: NDArray[np.uint64]
    asked_rows: NDArray[np.int64]
    asked: NDArray[np.uint64]
    shown: NDArray[np.int64]
    names: NDArray[np.uint64]
    digests: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    looks: NDArray[np.uint8]


@dataclass
class Looked:
    """What a chunk of rows gave."""

    num_rows: int
    findings: list[Finding]
    marks: Marks
    spread: dict[str, Counter[int]]
    sources: Counter[str]


@dataclass
class _Lists:
    """Marks while they are gathered."""

    rows: list[tuple[int, int, int]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    shown: list[tuple[int, int, int]] = field(default_factory=list)
    pictures: list[tuple[int, int, int]] = field(default_factory=list)
    looks: list[NDArray[np.uint8]] = field(default_factory=list)
    by_name: dict[int, int] = field(default_factory=dict)

    def arrays(self) -> Marks:
        rows = np.array(self.rows, np.uint64).reshape(-1, 3)
        asked = np.array(self.asked, np.uint64).reshape(-1, 2)
        pictures = np.array(self.pictures, np.uint64).reshape(-1, 3)
        looks = np.array(self.looks, np.uint8).reshape(-1, 3 * LOOK_SIDE**2)
        return Marks(
            rows=rows[:, 0].astype(np.int64),
            ids=rows[:, 1].copy(),
            samples=rows[:, 2].copy(),
            asked_rows=asked[:, 0].astype(np.int64),
            asked=asked[:, 1].copy(),
            shown=np.array(self.shown, np.int64).reshape(-1, 3),
            names=pictures[:, 0].copy(),
            digests=pictures[:, 1].copy(),
            hashes=pictures[:, 2].copy(),
            looks=looks,
        )


class RowChecker:
    """Looks at the rows of a source. Can be pickled to workers, or be there after a fork.

    `maker` makes the examples of a recipe's stage; without one nothing is said of tokens.
    """

    def __init__(self, source: DataSource, count: int, *, decode: bool, markers: Markers, maker: ExampleMaker | None):
        self.source, self.count = source, count
        self.pictures = PictureChecker(decode)
        self.markers, self.pattern = markers, markers.pattern()
        self.training = None
        if maker is not None:
            # Here alone, as it takes torch: seconds, and hundreds of megabytes.
            from .training import TrainingChecker

            self.training = TrainingChecker(maker)

    def chunk(self, number: int) -> Looked:
        """Chunk `number` of `ROWS_AT_ONCE` rows each."""
        rows = range(number * ROWS_AT_ONCE, min(self.count, (number + 1) * ROWS_AT_ONCE))
        findings: list[Finding] = []
        lists, spread, sources = _Lists(), defaultdict[str, Counter[int]](Counter), Counter[str]()
        for row in rows:
            sample, refused = self._read(row)
            name = f"row {row}" if refused is None or refused.sample_id is None else refused.sample_id
            told: dict[tuple[str, str], int | None] = {}  # each mistake once, with the picture that it is about
            if refused is not None:
                told[refused.reason, refused.message] = None
            if sample is not None:
                name = sample.id
                sources[source_of(sample)] += 1
                for key, slot in self._look(row, sample, refused is not None, lists, spread):
                    told.setdefault(key, slot)
            for (reason, message), slot in told.items():
                message = message.removeprefix(f"row {row}: ")  # as sources say it: the finding has the number
                picture = None if slot is None or sample is None else sample.images[slot].name
                findings.append(Finding(row, name, reason, message, picture, slot))
        return Looked(len(rows), findings, lists.arrays(), dict(spread), sources)

    def _read(self, row: int) -> tuple[Sample | None, SampleError | None]:
        """The sample, and why it cannot be used; of one that is refused what could be read of it, if the source gives it."""
        try:
            return self.source[row], None
        except SampleError as error:
            return error.readable, error
        except MemoryError:
            raise
        except Exception as error:  # a row must not hide those after it, whatever its source does
            return None, SampleError("source_failed", f"its source failed ({first_line(error)})")

    def _look(
        self, row: int, sample: Sample, refused: bool, lists: _Lists, spread: dict[str, Counter[int]]
    ) -> Iterator[tuple[Mistake, int | None]]:
        mistakes: list[Mistake] = []
        seen: list[PictureMark | None] = []
        for slot, image in enumerate(sample.images):
            mark, found = self.pictures.look(image)
            seen.append(mark)
            mistakes += found
            yield from ((mistake, slot) for mistake in found)
        _count(sample, seen, spread)
        own = list(text.find_mistakes(sample, self.markers, self.pattern))
        if refused:
            # Why it was refused may be seen here too, in other words: places that do not fit its pictures.
            yield from ((mistake, None) for mistake in own if mistake[0] not in _REFUSED_FOR)
            return
        own += boxes.find_mistakes(sample, _size(seen))
        mistakes += own
        if self.training is not None:
            before = len(mistakes)
            taught = self.training.look(sample, mistakes)
            own += mistakes[before:]
            if taught is not None:
                for name, value in taught._asdict().items():
                    spread[name][value] += 1
                spread["learnt_percent"][round(100 * taught.targets / max(1, taught.length))] += 1
        yield from ((mistake, None) for mistake in own)
        _keep(row, sample, seen, lists)


# What a source has looked at when it refuses a row, or what follows from what it could not read.
_REFUSED_FOR = {"image_count", "bad_turns", "lost_picture", "typed_placeholder"}


def _size(seen: list[PictureMark | None]) -> tuple[int, int] | None:
    return seen[0].size if seen and seen[0] is not None else None


def _count(sample: Sample, seen: list[PictureMark | None], spread: dict[str, Counter[int]]) -> None:
    """How long, how many, how large."""
    messages = sample.conversation.messages
    spread["turns"][len(messages)] += 1
    spread["pictures"][len(sample.images)] += 1
    for message in messages:
        if message.role != "system":
            spread["question_words" if message.role == "user" else "answer_words"][len(message.text.split())] += 1
    for mark in seen:
        if mark is not None:
            spread["picture_width"][mark.size[0]] += 1
            spread["picture_height"][mark.size[1]] += 1
            spread["picture_kilobytes"][round(mark.num_bytes / 1000)] += 1


def _keep(row: int, sample: Sample, seen: list[PictureMark | None], lists: _Lists) -> None:
    """The marks of the sample. Text is compared without regard to case and spaces."""
    pictures = " ".join(f"{mark.digest:x}" if mark is not None else sample.images[slot].name for slot, mark in enumerate(seen))
    said = []
    for message in sample.conversation.messages:
        # A picture's place does not matter: recipes move it.
        words = " ".join(message.text.split()).casefold()
        said.append(f"{message.role}\0{words}")
        if message.role == "user" and words and pictures:
            lists.asked.append((row, number_of(f"{words}\0{pictures}")))
    everything = "\0".join([*said, pictures])
    if not pictures:
        # Without a picture many ask the same; with the same answers it is the same sample.
        lists.asked.append((row, number_of(everything)))
    lists.rows.append((row, number_of(sample.id), number_of(everything)))
    for slot, mark in enumerate(seen):
        if mark is not None:
            place = -1
            if mark.look is not None:
                place = lists.by_name.setdefault(mark.name, len(lists.looks))
                if place == len(lists.looks):
                    lists.looks.append(mark.look)
            lists.shown.append((row, slot, place))
            lists.pictures.append((mark.name, mark.digest, mark.hash))
