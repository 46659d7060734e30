"""Which questions make up sample i: four to twelve bytes a question, found in one pass over the file.

A file with one question a row is searched for the picture's name alone, with a regular expression over the row's bytes: half a
million rows in seconds. Rows with choices or with many questions are parsed, as how many there are must be known.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError, SampleError

from .files import JoinedRows, Rows, key_of, row_texts
from .formats import Format, Pair

BAD = -1
"""In place of a question's number: the row could not be read; the sample that it makes says why."""


class Place(NamedTuple):
    """A question: its row, and which of the row's questions it is."""

    row: int
    which: int


class Index(NamedTuple):
    """Group g has the questions `rows[starts[g]:starts[g + 1]]`, and as many samples as `samples[g + 1] - samples[g]`."""

    rows: NDArray[np.int32]
    which: NDArray[np.int32] | None
    starts: NDArray[np.int64]
    samples: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.samples[-1])

    def questions(self, sample: int) -> tuple[list[Place], int]:
        """The questions of a sample, and the turn of their choices."""
        group = int(np.searchsorted(self.samples, sample, side="right")) - 1
        span = slice(int(self.starts[group]), int(self.starts[group + 1]))
        which = [0] * (span.stop - span.start) if self.which is None else self.which[span].tolist()
        return [Place(*place) for place in zip(self.rows[span].tolist(), which)], sample - int(self.samples[group])


def field_pattern(field: str) -> re.Pattern[bytes]:
    """Finds a field's value, a text or a whole number, in the bytes of a row. Within a text, its quotes would be escaped."""
    return re.compile(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?![\d.eE]))' % re.escape(field.encode()))


def flat_index(rows: JsonRows | JoinedRows, field: str, merge: bool) -> Index:
    """The index of a file with one question a row; `field` names the picture."""
    if not merge:
        return _grouped(np.arange(len(rows), dtype=np.int32), None, np.arange(len(rows), dtype=np.int32), None)
    groups, numbers = array("i"), {}
    search = field_pattern(field).search
    for number, text in enumerate(row_texts(rows)):
        found = search(text)
        # A row without a picture's name is a group of its own, and says so when it is read.
        name = found[1] if found is not None else _parsed(text, field) or number
        groups.append(numbers.setdefault(name, len(numbers)))
    return _grouped(np.arange(len(rows), dtype=np.int32), None, np.frombuffer(groups, np.int32), None)


def _parsed(text: bytes, field: str) -> bytes | None:
    try:
        row = json.loads(text)
        return json.dumps(row[field]).encode() if isinstance(row, dict) and field in row else None
    except (ValueError, RecursionError):
        return None


def parsed_index(rows: Rows, form: Format, read: Callable[[int, Any], list[Pair]], merge: bool, orders: bool) -> Index:
    """The index of a file whose rows are parsed. `read(number, row)`: a row's questions; `orders`: once for each choice."""
    of_row, which, groups, turns = array("i"), array("i"), array("i"), array("i")
    numbers: dict[Any, int] = {}
    for number, row in _all_rows(rows):
        try:
            pairs = read(number, row)
        except SampleError:
            pairs = None
        for place, pair in [(BAD, None)] if pairs is None else enumerate(pairs):
            of_row.append(number)
            which.append(place)
            turns.append(len(pair.choices) if pair is not None and orders and pair.choices else 1)
            name: Any = (number, place)
            if merge and pair is not None:
                name = (_picture(rows, form, number, row), pair.fields.get("folder"))
            groups.append(numbers.setdefault(name, len(numbers)))
    return _grouped(*(np.array(values, np.int32) for values in (of_row, which, groups, turns)))


def _picture(rows: Rows, form: Format, number: int, row: Any) -> Any:
    return key_of(rows, number) if form.keys[0] == "key" else str(row[form.keys[0]])


def _all_rows(rows: Rows) -> Iterator[tuple[int, Any]]:
    """Every row parsed; None for one that is no JSON."""
    if isinstance(rows, JsonRows):
        for number, text in enumerate(row_texts(rows)):
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError):
                yield number, None
        return
    for number in range(len(rows)):
        try:
            yield number, rows[number]
        except DataError:
            yield number, None


def _grouped(
    rows: NDArray[np.int32], which: NDArray[np.int32] | None, groups: NDArray[np.int32], turns: NDArray[np.int32] | None
) -> Index:
    """Questions of a group beside one another, groups and questions in the order of the file."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups) if len(groups) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if turns is None:
        per_group = np.ones(len(counts), np.int64)
    else:
        # Questions with fewer choices than others of the same picture begin again.
        per_group = np.maximum.reduceat(turns[order], starts[:-1]) if len(counts) else np.zeros(0, np.int64)
    samples = np.concatenate([[0], np.cumsum(per_group)]).astype(np.int64)
    return Index(rows[order], None if which is None else which[order], starts, samples)
