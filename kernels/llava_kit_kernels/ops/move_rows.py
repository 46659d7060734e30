"""Rows from one place to another: the one kernel behind gather_rows and scatter_rows.

R rows of the source, in N tiles of P rows where it is [N, P, D]; K rows to move; T rows of the result; D width.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .common import (
    AheadCase,
    blocks,
    blocks_of,
    contiguous_rows,
    index_strided,
    launch,
    require_count,
    require_device,
    require_floats,
    require_indices,
    require_rank,
    require_same,
)

WARPS = 4  # 128 threads for the 4,096 elements of a block
# Read by number with scalar loads, so their alignment does not matter; and counts differ from step to step.
_UNALIGNED = ["index", "seats"]
_COUNTS = ["num_moved", "num_source", "num_result", "per_tile"]


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_UNALIGNED)
def move_kernel(
    source,
    index,
    seats,
    result,
    num_moved,
    num_source,
    num_result,
    per_tile,
    width,
    tile_stride,
    row_stride,
    result_stride,
    INDEXED: tl.constexpr,  # from row index[i] of the source, else from row i
    TILED: tl.constexpr,  # the source is [N, P, D]
    SEATED: tl.constexpr,  # to row seats[i] of the result, else to row i
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Row i of K goes from `index[i]` to `seats[i]`. Outside the source zeros are read; outside the result none is written."""
    moved = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = moved < num_moved
    target = moved
    if SEATED:
        seat = tl.load(seats + moved, mask=inside, other=-1)
        inside = inside & (seat >= 0) & (seat < num_result)
        target = tl.where(inside, seat, 0).to(tl.int64)
    wanted = moved
    if INDEXED:
        wanted = tl.load(index + moved, mask=inside, other=-1)
    there = inside & (wanted >= 0) & (wanted < num_source)
    wanted = tl.where(there, wanted, 0).to(tl.int64)
    if TILED:
        tile = (wanted.to(tl.int32) // per_tile).to(tl.int64)
        start = tile * tile_stride + (wanted - tile * per_tile) * row_stride
    else:
        start = wanted * row_stride
    readable = there[:, None] & (columns < width)[None, :]
    values = tl.load(source + start[:, None] + columns[None, :], mask=readable, other=0.0).to(result.dtype.element_ty)
    places = result + (target * result_stride)[:, None] + columns[None, :]
    tl.store(places, values, mask=inside[:, None] & (columns < width)[None, :])


def move_rows(source: Tensor, index: Tensor | None, seats: Tensor | None, result: Tensor, num_moved: int) -> None:
    """Moves row `index[i]` of `source` ([R, D] or [N, P, D]) to row `seats[i]` of `result` [T, D], in the result's dtype.

    `index` or `seats` None: row i. Rows outside the source are zeros; seats outside the result are not written. Raises
    `KernelInputError` where shapes, dtypes or devices do not fit.
    """
    require_device(source, index, seats, result)
    require_floats(source=source, result=result)
    require_indices(index=index, seats=seats)
    require_rank("the source", source, 2, 3)
    require_rank("the buffer", result, 2)
    require_count("the buffer", result.shape[0])
    width = result.shape[1]
    require_same("the widths", source=source.shape[-1], buffer=width)
    assert result.stride(1) == 1 or width <= 1, "a buffer is written in place: neighbours in a row must be neighbours in memory"
    source = contiguous_rows(source)
    tiled = source.dim() == 3
    num_source = source.shape[0] * source.shape[1] if tiled else source.shape[0]
    require_count("the source", num_source)
    if num_moved == 0 or width == 0:
        return
    rows, columns = blocks_of(width)
    launch(
        move_kernel,
        (blocks(num_moved, rows), blocks(width, columns)),
        source,
        result if index is None else index_strided(index),  # not read then
        result if seats is None else index_strided(seats),
        result,
        num_moved,
        num_source,
        result.shape[0],
        max(source.shape[1], 1) if tiled else 1,
        width,
        source.stride(0) if tiled else 0,
        source.stride(-2),
        result.stride(0),
        INDEXED=index is not None,
        TILED=tiled,
        SEATED=seats is not None,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=WARPS,
        on=result,
    )


def case(name: str, dtypes: str, width: int, *, index: str = "i32", **flags: int) -> AheadCase:
    """The form of the kernel that an operation launches: `dtypes` "bf16 fp32" are those read and written.

    A width that is a multiple of 16 is compiled for strides that are too, as the launch finds them.
    """
    read, written = dtypes.split()
    rows, columns = blocks_of(width)
    constants = {"INDEXED": False, "TILED": False, "SEATED": False, "ROWS": rows, "COLUMNS": columns} | flags
    signature = {"source": f"*{read}", "index": f"*{index}", "seats": f"*{index}", "result": f"*{written}"}
    signature |= dict.fromkeys(_COUNTS, "i32")
    sizes = ["width", "tile_stride", "row_stride", "result_stride"]
    signature |= dict.fromkeys(sizes, "i32" if width % 16 else "i32:16")
    return AheadCase(f"{name}: {read} to {written}, width {width}", move_kernel, signature, constants, WARPS, 1)
