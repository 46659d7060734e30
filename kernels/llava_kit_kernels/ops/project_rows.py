"""`project_rows`: a two-layer projector and the splice in one operation: linear, activation, linear, each row at its seat.

K rows of the encoder's width E, hidden width H, D width of the buffer of T seats. The first product applies bias and activation
before it writes (`linear_gelu`), the second can write final rows (`linear_scatter`), and the gradient of the activation is
applied where that of the hidden rows is made (`linear_dgelu`). Which of these are Triton kernels and which cuBLAS with row
kernels, `choices` decides by shape and device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .common import is_plain, require_device, require_rank, require_same
from .gather_rows import gather_rows
from .linear_dgelu import linear_dgelu
from .linear_gelu import linear_gelu
from .linear_scatter import linear_scatter
from .seat_rows import Fixed, check_fixed, dtype_of, fill, fixed_gradients, wanted


class Projector(NamedTuple):
    """Linear, activation, linear: weight_1 [H, E], bias_1 [H], weight_2 [D, H], bias_2 [D]; biases may be None."""

    weight_1: Tensor
    bias_1: Tensor | None
    weight_2: Tensor
    bias_2: Tensor | None
    activation: str


def project_rows(
    x: Tensor, projector: Projector, seats: Tensor, table: Tensor, newline: Tensor | None, fixed: Fixed, num_seats: int
) -> Tensor:
    """x [K, E], seats [K], table [vocab, D], newline [D] -> [T, D] in the table's dtype.

    Differentiable in all of them. x, weights and biases have one dtype, in which products are taken and hidden rows are kept.

    Raises:
        KernelInputError: shapes, dtypes, devices or counts that do not fit.
    """
    check_fixed(table, newline, fixed, num_seats)
    weight_1, _, weight_2, _, activation = projector
    for name, tensor in (("x", x), ("weight_1", weight_1), ("weight_2", weight_2)):
        require_rank(name, tensor, 2)
    require_same("rows", x=x.shape[0], seats=seats.shape[0])
    require_same("the encoder's widths", x=x.shape[1], weight_1=weight_1.shape[1])
    require_same("hidden widths", weight_1=weight_1.shape[0], weight_2=weight_2.shape[1])
    require_same("widths", weight_2=weight_2.shape[0], table=table.shape[1])
    # The hidden rows are kept for the backward pass alone.
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *projector[:4]))
    operation = _projected if is_plain(x, weight_1, weight_2, table) else torch.ops.llava_kit.project_rows
    return operation(x, *projector[:4], activation, seats, table, newline, *fixed, num_seats, keep)[0]


def _projected(
    x: Tensor,
    weight_1: Tensor,
    bias_1: Tensor | None,
    weight_2: Tensor,
    bias_2: Tensor | None,
    activation: str,
    visual_seats: Tensor,
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    require_device(x, weight_1, bias_1, weight_2, bias_2, visual_seats, table, newline, ids, seats, newline_seats, blank_seats)
    fixed = Fixed(ids, seats, grouped, group_bounds, token_bounds, tokens, newline_seats, blank_seats)
    buffer = table.new_empty(num_seats, table.shape[1])
    hidden, before = linear_gelu(x, weight_1, bias_1, activation, keep)
    linear_scatter(hidden, weight_2, bias_2, visual_seats, buffer)
    fill(buffer, table, newline, fixed)
    return buffer, hidden if keep else hidden.new_empty(0, hidden.shape[1]), before


_project_rows = torch.library.custom_op("llava_kit::project_rows", _projected, mutates_args=())


@_project_rows.register_fake
def _(x, weight_1, bias_1, weight_2, bias_2, activation, visual_seats, table, newline, *rest):
    *_, num_seats, keep = rest
    rows = x.shape[0] if keep else 0
    hidden, before = x.new_empty(rows, weight_1.shape[0]), x.new_empty(rows, weight_1.shape[0])
    return table.new_empty(num_seats, table.shape[1]), hidden, before


def _setup(ctx, inputs, output):
    x, weight_1, _, weight_2, _, activation, visual_seats, table, newline, *fixed, _, _ = inputs
    _, hidden, before = output
    ctx.mark_non_differentiable(hidden, before)
    ctx.save_for_backward(x, weight_1, weight_2, hidden, before, visual_seats, *fixed)
    ctx.activation = activation
    ctx.num_tokens = table.shape[0]
    ctx.dtypes = [dtype_of(table), dtype_of(newline)]


def _backward(ctx, grad, *unused):
    x, weight_1, weight_2, hidden, before, visual_seats, *lists = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad = grad.contiguous()
    of_x = of_weight_1 = of_bias_1 = of_weight_2 = of_bias_2 = None
    if any(needs[:5]):
        # One gather feeds two products: cheaper than fusing it into both.
        of_rows = gather_rows(grad, visual_seats, dtype=x.dtype)
        of_weight_2 = of_rows.T @ hidden if needs[3] else None
        of_bias_2 = _column_sums(of_rows) if needs[4] else None
        if any(needs[:3]):
            of_before = _linear_dgelu(of_rows, weight_2, before, ctx.activation)
            of_weight_1 = of_before.T @ x if needs[1] else None
            of_bias_1 = _column_sums(of_before) if needs[2] else None
            of_x = of_before @ weight_1 if needs[0] else None
    of_table, of_newline = fixed_gradients(grad, Fixed(*lists), ctx.num_tokens, *wanted(ctx.dtypes, needs[7:9]))
    gradients = (of_x, of_weight_1, of_bias_1, of_weight_2, of_bias_2, None, None, of_table, of_newline)
    return *gradients, *[None] * 10


_project_rows.register_autograd(_backward, setup_context=_setup)


def _column_sums(rows: Tensor) -> Tensor:
    """[K, D] -> [D], added in float32, in torch's order, which is the same in every run."""
    return rows.sum(0, dtype=torch.float32).to(rows.dtype)


@torch.library.custom_op("llava_kit::linear_dgelu", mutates_args=())
def _linear_dgelu(grad: Tensor, weight: Tensor, before: Tensor, activation: str) -> Tensor:
    return linear_dgelu(grad, weight, before, activation)


@_linear_dgelu.register_fake
def _(grad, weight, before, activation):
    return grad.new_empty(grad.shape[0], weight.shape[1])
