"""Sums of rows in a fixed order, so that two runs are bit-equal: the gradients of the embedding table and of the newline.

T rows of D; L or X seats of rows that are summed; G groups of seats, each summed by one program in float32; U tokens of one or
more groups.
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
    contiguous_rows,
    index_strided,
    launch,
    require_count,
    require_device,
    require_dtype,
    require_floats,
    require_indices,
    require_rank,
)

WARPS = 4
ROWS, COLUMNS = 8, 512  # 4,096 elements a block: most tokens have less than eight seats, and are summed in one go
# A list without groups is cut into groups of so many seats: 288 newlines of eight pictures of 4,096 are 72 programs.
UNBOUND_GROUP = 32
_COUNTS = ["num_rows", "num_seats", "num_targets"]


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=["seats", "bounds", "targets"])
def sum_kernel(
    rows,
    seats,
    bounds,
    targets,
    result,
    num_rows,
    num_seats,
    num_targets,
    group,
    width,
    row_stride,
    BY_SEAT: tl.constexpr,  # entry i of a segment is row seats[i], else row i
    BOUND: tl.constexpr,  # segment s has the entries bounds[s] to bounds[s + 1], else `group` entries from s * group
    TARGETED: tl.constexpr,  # its sum goes to row targets[s] of the result, else to row s
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """result[target of s] = sum over the entries of segment s, in float32: every ROWS-th entry first, then those ROWS sums."""
    segment = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if BOUND:
        begin = tl.maximum(tl.load(bounds + segment).to(tl.int64), 0)
        end = tl.minimum(tl.load(bounds + segment + 1).to(tl.int64), num_seats)
    else:
        begin = segment * group
        end = tl.minimum(begin + group, num_seats)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = begin
    while first < end:  # not `range`: the interpreter of Triton 3.6 cannot count with scalars under a new NumPy
        entries = first + tl.arange(0, ROWS)
        inside = entries < end
        seat = entries
        if BY_SEAT:
            seat = tl.load(seats + entries, mask=inside, other=-1)
        inside = inside & (seat >= 0) & (seat < num_rows)
        start = tl.where(inside, seat, 0).to(tl.int64) * row_stride
        readable = inside[:, None] & (columns < width)[None, :]
        total += tl.load(rows + start[:, None] + columns[None, :], mask=readable, other=0.0).to(tl.float32)
        first += ROWS
    target = segment
    if TARGETED:
        target = tl.load(targets + segment).to(tl.int64)
    to_write = tl.where((target >= 0) & (target < num_targets), width, 0)
    tl.store(result + target * width + columns, tl.sum(total, 0).to(result.dtype.element_ty), mask=columns < to_write)


def sum_segments(
    rows: Tensor,
    seats: Tensor | None,
    bounds: Tensor | None,
    targets: Tensor | None,
    result: Tensor,
    num_segments: int,
    group: int = UNBOUND_GROUP,
) -> None:
    """Row `targets[s]` of `result` [_, D] = sum of the rows `seats[bounds[s]:bounds[s + 1]]` of `rows` [T, D].

    None: row s; rows by number; segments of `group`. What is out of range adds nothing and is not written.
    """
    width = rows.shape[1]
    if num_segments == 0 or width == 0:
        return
    num_entries = rows.shape[0] if seats is None else seats.shape[0]
    unused = result  # a pointer that the kernel does not follow
    launch(
        sum_kernel,
        (num_segments, blocks(width, COLUMNS)),
        rows,
        unused if seats is None else index_strided(seats),
        unused if bounds is None else index_strided(bounds),
        unused if targets is None else index_strided(targets),
        result,
        rows.shape[0],
        num_entries,
        result.shape[0],
        group,
        width,
        rows.stride(0),
        BY_SEAT=seats is not None,
        BOUND=bounds is not None,
        TARGETED=targets is not None,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        num_warps=WARPS,
        on=result,
    )


def sum_rows(grad: Tensor, seats: Tensor, dtype: torch.dtype) -> Tensor:
    """grad [T, D], seats [L] -> the sum of the rows on these seats, [D] in `dtype`; seats outside `grad` add nothing.

    Groups of seats are summed side by side, then their sums, until one is left. Raises `KernelInputError`.
    """
    require_device(grad, seats)
    require_floats(grad=grad)
    require_dtype("the result", dtype)
    require_indices(seats=seats)
    require_rank("grad", grad, 2)
    require_count("grad", grad.shape[0])
    rows, entries, left = contiguous_rows(grad), seats, seats.shape[0]
    if left == 0:
        return grad.new_zeros(grad.shape[1], dtype=dtype)
    while True:
        groups = blocks(left, UNBOUND_GROUP)
        sums = grad.new_empty(groups, grad.shape[1], dtype=dtype if groups == 1 else torch.float32)
        sum_segments(rows, entries, None, None, sums, groups)
        if groups == 1:
            return sums[0]
        rows, entries, left = sums, None, groups


def sum_groups(
    grad: Tensor,
    seats: Tensor,
    group_bounds: Tensor,
    target_bounds: Tensor,
    targets: Tensor,
    num_targets: int,
    dtype: torch.dtype,
) -> Tensor:
    """grad [T, D] -> [num_targets, D] in `dtype`: row `targets[u]` is the sum of its groups of seats, all others are zeros.

    The legend of `embed_gradient` has the lists. Groups are summed first, in float32, then the groups of each target. Raises
    `KernelInputError`.
    """
    require_device(grad, seats, group_bounds, target_bounds, targets)
    require_floats(grad=grad)
    require_dtype("the result", dtype)
    require_indices(seats=seats, group_bounds=group_bounds, target_bounds=target_bounds, targets=targets)
    require_rank("grad", grad, 2)
    require_count("grad", grad.shape[0])
    require_count("the result", num_targets)
    if group_bounds.shape[0] < 1 or target_bounds.shape[0] != targets.shape[0] + 1:
        raise KernelInputError(
            f"{targets.shape[0]} targets, {target_bounds.shape[0]} bounds of theirs and {group_bounds.shape[0]} of groups; "
            "expected one bound more than there are targets, and one more than there are groups"
        )
    rows = contiguous_rows(grad)
    groups = group_bounds.shape[0] - 1
    result = grad.new_zeros(num_targets, grad.shape[1], dtype=dtype)
    sums = grad.new_empty(groups, grad.shape[1], dtype=torch.float32)
    sum_segments(rows, seats, group_bounds, None, sums, groups)
    sum_segments(sums, None, target_bounds, targets, result, targets.shape[0])
    return result


def ahead_of_time() -> list[AheadCase]:
    """Both passes."""
    return [
        _case("sum of groups", "bf16", "fp32", BY_SEAT=True, BOUND=True),
        _case("sum of a token's groups", "fp32", "bf16", BOUND=True, TARGETED=True),
        _case("sum of a list", "bf16", "fp32", BY_SEAT=True),
        _case("sum of a list's sums", "fp32", "fp32"),
    ]


def _case(name: str, read: str, written: str, **flags: bool) -> AheadCase:
    constants = {"BY_SEAT": False, "BOUND": False, "TARGETED": False, "ROWS": ROWS, "COLUMNS": COLUMNS} | flags
    signature = {"rows": f"*{read}", "seats": "*i32", "bounds": "*i32", "targets": "*i32", "result": f"*{written}"}
    signature |= dict.fromkeys([*_COUNTS, "group"], "i32") | dict.fromkeys(["width", "row_stride"], "i32:16")
    return AheadCase(f"{name}: {read} to {written}", sum_kernel, signature, constants, WARPS, 1)
