"""Rows made of four rows each: a canvas that is shrunk, frames that are pooled, without a copy of the four.

Q rows that are read, R rows that are made of them, D width. A flat place in `taps` is r * 4 + j.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import (
    AheadCase,
    KernelInputError,
    blocks,
    blocks_of,
    contiguous_rows,
    launch,
    require_count,
    require_device,
    require_floats,
    require_indices,
    require_rank,
    require_same,
)

WARPS = 4
REDUCTIONS = ("sum", "max")
_COUNTS = ["num_rows", "num_blended", "num_readers"]


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=["taps", "weights"])
def blend_kernel(
    rows,
    taps,
    weights,
    result,
    winners,
    num_rows,
    num_blended,
    width,
    row_stride,
    GREATEST: tl.constexpr,  # the greatest of the four, else their weighted sum
    KEEP: tl.constexpr,  # which tap was the greatest is written to `winners`
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """result[r] = sum over j of weights[r, j] * rows[taps[r, j]] in float32, or the greatest of these rows."""
    blended = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = blended < num_blended
    writable = inside[:, None] & (columns < width)[None, :]
    best = tl.zeros((ROWS, COLUMNS), tl.float32)
    winner = tl.zeros((ROWS, COLUMNS), tl.int8)
    for j in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
        tap = tl.load(taps + blended * 4 + j, mask=inside, other=-1)
        there = inside & (tap >= 0) & (tap < num_rows)
        start = tl.where(there, tap, 0).to(tl.int64) * row_stride
        readable = there[:, None] & (columns < width)[None, :]
        value = tl.load(rows + start[:, None] + columns[None, :], mask=readable, other=0.0).to(tl.float32)
        if GREATEST:
            # The first of equals, and a value that is not a number before all others, as torch.max has it.
            better = (value > best) | ((value != value) & (best == best)) | (j == 0)
            best = tl.where(better, value, best)
            winner = tl.where(better, j, winner).to(tl.int8)
        else:
            best += tl.load(weights + blended * 4 + j, mask=inside, other=0.0)[:, None] * value
    places = (blended * width)[:, None] + columns[None, :]
    tl.store(result + places, best.to(result.dtype.element_ty), mask=writable)
    if KEEP:
        tl.store(winners + places, winner, mask=writable)


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=["weights", "readers", "bounds"])
def unblend_kernel(
    grad,
    weights,
    winners,
    readers,
    bounds,
    result,
    num_rows,
    num_blended,
    num_readers,
    width,
    grad_stride,
    GREATEST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """result[q] = sum over its readers (r, j) of weights[r, j] * grad[r], in their order, in float32.

    For the greatest of four: of grad[r] where tap j was that.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = row < num_rows
    begin = tl.maximum(tl.load(bounds + row, mask=inside, other=0).to(tl.int64), 0)
    end = tl.minimum(tl.load(bounds + row + 1, mask=inside, other=0).to(tl.int64), num_readers)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    entry = begin
    # Not `range`: the interpreter of Triton 3.6 cannot count with scalars under a new NumPy.
    while tl.max(end - entry, 0) > 0:  # pyright: ignore[reportOperatorIssue]
        reader = tl.load(readers + entry, mask=entry < end, other=-1)
        there = (entry < end) & (reader >= 0) & (reader < num_blended * 4)
        reader = tl.where(there, reader, 0).to(tl.int64)
        blended = reader // 4
        readable = there[:, None] & (columns < width)[None, :]
        value = tl.load(grad + (blended * grad_stride)[:, None] + columns[None, :], mask=readable, other=0.0).to(tl.float32)
        if GREATEST:
            winner = tl.load(winners + (blended * width)[:, None] + columns[None, :], mask=readable, other=-1)
            total += tl.where(winner == (reader % 4)[:, None], value, 0.0)
        else:
            total += tl.load(weights + reader, mask=there, other=0.0)[:, None] * value
        entry += 1
    places = result + (row * width)[:, None] + columns[None, :]
    tl.store(places, total.to(result.dtype.element_ty), mask=inside[:, None] & (columns < width)[None, :])


