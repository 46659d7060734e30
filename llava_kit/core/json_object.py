"""The members of a JSON file that is one object, and the rows of the arrays in it, such as COCO's `annotations`."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_kit.errors import DataError

from .json_scan import (
    BACKSLASH,
    BOM,
    QUOTE,
    STEPS,
    RowIndex,
    State,
    blocks,
    brackets,
    check_gaps,
    explain_break,
    joined,
    line_of,
)

_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*$')
# What stands before the first member of an object, between two, and behind the last.
_FIRST, _NEXT = (re.compile(rb"\s*" + mark + rb"\s*" + _KEY.pattern) for mark in (rb"\{", rb","))
_END = re.compile(rb"\s*\}\s*")


class ObjectIndex(NamedTuple):
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
    if head.removeprefix(BOM).lstrip()[:1] != b"{":
        return []
    depth, names, inside, start, escaped = 0, [], False, 0, False
    for place, byte in enumerate(head):
        if inside:
            if escaped:
                escaped = False
            elif byte == BACKSLASH:
                escaped = True
            elif byte == QUOTE:
                inside = False
                if depth == 1 and head[place + 1 : place + 9].lstrip()[:1] == b":":
                    names.append(head[start + 1 : place].decode("utf-8", "replace"))
        elif byte == QUOTE:
            inside, start = True, place
        else:
            depth += int(STEPS[byte])
    return names


def index_section(path: str, section: str) -> RowIndex:
    found = index_object(path)
    arrays = [name for name, first in zip(found.names, found.opens.tolist()) if first == ord("[")]
    if section not in arrays:
        listed = ", ".join(map(repr, arrays)) or "none"
        raise DataError(f"{path}: has no list {section!r}; its lists are {listed}")
    number = found.names.index(section)
    mine = found.owners == number
    begins = found.rows.starts[mine]
    start = int(found.places.starts[number])
    check_gaps(path, begins, begins + found.rows.lengths[mine], start, start + int(found.places.lengths[number]))
    return RowIndex(found.rows.starts[mine], found.rows.lengths[mine])


def index_object(path: str) -> ObjectIndex:
    """One pass over a file that is one object."""
    _check_object(path)
    members: list[NDArray[np.int64]] = []  # where members open
    opens: list[NDArray[np.uint8]] = []
    ends: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    row_ends: list[NDArray[np.int64]] = []
    state, closed, last = State(), False, ord("{")
    for offset, block in blocks(path):
        positions, steps, state = brackets(block, state)
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
        explain_break(path, begins, stops, "breaks off: the object that begins in its first line never ends")
    row_begins, row_stops = np.concatenate(rows), np.concatenate(row_ends)
    return ObjectIndex(
        names=_names(path, begins, stops),
        opens=np.concatenate(opens),
        places=joined([begins], [stops - begins]),
        rows=joined([row_begins], [row_stops - row_begins]),
        owners=np.searchsorted(begins, row_begins, side="right") - 1,
    )


def _check_object(path: str) -> None:
    try:
        with open(path, "rb") as file:
            first = file.read(4096).removeprefix(BOM).lstrip()[:1]
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
                raise DataError(f"{path}:{line_of(path, start)}: found no key before a value; expected JSON")
            names.append(json.loads(key[1]))
    return names


def check_members(path: str, found: ObjectIndex) -> None:
    """Raises DataError where a member of the object is itself no object: as a row it would be lost silently."""
    for number in np.flatnonzero(found.opens != ord("{")).tolist()[:1]:
        line = line_of(path, int(found.places.starts[number]))
        raise DataError(f"{path}:{line}: {found.names[number]!r} is a list; expected an object for each key")
    stops = found.places.starts + found.places.lengths
    ends = [*found.places.starts.tolist(), os.path.getsize(path)]
    with open(path, "rb") as file:
        for number, (start, end) in enumerate(zip([0, *stops.tolist()], ends)):
            file.seek(start)
            gap = file.read(end - start).removeprefix(BOM)
            between = b"{" if number == 0 else b"}" if number == len(stops) else b","
            if not re.fullmatch(
                rb"\s*" + re.escape(between) + (rb"\s*" if number == len(stops) else rb"\s*" + _KEY.pattern), gap
            ):
                shown = gap.strip()[:60].decode("utf-8", "replace")
                raise DataError(f"{path}:{line_of(path, start)}: found {shown!r}; expected an object for each key")
