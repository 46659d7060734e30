"""Rows by index, each written once: the kept rows of an encoder's output, or a list's rows of a gradient.

N tiles, P patches a tile, R = N * P rows of the source, K rows wanted, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common import (
    AheadCase,
    index_strided,
    is_plain,
    require_count,
    require_device,
    require_dtype,
    require_floats,
    require_indices,
    require_rank,
    require_same,
)
from .move_rows import case, move_rows
from .sum_segments import sum_segments


def gather_rows(source: Tensor, index: Tensor, places: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Rows `index` [K] of `source` -> [K, D] in `dtype` (None: the source's); an index outside the source gives a row of zeros.

    `source` is [R, D], or [N, P, D], whose flat row r is patch r % P of tile r // P; it is read in place whatever its strides,
    so a view without the class token costs no copy. `places` int32 [R]: where each row of the source went, -1 for nowhere;
    with it the gradient is one gather, `gather_rows(gradient, places)`, and no index may occur twice. Without it the places are
    sorted on the device, should a gradient be wanted, and rows that were taken more than once get the sum.
    Raises `KernelInputError`.
    """
    if is_plain(source):
        return _gathered(source, index, places, dtype)
    return torch.ops.llava_kit.gather_rows(source, index, places, dtype)


def _gathered(source: Tensor, index: Tensor, places: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    _check(source, index, places, dtype)
    result = source.new_empty(index.shape[0], source.shape[-1], dtype=dtype or source.dtype)
    move_rows(source, index, None, result, index.shape[0])
    return result


_gather_rows = torch.library.custom_op("llava_kit::gather_rows", _gathered, mutates_args=())


@_gather_rows.register_fake
def _(source: Tensor, index: Tensor, places: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    return source.new_empty(index.shape[0], source.shape[-1], dtype=dtype or source.dtype)


@torch.library.custom_op("llava_kit::gather_rows_gradient", mutates_args=())
def _gather_rows_gradient(grad: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype) -> Tensor:
    """grad [K, D] -> [num_rows, D]: each row the sum of the gradients of its copies, in order of `index`; no host read."""
    require_device(grad, index)
    order = torch.argsort(index, stable=True)
    edges = torch.arange(num_rows + 1, device=index.device, dtype=index.dtype)
    bounds = torch.searchsorted(index_strided(index[order]), edges)
    result = grad.new_empty(num_rows, grad.shape[1], dtype=dtype)
    sum_segments(grad.contiguous(), order, bounds, None, result, num_rows)
    return result


@_gather_rows_gradient.register_fake
def _(grad: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[1], dtype=dtype)


def _setup_context(ctx, inputs, output) -> None:
    source, index, places, _ = inputs
    ctx.shape, ctx.dtype = source.shape, source.dtype
    ctx.save_for_backward(index if places is None else None, places)


def _backward(ctx, grad):
    if not ctx.needs_input_grad[0]:
        return None, None, None, None
    index, places = ctx.saved_tensors
    if places is None:
        flat = torch.ops.llava_kit.gather_rows_gradient(grad, index, ctx.shape[:-1].numel(), ctx.dtype)
    else:
        flat = torch.ops.llava_kit.gather_rows(grad, places, None, ctx.dtype)
    return flat.view(ctx.shape), None, None, None


_gather_rows.register_autograd(_backward, setup_context=_setup_context)


def _check(source: Tensor, index: Tensor, places: Tensor | None, dtype: torch.dtype | None) -> None:
    require_device(source, index, places)
    require_floats(source=source)
    require_dtype("the result", dtype or source.dtype)
    require_indices(index=index, places=places)
    require_rank("source", source, 2, 3)
    rows = source.shape[:-1].numel()
    require_count("source", rows)
    if places is not None:
        require_same("the rows of the source", source=rows, places=places.shape[0])


def ahead_of_time() -> list[AheadCase]:
    """Tiles in place, and the gradient's plain rows."""
    return [
        case("gather_rows of tiles", "bf16 bf16", 1024, INDEXED=True, TILED=True),
        case("gather_rows of tiles", "fp16 fp32", 1024, INDEXED=True, TILED=True),
        case("gather_rows", "bf16 bf16", 4096, INDEXED=True),
        case("gather_rows", "fp32 fp32", 341, index="i64", INDEXED=True),
    ]
