"""Rows that are copied: text rows from the embedding table straight into the buffer, the newline, zeros; and back.

X text rows, L newline rows and Z blanks of T seats, `vocab` rows of the table, D width; G groups of at most 256 seats, U
tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import (
    TRITON_NAMES,
    AheadCase,
    KernelInputError,
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
from .sum_segments import sum_groups

WARPS = 4  # 128 threads for the 4,096 elements of a block
_COUNTS = ["num_text", "num_newlines", "num_blanks", "num_table", "num_result"]
_LISTS = ["ids", "seats", "newline_seats", "blank_seats"]


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_LISTS)
def embed_kernel(
    table,
    newline,
    ids,
    seats,
    newline_seats,
    blank_seats,
    result,
    num_text,
    num_newlines,
    num_blanks,
    num_table,
    num_result,
    width,
    table_stride,
    result_stride,
    NEWLINES: tl.constexpr,
    BLANKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The three lists end to end: text, newlines, blanks. A program writes ROWS of their rows, COLUMNS of each."""
    entry = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    across = columns < width
    is_text = entry < num_text
    seat = tl.load(seats + entry, mask=is_text, other=-1).to(tl.int64)
    word = tl.load(ids + entry, mask=is_text, other=-1).to(tl.int64)
    there = (word >= 0) & (word < num_table)
    start = tl.where(there, word, 0) * table_stride
    values = tl.load(table + start[:, None] + columns[None, :], mask=there[:, None] & across[None, :], other=0.0)
    values = values.to(result.dtype.element_ty)
    if NEWLINES:
        place = entry - num_text
        is_newline = (place >= 0) & (place < num_newlines)
        seat = tl.where(is_newline, tl.load(newline_seats + place, mask=is_newline, other=-1).to(tl.int64), seat)
        row = tl.load(newline + columns, mask=across, other=0.0).to(result.dtype.element_ty)
        values = tl.where(is_newline[:, None], row[None, :], values)
    if BLANKS:
        place = entry - num_text - num_newlines
        is_blank = (place >= 0) & (place < num_blanks)
        seat = tl.where(is_blank, tl.load(blank_seats + place, mask=is_blank, other=-1).to(tl.int64), seat)
    inside = (seat >= 0) & (seat < num_result)
    places = result + (tl.where(inside, seat, 0) * result_stride)[:, None] + columns[None, :]
    tl.store(places, values, mask=inside[:, None] & across[None, :])


def embed_into(
    table: Tensor,
    ids: Tensor,
    seats: Tensor,
    buffer: Tensor,
    newline: Tensor | None = None,
    newline_seats: Tensor | None = None,
    blank_seats: Tensor | None = None,
) -> None:
    """Writes row `ids[i]` of `table` [vocab, D] at row `seats[i]` of `buffer` [T, D], in the buffer's dtype, in one launch.

    With them, `newline` [D] at each of `newline_seats`, and zeros at each of `blank_seats`. Other rows of the buffer stay as
    they are. An id outside the table writes zeros; a seat outside the buffer is not written. Raises `KernelInputError`.
    """
    require_device(table, ids, seats, buffer, newline, newline_seats, blank_seats)
    require_floats(table=table, newline=newline, buffer=buffer)
    require_indices(ids=ids, seats=seats, newline_seats=newline_seats, blank_seats=blank_seats)
    require_same("the lists", ids=ids.shape[0], seats=seats.shape[0])
    require_rank("table", table, 2)
    require_rank("buffer", buffer, 2)
    require_count("table", table.shape[0])
    require_count("buffer", buffer.shape[0])
    width = buffer.shape[1]
    require_same("the widths", table=table.shape[1], buffer=width, newline=width if newline is None else newline.shape[-1])
    assert buffer.stride(1) == 1 or width <= 1, "a buffer is written in place: neighbours in a row must be neighbours in memory"
    newlines, blanks = (0 if seats is None else seats.shape[0] for seats in (newline_seats, blank_seats))
    if newlines and newline is None:
        raise KernelInputError(f"found {newlines} newline seats and no newline row; expected one")
    total = seats.shape[0] + newlines + blanks
    if total == 0 or width == 0:
        return
    table = contiguous_rows(table)
    rows, columns = blocks_of(width)
    launch(
        embed_kernel,
        (blocks(total, rows), blocks(width, columns)),
        table,
        table if newline is None else contiguous_rows(newline),  # not read without newlines
        index_strided(ids),
        index_strided(seats),
        seats if newline_seats is None else index_strided(newline_seats),
        seats if blank_seats is None else index_strided(blank_seats),
        buffer,
        seats.shape[0],
        newlines,
        blanks,
        table.shape[0],
        buffer.shape[0],
        width,
        table.stride(0),
        buffer.stride(0),
        NEWLINES=newlines > 0,
        BLANKS=blanks > 0,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=WARPS,
        on=buffer,
    )


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
    """Tables and buffers of one dtype and of two, at a wide and at an odd width, with all lists and with text alone."""
    return [
        _case(torch.bfloat16, torch.bfloat16, 4096, everything=True),
        _case(torch.float32, torch.bfloat16, 4096, everything=False),
        _case(torch.float32, torch.float32, 341, everything=True),
    ]


def _case(read: torch.dtype, written: torch.dtype, width: int, *, everything: bool) -> AheadCase:
    rows, columns = blocks_of(width)
    source, target, size = f"*{TRITON_NAMES[read]}", f"*{TRITON_NAMES[written]}", "i32" if width % 16 else "i32:16"
    signature = {"table": source, "newline": source, "result": target}
    signature |= {"ids": "*i64", "seats": "*i64", "newline_seats": "*i64", "blank_seats": "*i32"}
    signature |= dict.fromkeys(_COUNTS, "i32") | dict.fromkeys(["width", "table_stride", "result_stride"], size)
    constants = {"NEWLINES": everything, "BLANKS": everything, "ROWS": rows, "COLUMNS": columns}
    return AheadCase(f"embed_into: {read} to {written}, width {width}", embed_kernel, signature, constants, WARPS, 1)
