"""A pass over the bytes of a large JSON file: quotes, backslashes and brackets alone, a block at a time with numpy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_kit.errors import DataError

BLOCK_BYTES = 1 << 20
QUOTE, BACKSLASH = ord('"'), ord("\\")
STEPS = np.zeros(256, np.int8)  # by how much a byte outside of strings changes the depth
STEPS[list(b"[{")], STEPS[list(b"]}")] = 1, -1
_INTERESTING = STEPS != 0
_INTERESTING[[QUOTE, BACKSLASH]] = True
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowIndex:
    """Row i is `lengths[i]` bytes (uint32) from `starts[i]` (int64) on."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.starts)


class State(NamedTuple):
    """What one block hands on to the next."""

    inside: bool = False
    """Within a string."""
    escaped: bool = False
    """The next byte follows a backslash that escapes it."""
    depth: int = 0


def brackets(block: NDArray[np.uint8], state: State) -> tuple[NDArray[np.int64], NDArray[np.int8], State]:
    """The places of the brackets outside of strings, each with its step up or down; and the state after the block."""
    places = np.flatnonzero(_INTERESTING[block])
    found = block[places]
    escaped = np.zeros(len(block) + 1, np.bool_)
    escaped[0] = state.escaped
    escaped[_escaping(places[found == BACKSLASH], state.escaped) + 1] = True
    quotes = (found == QUOTE) & ~escaped[places]
    inside = (np.cumsum(quotes) + state.inside) % 2 == 1
    brackets = ~inside & (STEPS[found] != 0)
    steps = STEPS[found[brackets]]
    after = State(
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


def check_gaps(path: str, begins: NDArray[np.int64], stops: NDArray[np.int64], start: int = 0, end: int | None = None) -> None:
    """Between two rows stands a comma and nothing else; else something in the array is no object, and counting would lie.

    The array is what stands from `start` to `end` (default: the whole file). Raises DataError with the line.
    """
    last = len(begins)
    starts = np.concatenate([[start], stops])
    lengths = np.concatenate([begins, [os.path.getsize(path) if end is None else end]]) - starts
    # What writes JSON puts the same between all rows; so only the first gaps, the last, and those of another length are read.
    usual = np.bincount(np.minimum(lengths, 4096)).argmax()
    looked_at = np.flatnonzero((lengths != usual) | (np.arange(last + 1) < 100))
    with open(path, "rb") as file:
        for number in looked_at.tolist():
            place = int(starts[number])
            file.seek(place)
            gap = file.read(int(lengths[number])).removeprefix(BOM if number == 0 else b"")
            expected = b"[]" if last == 0 else b"[" if number == 0 else b"]" if number == last else b","
            if b"".join(gap.split()) != expected:
                where = "before the first row" if number == 0 else f"after row {number - 1}"
                shown = gap.strip()[:40].decode("utf-8", "replace")
                raise DataError(
                    f"{path}:{line_of(path, place)}: found {shown!r} {where}; expected {expected.decode()!r} "
                    "(a JSON array of objects, one for each row)"
                )


def explain_break(path: str, begins: NDArray[np.int64], stops: NDArray[np.int64], reason: str) -> None:
    """Raises DataError at the first row that is no JSON, or where the last row begins."""
    for start, stop in zip(begins.tolist(), stops.tolist()):
        with open(path, "rb") as file:
            file.seek(start)
            text = file.read(stop - start)
        try:
            json.loads(text)
        except ValueError as error:
            line = line_of(path, start) + getattr(error, "lineno", 1) - 1
            raise DataError(f"{path}:{line}: {getattr(error, 'msg', error)}; the file {reason}") from None
    last = int(begins[-1]) if len(begins) > len(stops) else os.path.getsize(path)
    raise DataError(f"{path}:{line_of(path, last)}: the file {reason}")


def line_of(path: str, place: int) -> int:
    """The number of the line, from 1, in which the byte at `place` stands."""
    return 1 + sum(int(np.count_nonzero(block[: max(0, place - offset)] == ord("\n"))) for offset, block in blocks(path))


def blocks(path: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    offset = 0
    with open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            yield offset, np.frombuffer(data, np.uint8)
            offset += len(data)


def joined(starts: list[NDArray[np.int64]], lengths: list[NDArray[np.int64]]) -> RowIndex:
    if not starts:
        return RowIndex(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    return RowIndex(np.concatenate(starts), np.concatenate(lengths).astype(np.uint32))
