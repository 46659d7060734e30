"""Where the rows of a large JSON file lie, found in one pass over its bytes and a memory of 12 bytes a row.

Only quotes, backslashes and brackets are looked at, a block at a time with numpy (some 300 MB a second); rows are parsed when
they are asked for, so a row that is no JSON spoils nothing but itself. `JsonRows` gives the parsed rows of an array, of JSON
lines, or of an array inside one object (COCO's `annotations`); `JsonMembers` those of an object of objects (ScienceQA, GQA).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*$')


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
        told = "is not UTF-8 text; expected a JSON array of conversations, or one a line, in UTF-8"
        raise DataError(f"{path}:1: {told}; of UTF-16 makes it: iconv -f UTF-16 -t UTF-8 OLD > NEW")
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


class JsonRows(Sequence[Any]):
    """The rows of a file, each parsed when asked for; memory holds their places alone. Can be pickled and used after a fork.

    `section` names the array in a file that is one object (`{"images": [...], "annotations": [...]}`).

    Raises `DataError` as `index_rows` does, or with the sections that the file has; a row that is no JSON when it is read.
    """

    def __init__(self, path: str, section: str | None = None):
        self.path = path
        self.places = index_rows(path) if section is None else _index_section(path, section)
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
        return self._file.read(int(self.places.lengths[number])).removeprefix(_BOM)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}


class JsonMembers(JsonRows):
    """The members of a file that is one object of objects: `names[i]` is the key of row i."""

    def __init__(self, path: str):
        self.path, self._file, self._owner = path, None, 0
        found = _index_object(path)
        self.names = found.names
        self.places = found.places


class _ObjectIndex(NamedTuple):
    """The members of an object that are objects or arrays, and the objects in those arrays.

    `opens` are the first bytes of the members (`[` or `{`), `owners` says for each row whose array it stands in.
    """

    names: list[str]
    opens: NDArray[np.uint8]
    places: RowIndex
    rows: RowIndex
    owners: NDArray[np.int64]


def section_names(head: bytes) -> list[str]:
    """The keys that show in the first bytes of a file that is one object; enough to tell formats apart."""
    if head.removeprefix(_BOM).lstrip()[:1] != b"{":
        return []
    depth, names, inside, start, escaped = 0, [], False, 0, False
    for place, byte in enumerate(head):
        if inside:
            if escaped:
                escaped = False
            elif byte == _BACKSLASH:
                escaped = True
            elif byte == _QUOTE:
                inside = False
                if depth == 1 and head[place + 1 : place + 9].lstrip()[:1] == b":":
                    names.append(head[start + 1 : place].decode("utf-8", "replace"))
        elif byte == _QUOTE:
            inside, start = True, place
        else:
            depth += int(_STEPS[byte])
    return names


def _index_section(path: str, section: str) -> RowIndex:
    found = _index_object(path)
    arrays = [name for name, first in zip(found.names, found.opens.tolist()) if first == ord("[")]
    if section not in arrays:
        listed = ", ".join(map(repr, arrays)) or "none"
        raise DataError(f"{path}: has no list {section!r}; its lists are {listed}")
    mine = found.owners == found.names.index(section)
    return RowIndex(found.rows.starts[mine], found.rows.lengths[mine])


def _index_object(path: str) -> _ObjectIndex:
    """One pass over a file that is one object."""
    _check_object(path)
    members: list[NDArray[np.int64]] = []  # where members open
    opens: list[NDArray[np.uint8]] = []
    ends: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    row_ends: list[NDArray[np.int64]] = []
    state, closed, last = _State(), False, ord("{")
    for offset, block in _blocks(path):
        positions, steps, state = _brackets(block, state)
        after = state.depth - int(steps.sum()) + np.cumsum(steps)
        member = (steps > 0) & (after == 2)
        members.append(positions[member] + offset)
        opens.append(block[positions[member]])
        ends.append(positions[(steps < 0) & (after == 1)] + offset + 1)
        # What stands at the third depth is a row only where an array was opened at the second.
        firsts = np.concatenate([[last], opens[-1]])
        in_array = firsts[np.cumsum(member)] == ord("[")
        rows.append(positions[in_array & (steps > 0) & (after == 3)] + offset)
        row_ends.append(positions[in_array & (steps < 0) & (after == 2)] + offset + 1)
        last = int(firsts[-1])
        closed |= bool((after == 0).any())
    begins, stops = np.concatenate(members), np.concatenate(ends)
    if not closed or state.inside or state.depth or len(begins) != len(stops):
        _explain(path, begins, stops, "breaks off: the object that begins in its first line never ends")
    row_begins, row_stops = np.concatenate(rows), np.concatenate(row_ends)
    return _ObjectIndex(
        names=_names(path, begins, stops),
        opens=np.concatenate(opens),
        places=_joined([begins], [stops - begins]),
        rows=_joined([row_begins], [row_stops - row_begins]),
        owners=np.searchsorted(begins, row_begins, side="right") - 1,
    )


def _check_object(path: str) -> None:
    try:
        with open(path, "rb") as file:
            first = file.read(4096).removeprefix(_BOM).lstrip()[:1]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    if first != b"{":
        raise DataError(f"{path}:1: begins with {first.decode('utf-8', 'replace')!r}; expected '{{' of one JSON object")


def _names(path: str, begins: NDArray[np.int64], stops: NDArray[np.int64]) -> list[str]:
    """The keys of the members: the last text before each opens."""
    names = []
    with open(path, "rb") as file:
        for start, stop in zip([0, *stops.tolist()[:-1]], begins.tolist()):
            file.seek(start)
            key = _KEY.search(file.read(stop - start))
            if key is None:
                raise DataError(f"{path}:{_line_of(path, start)}: found no key before a value; expected JSON")
            names.append(json.loads(key[1]))
    return names


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