def blend_rows(rows: Tensor, taps: Tensor, weights: Tensor, readers: Tensor, reader_bounds: Tensor, reduce: str) -> Tensor:
    """rows [Q, D] -> [R, D] in their dtype: row r is made of the rows `taps[r]` (int32 or int64 [R, 4]).

    reduce         "sum": weighted by `weights` float32 [R, 4], summed in float32; "max": the greatest, feature by feature
    readers        [4R]     the flat places in `taps`, grouped by the row they read
    reader_bounds  [Q + 1]  where the group of each row begins: the gradient of a row is the sum over its group, in its order

    A tap outside `rows` reads zeros. Only `rows` has a gradient; that of "max" goes to the first of equals. Raises
    `KernelInputError`.
    """
    keep = reduce == "max" and rows.requires_grad and torch.is_grad_enabled()
    return torch.ops.llava_kit.blend_rows(rows, taps, weights, readers, reader_bounds, reduce, keep)[0]


@torch.library.custom_op("llava_kit::blend_rows", mutates_args=())
def _blend_rows(
    rows: Tensor, taps: Tensor, weights: Tensor, readers: Tensor, reader_bounds: Tensor, reduce: str, keep: bool
) -> tuple[Tensor, Tensor]:
    _check(rows, taps, weights, readers, reader_bounds, reduce)
    result, winners = _empty_results(rows, taps, keep)
    num_blended, width = result.shape
    if num_blended == 0 or width == 0:
        return result, winners
    rows = contiguous_rows(rows)
    block_rows, block_columns = blocks_of(width)
    launch(
        blend_kernel,
        (blocks(num_blended, block_rows), blocks(width, block_columns)),
        rows,
        taps.contiguous(),
        weights.contiguous(),
        result,
        winners,
        rows.shape[0],
        num_blended,
        width,
        rows.stride(0),
        GREATEST=reduce == "max",
        KEEP=keep,
        ROWS=block_rows,
        COLUMNS=block_columns,
        num_warps=WARPS,
        on=result,
    )
    return result, winners


