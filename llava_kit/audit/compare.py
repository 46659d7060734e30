"""What is wrong between rows: the same id, sample or picture twice, and what another split holds too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .likeness import alike_pairs
from .report import Finding
from .seen import Pictures, Seen

IdOf = Callable[[int], str]
"""The id of a row."""
NameOf = Callable[[int, int], str]
"""The name of a picture, by its row and its number in the sample."""


def within(seen: Seen, pictures: Pictures, id_of: IdOf, name_of: NameOf) -> Iterator[Finding]:
    """What rows of one source have in common and should not."""
    rows = seen.column("rows")
    for reason, column, told in (
        ("duplicate_id", "ids", "has the id of row {other}"),
        ("duplicate_sample", "samples", "says and shows what row {other} ({name!r}) does"),
    ):
        for later, first in _repeats(seen.column(column).astype(np.uint64)):
            row, other = int(rows[later]), int(rows[first])
            message = told.format(other=other, name=id_of(other))
            yield Finding(row, id_of(row), reason, message, other=other)
    yield from _same_pictures(pictures, id_of, name_of)
    yield from _like_pictures(pictures, id_of, name_of)


def _repeats(values: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """(place, the first place with the same value) of each value that was there before, in order of the first's value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.ones(len(values), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))]
    again = np.sort(order[~begins])
    first_of = np.empty(len(values), np.int64)
    first_of[order] = first
    return zip(again.tolist(), first_of[again].tolist())


def _same_pictures(pictures: Pictures, id_of: IdOf, name_of: NameOf) -> Iterator[Finding]:
    """Files of other names with the bytes of an earlier one; each file once, in the first row that shows it."""
    _, first = np.unique(pictures.names, return_index=True)
    first = np.sort(first)
    for later, earlier in _repeats(pictures.digests[first]):
        yield _pair(pictures, int(first[later]), int(first[earlier]), "duplicate_picture", "has the bytes of", id_of, name_of)


def _like_pictures(pictures: Pictures, id_of: IdOf, name_of: NameOf) -> Iterator[Finding]:
    pairs = alike_pairs(pictures.hashes, pictures.looks)
    # Pictures of one row are alike by intention: before and after, or views of one thing.
    one, two = pictures.firsts[pairs[:, 0]], pictures.firsts[pairs[:, 1]]
    pairs = pairs[pictures.rows[one] != pictures.rows[two]]
    # Of a picture that is like several, the first of them tells enough.
    later, place = np.unique(pairs[:, 1], return_index=True)
    for second, first in zip(later.tolist(), pairs[place, 0].tolist()):
        here, there = int(pictures.firsts[second]), int(pictures.firsts[first])
        yield _pair(pictures, here, there, "near_duplicate_picture", "looks like", id_of, name_of)


def _pair(pictures: Pictures, here: int, there: int, reason: str, told: str, id_of: IdOf, name_of: NameOf) -> Finding:
    row, slot = int(pictures.rows[here]), int(pictures.slots[here])
    other = int(pictures.rows[there])
    name, its = name_of(row, slot), name_of(other, int(pictures.slots[there]))
    message = f"picture {name!r}: {told} {its!r} of row {other} ({id_of(other)!r})"
    return Finding(row, id_of(row), reason, message, name, slot, other)


def between(
    seen: Seen, pictures: Pictures, split: str, theirs: Seen, their_pictures: Pictures, id_of: IdOf, name_of: NameOf
) -> Iterator[Finding]:
    """What the rows have in common with those of another split: each row once, for the worst that there is."""
    asked, asked_rows = seen.column("asked").astype(np.uint64), seen.column("asked_rows")
    told: set[int] = set()
    for row, other in _met(asked, asked_rows, theirs.column("asked").astype(np.uint64), theirs.column("asked_rows")):
        told.add(row)
        yield Finding(row, id_of(row), "leaked_sample", f"asks what row {other} of {split} asks, about the same picture if any")
    for place, other in _met(
        pictures.digests, np.arange(len(pictures.digests)), their_pictures.digests, their_pictures.rows, every=True
    ):
        row, slot = int(pictures.rows[place]), int(pictures.slots[place])
        if row not in told:
            told.add(row)
            name = name_of(row, slot)
            yield Finding(
                row, id_of(row), "leaked_picture", f"picture {name!r}: row {other} of {split} shows it too", name, slot
            )
    yield from _near_leaks(pictures, split, their_pictures, told, id_of, name_of)


def _met(
    ours: NDArray[np.uint64],
    rows: NDArray[np.int64],
    theirs: NDArray[np.uint64],
    their_rows: NDArray[np.int64],
    every: bool = False,
) -> Iterator[tuple[int, int]]:
    """(our row, their first row) of each of our values that is among theirs; without `every` each row once."""
    values, first = np.unique(theirs, return_index=True)
    if not len(values):
        return
    places = np.minimum(np.searchsorted(values, ours), len(values) - 1)
    last = None
    for place in np.flatnonzero(values[places] == ours).tolist():
        if every or rows[place] != last:
            last = rows[place]
            yield int(last), int(their_rows[first[places[place]]])


def _near_leaks(
    pictures: Pictures, split: str, theirs: Pictures, told: set[int], id_of: IdOf, name_of: NameOf
) -> Iterator[Finding]:
    count = len(pictures.firsts)
    sides = np.arange(count + len(theirs.firsts)) >= count

    def looks(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(numbers), pictures.looks(numbers[:0]).shape[1]), np.uint8)
        own = numbers < count
        found[own], found[~own] = pictures.looks(numbers[own]), theirs.looks(numbers[~own] - count)
        return found

    pairs = alike_pairs(np.concatenate([pictures.hashes, theirs.hashes]), looks, sides)
    met = {
        int(pictures.digests[pictures.firsts[i]]): int(theirs.rows[theirs.firsts[j - count]]) for i, j in pairs[::-1].tolist()
    }
    if not met:
        return
    for place in np.flatnonzero(np.isin(pictures.digests, np.array(list(met), np.uint64))).tolist():
        row, slot = int(pictures.rows[place]), int(pictures.slots[place])
        if row not in told:
            told.add(row)
            name, other = name_of(row, slot), met[int(pictures.digests[place])]
            message = f"picture {name!r}: looks like that of row {other} of {split}"
            yield Finding(row, id_of(row), "near_leaked_picture", message, name, slot)
