"""Projected rows to their seats in the language model's buffer.

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


def ahead_of_time() -> list[AheadCase]:
    """At a wide and at an odd width."""
    return [
        case("scatter_rows", "bf16 bf16", 4096, SEATED=True),
        case("scatter_rows", "fp32 fp32", 341, SEATED=True),
    ]
