"""`seat_rows`: ready rows, text rows, the newline row and zeros on their seats, each seat written once; and back.

K visual and R blended rows, X text and L newline rows, Z blank seats, T seats, D width. Seats outside the buffer belong to
nobody: what is meant for them is not written and gives a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .common import KernelInputError, is_plain, require_count, require_device, require_dtype, require_rank, require_same
from .embed_into import embed_gradient, embed_into
from .gather_rows import gather_rows
from .scatter_rows import scatter_rows
from .sum_segments import sum_rows


class Fixed(NamedTuple):
    """What sits on the other seats: text, newlines, blanks. Indices are int32 or int64.

    ids, seats          [X]  the token of each text row and its seat
    grouped             [X]  the seats of text rows, grouped by token
    group_bounds    [G + 1]  where each group of `grouped` begins: all of one token, at most 256 of them
    token_bounds    [U + 1]  where the groups of each token begin
    tokens              [U]  the tokens
    newline_seats       [L]
    blank_seats         [Z]
    """

    ids: Tensor
    seats: Tensor
    grouped: Tensor
    group_bounds: Tensor
    token_bounds: Tensor
    tokens: Tensor
    newline_seats: Tensor
    blank_seats: Tensor


def seat_rows(
    visual: Tensor,
    visual_seats: Tensor,
    blended: Tensor | None,
    blended_seats: Tensor | None,
    table: Tensor,
    newline: Tensor | None,
    fixed: Fixed,
    num_seats: int,
) -> Tensor:
    """visual [K, D], blended [R, D], table [vocab, D], newline [D] -> [T, D] in the table's dtype. Differentiable.

    Raises:
        KernelInputError: shapes, dtypes, devices or counts that do not fit.
    """
    check_fixed(table, newline, fixed, num_seats)
    require_rank("visual", visual, 2)
    require_same("visual rows", visual=visual.shape[0], visual_seats=visual_seats.shape[0])
    if blended is not None and blended_seats is not None:
        require_same("blended rows", blended=blended.shape[0], blended_seats=blended_seats.shape[0])
    require_same(
        "widths", visual=visual.shape[1], table=table.shape[1], blended=table.shape[1] if blended is None else blended.shape[1]
    )
    operation = _seated if is_plain(visual, table) else torch.ops.llava_kit.seat_rows
    return operation(visual, visual_seats, blended, blended_seats, table, newline, *fixed, num_seats)


def check_fixed(table: Tensor, newline: Tensor | None, fixed: Fixed, num_seats: int) -> None:
    """What `seat_rows` and `project_rows` ask of the rows that are copied."""
    require_rank("table", table, 2)
    require_dtype("table", table.dtype)
    require_count("the buffer", num_seats)
    require_same("text rows", ids=fixed.ids.shape[0], seats=fixed.seats.shape[0], grouped=fixed.grouped.shape[0])
    require_same("tokens", tokens=fixed.tokens.shape[0] + 1, token_bounds=fixed.token_bounds.shape[0])
    if newline is None and fixed.newline_seats.shape[0]:
        raise KernelInputError(f"found {fixed.newline_seats.shape[0]} newline seats and no newline row; expected one")
    if newline is not None:
        require_same("widths", newline=newline.shape[-1], table=table.shape[1])


def fill(buffer: Tensor, table: Tensor, newline: Tensor | None, fixed: Fixed) -> None:
    """Writes text rows, newline rows and zeros to their seats in `buffer` [T, D]."""
    embed_into(table, fixed.ids, fixed.seats, buffer, newline, fixed.newline_seats, fixed.blank_seats)


def fixed_gradients(
    grad: Tensor, fixed: Fixed, num_tokens: int, of_table: torch.dtype | None, of_newline: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """grad [T, D] -> the gradients of table [vocab, D] and newline row [D], in these dtypes; None for what does not train."""
    table = None if of_table is None else _embed_gradient(grad, *fixed[2:6], num_tokens, of_table)
    newline = None if of_newline is None else _sum_rows(grad, fixed.newline_seats, of_newline)
    return table, newline


def wanted(dtypes: Sequence[torch.dtype | None], needs: Sequence[bool]) -> tuple[torch.dtype | None, torch.dtype | None]:
    """The dtypes of table and newline, where their gradients are needed."""
    table, newline = (dtype if needed else None for dtype, needed in zip(dtypes, needs, strict=True))
    return table, newline


def dtype_of(tensor: Tensor | None) -> torch.dtype | None:
    """Its dtype, if it is there."""
    return None if tensor is None else tensor.dtype


def _seated(
    visual: Tensor,
    visual_seats: Tensor,
    blended: Tensor | None,
    blended_seats: Tensor | None,
    table: Tensor,
    newline: Tensor | None,
    ids: Tensor,
    seats: Tensor,
    grouped: Tensor,
    group_bounds: Tensor,
    token_bounds: Tensor,
    tokens: Tensor,
    newline_seats: Tensor,
    blank_seats: Tensor,
    num_seats: int,
) -> Tensor:
    require_device(visual, visual_seats, blended, table, newline, ids, seats, newline_seats, blank_seats)
    fixed = Fixed(ids, seats, grouped, group_bounds, token_bounds, tokens, newline_seats, blank_seats)
    buffer = table.new_empty(num_seats, table.shape[1])
    scatter_rows(visual, visual_seats, buffer)
    if blended is not None and blended_seats is not None:
        scatter_rows(blended, blended_seats, buffer)
    fill(buffer, table, newline, fixed)
    return buffer


_seat_rows = torch.library.custom_op("llava_kit::seat_rows", _seated, mutates_args=())


@_seat_rows.register_fake
def _(visual, visual_seats, blended, blended_seats, table, newline, *rest):
    return table.new_empty(rest[-1], table.shape[1])


def _setup(ctx, inputs, output):
    visual, visual_seats, blended, blended_seats, table, newline, *fixed, _ = inputs
    ctx.save_for_backward(visual_seats, blended_seats, *fixed)
    ctx.dtypes = [dtype_of(tensor) for tensor in (visual, blended, table, newline)]
    ctx.num_tokens = table.shape[0]


def _backward(ctx, grad):
    visual_seats, blended_seats, *lists = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad = grad.contiguous()
    of_visual = gather_rows(grad, visual_seats, dtype=ctx.dtypes[0]) if needs[0] else None
    of_blended = gather_rows(grad, blended_seats, dtype=ctx.dtypes[1]) if needs[2] else None
    of_table, of_newline = fixed_gradients(grad, Fixed(*lists), ctx.num_tokens, *wanted(ctx.dtypes[2:], needs[4:6]))
    return of_visual, None, of_blended, None, of_table, of_newline, *[None] * 9


_seat_rows.register_autograd(_backward, setup_context=_setup)


# The sums of the backward pass as operations, so that a compiler which traces it sees one node of each.
@torch.library.custom_op("llava_kit::embed_gradient", mutates_args=())
def _embed_gradient(
    grad: Tensor, grouped: Tensor, group_bounds: Tensor, token_bounds: Tensor, tokens: Tensor, vocab: int, dtype: torch.dtype
) -> Tensor:
    return embed_gradient(grad, grouped, group_bounds, token_bounds, tokens, vocab, dtype)


@_embed_gradient.register_fake
def _(grad, grouped, group_bounds, token_bounds, tokens, vocab, dtype):
    return grad.new_empty(vocab, grad.shape[1], dtype=dtype)


@torch.library.custom_op("llava_kit::sum_rows", mutates_args=())
def _sum_rows(grad: Tensor, seats: Tensor, dtype: torch.dtype) -> Tensor:
    return sum_rows(grad, seats, dtype)


@_sum_rows.register_fake
def _(grad, seats, dtype):
    return grad.new_empty(grad.shape[1], dtype=dtype)
