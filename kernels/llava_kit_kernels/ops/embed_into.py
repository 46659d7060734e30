"""Text rows from the embedding table straight into the language model's buffer, and the table's gradient.

X text rows of T seats, `vocab` rows of the table, D width; G groups of at most 256 seats, U tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common import AheadCase, require_same
from .move_rows import case, move_rows
from .sum_segments import sum_groups


def embed_into(table: Tensor, ids: Tensor, seats: Tensor, buffer: Tensor) -> None:
    """Writes row `ids[i]` of `table` [vocab, D] at row `seats[i]` of `buffer` [T', D], in the buffer's dtype.

    Other rows of the buffer stay as they are. An id outside the table writes zeros; a seat outside the buffer is not written.
    Raises `KernelInputError`.
    """
    require_same("the lists", ids=ids.shape[0], seats=seats.shape[0])
    move_rows(table, ids, seats, buffer, ids.shape[0])


def embed_gradient(
    grad: Tensor,
    text_seats: Tensor,
    group_bounds: Tensor,
    token_bounds: Tensor,
    tokens: Tensor,
    vocab: int,
    dtype: torch.dtype,
) -> Tensor:
    """grad [T, D] -> gradient of the table, [vocab, D] in `dtype`, summed in float32 in the order of these lists:

    text_seats    [X]      seats of the text rows, grouped by token; those outside `grad` add nothing
    group_bounds  [G + 1]  group g has the seats `text_seats[group_bounds[g]:group_bounds[g + 1]]`
    token_bounds  [U + 1]  token u has the groups `token_bounds[u]` to `token_bounds[u + 1]`
    tokens        [U]      ids, each once; one outside the table is passed over

    The lists are made with the plan, so nothing is sorted here. Raises `KernelInputError`.
    """
    return sum_groups(grad, text_seats, group_bounds, token_bounds, tokens, vocab, dtype)


def ahead_of_time() -> list[AheadCase]:
    """Tables and buffers of one dtype and of two, at a wide and at an odd width."""
    return [
        case("embed_into", "bf16 bf16", 4096, index="i64", INDEXED=True, SEATED=True),
        case("embed_into", "fp32 bf16", 4096, INDEXED=True, SEATED=True),
        case("embed_into", "fp32 fp32", 341, INDEXED=True, SEATED=True),
    ]
