"""Where the rows of a large JSON file lie, found in one pass over its bytes and a memory of 12 bytes a row.

The pass makes some 300 MB a second (`json_scan`); rows are parsed when they are asked for, so a row that is no JSON spoils
nothing but itself. `JsonRows` gives the parsed rows of an array, of JSON lines, or of an array inside one object (COCO's
`annotations`); `JsonMembers` those of an object of objects (ScienceQA, GQA).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_kit.errors import DataError

from .json_object import check_members, index_object, index_section
from .json_scan import BOM, RowIndex, State, blocks, brackets, check_gaps, explain_break, joined

# The fingerprint reads so many stretches of this size spread over the file; a file that they would cover is read whole.
SAMPLES, SAMPLE_BYTES = 64, 1 << 16


def index_rows(path: str) -> RowIndex:
    """The rows of a JSON array of objects, or of JSON lines; told apart by the first character.

    Raises:
        DataError: there is no such file, it holds something else, or it breaks off; with the line where that shows.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            first = head.removeprefix(BOM).lstrip()[:1]
            if first == b"[":
                return _index_array(path)
            if first == b"{":
                _check_lines(path)
                return _index_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    if not head.strip():
        raise DataError(f"{path}: is empty; expected a JSON array of conversations, or one conversation a line")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
        told = "is not UTF-8 text; expected a JSON array of conversations, or one a line, in UTF-8"
        raise DataError(f"{path}:1: {told}; of UTF-16 makes it: iconv -f UTF-16 -t UTF-8 OLD > NEW")
    shown = head.removeprefix(BOM).lstrip()[:20].decode("utf-8", "replace")
    raise DataError(f"{path}:1: begins with {shown!r}; expected '[' of a JSON array, or '{{' of one conversation a line")


def fingerprint(path: str) -> str:
    """A hash of the file's size and of stretches all over it; a change between the stretches of a large file goes unnoticed."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for number in range(SAMPLES):
                file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


class JsonRows(Sequence[Any]):
    """The rows of a file, each parsed when asked for; memory holds their places alone. Can be pickled and used after a fork.

    `section` names the array in a file that is one object (`{"images": [...], "annotations": [...]}`).

    Raises `DataError` as `index_rows` does, or with the sections that the file has; a row that is no JSON when it is read.
    """

    def __init__(self, path: str, section: str | None = None):
        self.path = path
        self.places = index_rows(path) if section is None else index_section(path, section)
        self._file: Any = None
        self._owner = 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        try:
            return json.loads(self.text(number))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: row {number} is no JSON: {error}") from None

    def text(self, number: int) -> bytes:
        """The bytes of row `number`."""
        if self._owner != os.getpid():  # a forked worker must not share the place in the file
            self._file, self._owner = open(self.path, "rb"), os.getpid()  # noqa: SIM115 - it stays open
        self._file.seek(int(self.places.starts[number]))
        return self._file.read(int(self.places.lengths[number])).removeprefix(BOM)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}


class JsonMembers(JsonRows):
    """The members of a file that is one object of objects: `names[i]` is the key of row i."""

    def __init__(self, path: str):
        self.path, self._file, self._owner = path, None, 0
        found = index_object(path)
        check_members(path, found)
        self.names = found.names
        self.places = found.places


def _index_lines(path: str) -> RowIndex:
    starts: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    start = 0
    for offset, block in blocks(path):
        ends = np.flatnonzero(block == ord("\n")) + offset
        if len(ends):
            begins = np.concatenate([[start], ends[:-1] + 1])
            starts.append(begins)
            lengths.append(ends - begins)
            start = int(ends[-1]) + 1
    size = os.path.getsize(path)
    if start < size:
        starts.append(np.array([start], np.int64))
        lengths.append(np.array([size - start], np.int64))
    index = joined(starts, lengths)
    # An empty line is no row. Only short ones are looked at, so nearly nothing is read here.
    keep = np.ones(len(index), np.bool_)
    with open(path, "rb") as file:
        for number in np.flatnonzero(index.lengths < 64).tolist():
            file.seek(int(index.starts[number]))
            keep[number] = bool(file.read(int(index.lengths[number])).strip())
    return RowIndex(index.starts[keep], index.lengths[keep])


def _check_lines(path: str) -> None:
    """Raises DataError for a file that is one JSON object over many lines."""
    with open(path, "rb") as file:
        first = file.readline().removeprefix(BOM).strip()
        more = bool(file.read(4096).strip())
    if more and not first.endswith(b"}"):
        raise DataError(
            f"{path}:1: is one JSON object; expected a JSON array of conversations ('[' first), or one conversation a line"
        )


def _index_array(path: str) -> RowIndex:
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    closed = False
    state = State()
    for offset, block in blocks(path):
        positions, steps, state = brackets(block, state)
        after = state.depth - int(steps.sum()) + np.cumsum(steps)
        starts.append(positions[(steps > 0) & (after == 2)] + offset)
        ends.append(positions[(steps < 0) & (after == 1)] + offset + 1)
        closed |= bool((after == 0).any())
    begins, stops = np.concatenate(starts), np.concatenate(ends)
    if not closed or state.inside or state.depth or len(begins) != len(stops):
        explain_break(path, begins, stops, "breaks off: the array that begins in its first line never ends")
    index = joined([begins], [stops - begins])
    check_gaps(path, begins, stops)
    return index
