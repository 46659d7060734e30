"""Rows to their seats in the language model's buffer: projected rows, the newline, padding.

K rows, T' rows of the buffer, D width.
"""

from __future__ import annotations

from torch import Tensor

from .common import AheadCase, require_rank, require_same
from .move_rows import case, move_rows


def scatter_rows(rows: Tensor, seats: Tensor, buffer: Tensor) -> None:
    """Writes `rows[i]` ([K, D]) at row `seats[i]` of `buffer` [T', D], in the buffer's dtype.

    Other rows of the buffer stay as they are, and a seat outside the buffer is not written. Raises `KernelInputError`.
    """
    require_rank("rows", rows, 2)
    require_same("the counts", rows=rows.shape[0], seats=seats.shape[0])
    move_rows(rows, None, seats, buffer, seats.shape[0])


def fill_rows(row: Tensor | None, seats: Tensor, buffer: Tensor) -> None:
    """Writes `row` [D], or zeros for None, at each of `seats` in `buffer` [T', D]. Raises `KernelInputError`."""
    if row is not None:
        require_rank("row", row, 1)
    move_rows(row, None, seats, buffer, seats.shape[0])


def ahead_of_time() -> list[AheadCase]:
    """Rows, one row, and zeros."""
    return [
        case("scatter_rows", "bf16 bf16", 4096, SEATED=True),
        case("scatter_rows", "fp32 fp32", 341, SEATED=True),
        case("fill_rows with a row", "bf16 bf16", 4096, FILL=1, SEATED=True),
        case("fill_rows with zeros", "bf16 bf16", 4096, FILL=2, SEATED=True),
    ]
