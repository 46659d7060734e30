"""A linear layer whose rows go straight to their seats in a buffer: the second half of LLaVA's projector and the splice.

M rows, K features in, N features out, T' seats of the buffer. The sums are float32, rounded once, to the buffer's dtype.
`choices` says whether Triton or cuBLAS and `scatter_rows` do it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .choices import Choice, choose
from .common import AheadCase, KernelInputError, contiguous_rows, index_strided, require_device, require_indices, require_same
from .gemm import (
    COUNTS,
    TURNED,
    add_bias,
    ahead_cases,
    check_operands,
    corner,
    inside_of,
    launch_product,
    product,
    quarters,
    row_stride,
    tiles_of,
)
from .scatter_rows import scatter_rows


@triton.jit(do_not_specialize=COUNTS)
def _kernel(
    x, weight, bias, seats, buffer, num_rows, num_columns, depth, num_seats, x_stride, weight_stride, buffer_stride,
    even: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    num_tiles = tiles_of(num_rows, block_m) * tiles_of(num_columns, block_n)
    part: tl.constexpr = block_n // 4
    for turn in range(tl.cdiv(num_tiles - tl.program_id(0), tl.num_programs(0))):
        m, n = corner(tl.program_id(0) + turn * tl.num_programs(0), num_rows, num_columns, block_m, block_n)
        sums = product(
            x, weight, m, n, num_rows, num_columns, depth, x_stride, weight_stride,
            TURNED, even, block_m, block_n, block_k,
        )  # fmt: skip
        first, second, third, fourth = quarters(sums, block_m, block_n)
        _store(first, bias, seats, buffer, m, n, num_rows, num_columns, num_seats, buffer_stride, block_m, part)
        _store(second, bias, seats, buffer, m, n + part, num_rows, num_columns, num_seats, buffer_stride, block_m, part)
        _store(third, bias, seats, buffer, m, n + 2 * part, num_rows, num_columns, num_seats, buffer_stride, block_m, part)
        _store(fourth, bias, seats, buffer, m, n + 3 * part, num_rows, num_columns, num_seats, buffer_stride, block_m, part)


@triton.jit
def _store(
    sums, bias, seats, buffer, m, n, num_rows, num_columns, num_seats, buffer_stride,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Each row at its seat; rows whose seat is not in the buffer nowhere."""
    here = tl.arange(0, rows)
    seat = tl.load(seats + m.to(tl.int64) + here, mask=here < num_rows - m, other=-1).to(tl.int64)
    seated = (seat >= 0) & (seat < num_seats)
    inside = inside_of(m, n, num_rows, num_columns, rows, columns) & seated[:, None]
    places = buffer + (seat * buffer_stride)[:, None] + (n + tl.arange(0, columns))[None, :]
    sums = add_bias(sums, bias, n, num_columns, columns)
    tl.store(places, sums.to(buffer.dtype.element_ty), mask=inside)


@torch.no_grad()
def linear_scatter(
    x: Tensor, weight: Tensor, bias: Tensor | None, seats: Tensor, buffer: Tensor, choice: Choice | None = None
) -> None:
    """Row i of x [M, K] @ weight.T [K, N] + bias is stored at buffer [T', N][seats[i]], in the buffer's dtype; no gradient.

    seats [M] int32 or int64; a seat outside [0, T') is not written; no seat may be given twice. Other rows stay as they are.
    `choice`: what runs, instead of what the tables say. Raises `KernelInputError`.
    """
    check_operands(x, weight, bias, buffer=buffer)
    require_device(x, seats)
    require_indices(seats=seats)
    require_same("rows", x=x.shape[0], seats=seats.shape[0])
    require_same("features", x=x.shape[1], weight=weight.shape[1])
    require_same("columns", weight=weight.shape[0], buffer=buffer.shape[1])
    if contiguous_rows(buffer) is not buffer:
        raise KernelInputError(
            f"`buffer` has the strides {list(buffer.stride())}; expected 1 last: its rows are written in place"
        )
    size = (x.shape[0], weight.shape[0], x.shape[1])
    choice = choice or choose("linear_scatter", x.device, x.dtype, *size)
    if choice.tile is None:
        scatter_rows(F.linear(x, weight, bias), seats, buffer)
        return
    x, weight, bias = contiguous_rows(x), contiguous_rows(weight), None if bias is None else bias.contiguous()
    strides = row_stride("x", x), row_stride("weight", weight), row_stride("buffer", buffer)
    arguments = (x, weight, bias, index_strided(seats), buffer, *size, buffer.shape[0], *strides)
    launch_product(_kernel, choice.tile, size, *arguments, on=x)


def ahead_of_time() -> list[AheadCase]:
    """The forms to compile without a device."""
    pointers = {**dict.fromkeys(("x", "weight", "bias", "buffer"), ""), "seats": "i32"}
    return ahead_cases("linear_scatter", _kernel, pointers)