def _empty_results(rows: Tensor, taps: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The blended rows [R, D]; and which tap was the greatest, [R, D] int8, or [0, D] where nobody will ask."""
    shape = (taps.shape[0], rows.shape[1])
    return rows.new_empty(shape), rows.new_empty((shape[0] if keep else 0, shape[1]), dtype=torch.int8)


@_blend_rows.register_fake
def _(rows, taps, weights, readers, reader_bounds, reduce, keep):
    return _empty_results(rows, taps, keep)


@torch.library.custom_op("llava_kit::blend_rows_gradient", mutates_args=())
def _blend_rows_gradient(
    grad: Tensor, weights: Tensor, winners: Tensor, readers: Tensor, reader_bounds: Tensor, reduce: str, dtype: torch.dtype
) -> Tensor:
    """grad [R, D] -> [Q, D] in `dtype`."""
    require_device(grad, weights, winners, readers, reader_bounds)
    result = grad.new_empty(reader_bounds.shape[0] - 1, grad.shape[1], dtype=dtype)
    num_rows, width = result.shape
    if num_rows == 0 or width == 0:
        return result
    grad = contiguous_rows(grad)
    block_rows, block_columns = blocks_of(width)
    launch(
        unblend_kernel,
        (blocks(num_rows, block_rows), blocks(width, block_columns)),
        grad,
        weights.contiguous(),
        winners,
        readers.contiguous(),
        reader_bounds.contiguous(),
        result,
        num_rows,
        grad.shape[0],
        readers.shape[0],
        width,
        grad.stride(0),
        GREATEST=reduce == "max",
        ROWS=block_rows,
        COLUMNS=block_columns,
        num_warps=WARPS,
        on=result,
    )
    return result


@_blend_rows_gradient.register_fake
def _(grad, weights, winners, readers, reader_bounds, reduce, dtype):
    return grad.new_empty(reader_bounds.shape[0] - 1, grad.shape[1], dtype=dtype)


def _setup_context(ctx, inputs, output) -> None:
    rows, _, weights, readers, reader_bounds, reduce, keep = inputs
    _, winners = output
    ctx.reduce, ctx.keep, ctx.dtype = reduce, keep, rows.dtype
    ctx.mark_non_differentiable(winners)
    ctx.save_for_backward(weights, winners, readers, reader_bounds)


def _backward(ctx, grad, _):
    gradient = None
    if ctx.needs_input_grad[0]:
        assert ctx.keep or ctx.reduce == "sum", "the gradient of the greatest needs `keep`"
        gradient = torch.ops.llava_kit.blend_rows_gradient(grad, *ctx.saved_tensors, ctx.reduce, ctx.dtype)
    return gradient, None, None, None, None, None, None


_blend_rows.register_autograd(_backward, setup_context=_setup_context)


def _check(rows: Tensor, taps: Tensor, weights: Tensor, readers: Tensor, reader_bounds: Tensor, reduce: str) -> None:
    if reduce not in REDUCTIONS:
        raise KernelInputError(f"`reduce` is {reduce!r}; expected one of {', '.join(REDUCTIONS)}")
    require_device(rows, taps, weights, readers, reader_bounds)
    require_floats(rows=rows)
    require_rank("rows", rows, 2)
    require_count("rows", rows.shape[0])
    if taps.dim() != 2 or taps.shape[1] != 4 or weights.shape != taps.shape:
        raise KernelInputError(f"`taps` {list(taps.shape)} and `weights` {list(weights.shape)}; expected [R, 4] of both")
    if weights.dtype != torch.float32:
        raise KernelInputError(f"`weights` is {weights.dtype}; expected float32")
    require_indices(taps=taps.flatten(), readers=readers, reader_bounds=reader_bounds)
    require_same("the taps", taps=taps.numel(), readers=readers.shape[0])
    require_same("the rows", rows=rows.shape[0], reader_bounds=reader_bounds.shape[0] - 1)


def ahead_of_time() -> list[AheadCase]:
    """Both ways to reduce, forward and backward, with as many registers as they may take: bfloat16 at LLaVA's width."""
    return [
        *(_forward_case(name, greatest, keep) for name, greatest, keep in _FORWARD),
        *(_backward_case(name, greatest) for name, greatest in (("sum", False), ("max", True))),
    ]


_FORWARD = (("sum", False, False), ("max", True, False), ("max for training", True, True))


def _forward_case(name: str, greatest: bool, keep: bool) -> AheadCase:
    rows, columns = blocks_of(4096)
    signature = {"rows": "*bf16", "taps": "*i32", "weights": "*fp32", "result": "*bf16", "winners": "*i8"}
    signature |= dict.fromkeys(["num_rows", "num_blended"], "i32") | dict.fromkeys(["width", "row_stride"], "i32:16")
    constants = {"GREATEST": greatest, "KEEP": keep, "ROWS": rows, "COLUMNS": columns}
    return AheadCase(f"blend_rows {name}", blend_kernel, signature, constants, WARPS, 1)


def _backward_case(name: str, greatest: bool) -> AheadCase:
    rows, columns = blocks_of(4096)
    signature = {"grad": "*bf16", "weights": "*fp32", "winners": "*i8", "readers": "*i32", "bounds": "*i32", "result": "*bf16"}
    signature |= dict.fromkeys(_COUNTS, "i32") | dict.fromkeys(["width", "grad_stride"], "i32:16")
    constants = {"GREATEST": greatest, "ROWS": rows, "COLUMNS": columns}
    return AheadCase(f"blend_rows gradient {name}", unblend_kernel, signature, constants, WARPS, 1)
