"""Where the rows of a large JSON file lie, found in one pass over its bytes and a memory of 12 bytes a row.

Only quotes, backslashes and brackets are looked at, a block at a time with numpy (some 300 MB a second); rows are parsed when
they are asked for, so a row that is no JSON spoils nothing but itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_kit.errors import DataError

BLOCK_BYTES = 1 << 20
# The fingerprint reads so many stretches of this size spread over the file; a file that they would cover is read whole.
SAMPLES, SAMPLE_BYTES = 64, 1 << 16

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_STEPS = np.zeros(256, np.int8)  # by how much a byte outside of strings changes the depth
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_INTERESTING = _STEPS != 0
_INTERESTING[[_QUOTE, _BACKSLASH]] = True
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowIndex:
    """Row i is `lengths[i]` bytes (uint32) from `starts[i]` (int64) on."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.starts)


def index_rows(path: str) -> RowIndex:
    """The rows of a JSON array of objects, or of JSON lines; told apart by the first character.

    Raises:
        DataError: there is no such file, it holds something else, or it breaks off; with the line where that shows.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            first = head.removeprefix(_BOM).lstrip()[:1]
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
        raise DataError(f"{path}:1: is not UTF-8 text; expected a JSON array of conversations, or one a line, in UTF-8")
    shown = head.removeprefix(_BOM).lstrip()[:20].decode("utf-8", "replace")
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


def _index_lines(path: str) -> RowIndex:
    starts: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    start = 0
    for offset, block in _blocks(path):
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
    index = _joined(starts, lengths)
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
        first = file.readline().removeprefix(_BOM).strip()
        more = bool(file.read(4096).strip())
    if more and not first.endswith(b"}"):
        raise DataError(
            f"{path}:1: is one JSON object; expected a JSON array of conversations ('[' first), or one conversation a line"
        )


class _State(NamedTuple):
    """What one block hands on to the next."""

    inside: bool = False
    """Within a string."""
    escaped: bool = False
    """The next byte follows a backslash that escapes it."""
    depth: int = 0


def _index_array(path: str) -> RowIndex:
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    closed = False
    state = _State()
    for offset, block in _blocks(path):
        positions, steps, state = _brackets(block, state)
        after = state.depth - int(steps.sum()) + np.cumsum(steps)
        starts.append(positions[(steps > 0) & (after == 2)] + offset)
        ends.append(positions[(steps < 0) & (after == 1)] + offset + 1)
        closed |= bool((after == 0).any())
    begins, stops = np.concatenate(starts), np.concatenate(ends)
    if not closed or state.inside or state.depth or len(begins) != len(stops):
        _explain(path, begins, stops, "breaks off: the array that begins in its first line never ends")
    index = _joined([begins], [stops - begins])
    _check_gaps(path, begins, stops)
    return index


def _brackets(block: NDArray[np.uint8], state: _State) -> tuple[NDArray[np.int64], NDArray[np.int8], _State]:
    """The places of the brackets outside of strings, each with its step up or down; and the state after the block."""
    places = np.flatnonzero(_INTERESTING[block])
    found = block[places]
    escaped = np.zeros(len(block) + 1, np.bool_)
    escaped[0] = state.escaped
    escaped[_escaping(places[found == _BACKSLASH], state.escaped) + 1] = True
    quotes = (found == _QUOTE) & ~escaped[places]
    inside = (np.cumsum(quotes) + state.inside) % 2 == 1
    brackets = ~inside & (_STEPS[found] != 0)
    steps = _STEPS[found[brackets]]
    after = _State(
        bool((int(quotes.sum()) + state.inside) % 2), bool(escaped[len(block)]), state.depth + int(steps.sum(dtype=np.int64))
    )
    return places[brackets], steps, after


def _escaping(backslashes: NDArray[np.int64], first_is_escaped: bool) -> NDArray[np.int64]:
    """Those that escape what follows: in a run of backslashes every other one, from the first on."""
    numbers = np.arange(len(backslashes))
    begins_run = np.diff(backslashes, prepend=-2) != 1
    first = np.maximum.accumulate(np.where(begins_run, numbers, 0))
    within = numbers - first
    if first_is_escaped and len(backslashes) and backslashes[0] == 0:
        within[first == 0] += 1
    return backslashes[within % 2 == 0]


def _check_gaps(path: str, begins: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
    """Between two rows stands a comma and nothing else; else something in the array is no object, and counting would lie."""
    last = len(begins)
    starts = np.concatenate([[0], stops])
    lengths = np.concatenate([begins, [os.path.getsize(path)]]) - starts
    # What writes JSON puts the same between all rows; so only the first gaps, the last, and those of another length are read.
    usual = np.bincount(np.minimum(lengths, 4096)).argmax()
    looked_at = np.flatnonzero((lengths != usual) | (np.arange(last + 1) < 100))
    with open(path, "rb") as file:
        for number in looked_at.tolist():
            start = int(starts[number])
            file.seek(start)
            gap = file.read(int(lengths[number])).removeprefix(_BOM if number == 0 else b"")
            expected = b"[]" if last == 0 else b"[" if number == 0 else b"]" if number == last else b","
            if b"".join(gap.split()) != expected:
                where = "before the first row" if number == 0 else f"after row {number - 1}"
                shown = gap.strip()[:40].decode("utf-8", "replace")
                raise DataError(
                    f"{path}:{_line_of(path, start)}: found {shown!r} {where}; expected {expected.decode()!r} "
                    "(a JSON array of objects, one for each conversation)"
                )


def _explain(path: str, begins: NDArray[np.int64], stops: NDArray[np.int64], reason: str) -> None:
    """Raises DataError at the first row that is no JSON, or where the last row begins."""
    for start, stop in zip(begins.tolist(), stops.tolist()):
        with open(path, "rb") as file:
            file.seek(start)
            text = file.read(stop - start)
        try:
            json.loads(text)
        except ValueError as error:
            line = _line_of(path, start) + getattr(error, "lineno", 1) - 1
            raise DataError(f"{path}:{line}: {getattr(error, 'msg', error)}; the file {reason}") from None
    last = int(begins[-1]) if len(begins) > len(stops) else os.path.getsize(path)
    raise DataError(f"{path}:{_line_of(path, last)}: the file {reason}")


def _line_of(path: str, place: int) -> int:
    """The number of the line, from 1, in which the byte at `place` stands."""
    return 1 + sum(int(np.count_nonzero(block[: max(0, place - offset)] == ord("\n"))) for offset, block in _blocks(path))


def _blocks(path: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    offset = 0
    with open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            yield offset, np.frombuffer(data, np.uint8)
            offset += len(data)


def _joined(starts: list[NDArray[np.int64]], lengths: list[NDArray[np.int64]]) -> RowIndex:
    if not starts:
        return RowIndex(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    return RowIndex(np.concatenate(starts), np.concatenate(lengths).astype(np.uint32))
