"""Which sequences share a row: first fit decreasing, the same for the same lengths on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LlavaKitError


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """The numbers of the sequences in each row; the lengths in a row sum up to at most `row_length`.

    The longest go first, each into the first row that has room (first fit decreasing: at most 11/9 of the fewest, and one).
    Equal lengths keep their order.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[number]
        if length > row_length:
            raise LlavaKitError(f"sequence {number} takes {length} positions, more than a row of {row_length}")
        row = next((row for row, left in enumerate(room) if left >= length), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(row_length)
        rows[row].append(number)
        room[row] -= length
    return rows
