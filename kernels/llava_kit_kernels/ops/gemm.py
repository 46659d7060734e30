"""What the matrix products share: how tiles follow one another, the product of one tile, its halves, checks and launch.

M rows, N columns, K contracted: [M, K] times [K, N]. Every product adds up in float32, in one fixed order (no split of K).

Found by compiling for sm_90 with Triton 3.9, 3.6 being much alike (`ahead.py`; 128x256x64, 8 warps, 3 stages, bfloat16;
registers of a thread / bytes of its stack, where more than 0 means that registers spill):

- The sums leave in four quarters, one after the other: 216 / 0 for GELU by erf, 240 / 0 by tanh, 217 / 0 with z read beside the
  sums (`linear_dgelu`). In two halves these were 250 / 0, 255 / 16 and 255 / 128; at once GELU by erf spills 72 to 104 bytes.
- The offset of a tile is one int64, offsets inside it are int32; with an int64 for each row halves took 33 registers more.
- Tiles are read through pointers: all candidates use wgmma, 144 KiB of shared memory, and any K and row stride will do. TMA
  descriptors want rows of whole 16 bytes and a global allocator; what they would gain can only be measured on a GPU.
- `flatten=True`, which overlaps the end of one tile with the start of the next, spills 96 bytes; it is not used.

In float32 factors are not rounded (`input_precision="ieee"`, no tensor cores): users of float32 expect float32. No candidate
for tuning is made for that, cuBLAS does it better; `SMALL` runs it all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import (
    INTERPRETED,
    TRITON_NAMES,
    AheadCase,
    KernelInputError,
    blocks,
    launch,
    require_count,
    require_device,
    require_floats,
    require_rank,
    require_same,
)


class Tile(NamedTuple):
    """How a product is cut: the block of one program and how it is run."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"{self.block_m}x{self.block_n}x{self.block_k} w{self.num_warps} s{self.num_stages}"


# Sizes for Hopper that do not spill; 128x128 with 4 warps takes 255 registers and 152 bytes of stack.
CANDIDATES = (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 256, 64, 8, 4), Tile(64, 128, 64, 4, 4))
# For float32, and for the interpreter, which pays for each number.
SMALL = Tile(32, 64, 32, 4, 2)
TILES = (*CANDIDATES, SMALL)

# Tiles of so many rows share their columns of the weight while they are in the L2 cache.
GROUP_M = tl.constexpr(8)
# How the weight lies: [N, K], as of torch.nn.Linear, or [K, N].
TURNED = tl.constexpr(True)
STRAIGHT = tl.constexpr(False)
# The interpreter multiplies bfloat16 wrongly, without a word (Triton 3.9); float32 is right.
UPCAST = tl.constexpr(INTERPRETED)
# Numbers that change from step to step: one form of a kernel serves them all, whatever they can be divided by.
COUNTS = ["num_rows", "num_seats"]
# Offsets inside a tile are int32, and no tile has more rows than this.
_MOST_TILE_ROWS = 256
# So that the interpreter too walks over several tiles in one program.
_INTERPRETED_PROGRAMS = 3


@triton.jit
def tiles_of(size, block: tl.constexpr):
    """Tiles that cover `size` >= 1; unlike `cdiv` it does not pass 2^31 where size does not."""
    return (size - 1) // block + 1


@triton.jit
def corner(tile, num_rows, num_columns, block_m: tl.constexpr, block_n: tl.constexpr):
    """First row and first column of a tile, in groups of `GROUP_M` tiles of rows."""
    tiles_m = tiles_of(num_rows, block_m)
    tiles_n = tiles_of(num_columns, block_n)
    first = tile // (tiles_n * GROUP_M) * GROUP_M
    size = tl.minimum(tiles_m - first, GROUP_M)
    inside = tile % (tiles_n * GROUP_M)
    return (first + inside % size) * block_m, inside // size * block_n


@triton.jit
def product(
    x, weight, m, n, num_rows, num_columns, depth, x_stride, weight_stride,
    turned: tl.constexpr, even: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """Sums [block_m, block_n] in float32 of the tile at (m, n): x [M, K] times weight [N, K] if `turned`, else [K, N].

    Rows past the end are the last row once more, so that they need no mask: what comes of them is not stored.
    `even`: K is a multiple of block_k, nothing of it needs a mask.
    """
    steps = tl.arange(0, block_k)
    columns = tl.arange(0, block_n)
    rows = tl.minimum(tl.arange(0, block_m), num_rows - 1 - m)
    x_block = x + m.to(tl.int64) * x_stride + (rows[:, None] * x_stride + steps[None, :])
    if turned:
        columns = tl.minimum(columns, num_columns - 1 - n)
        weight_block = weight + n.to(tl.int64) * weight_stride + (columns[None, :] * weight_stride + steps[:, None])
        step = block_k
    else:
        weight_block = weight + n + (steps[:, None] * weight_stride + columns[None, :])
        step = block_k * tl.cast(weight_stride, tl.int64)  # a stride of 1 is a constant, which has no `to`
    sums = tl.zeros((block_m, block_n), tl.float32)
    for k in range(0, depth, block_k):
        inside = steps < depth - k
        if even:
            left = tl.load(x_block)
        else:
            left = tl.load(x_block, mask=inside[None, :], other=0.0)
        if turned and even:
            right = tl.load(weight_block)
        elif turned:
            right = tl.load(weight_block, mask=inside[:, None], other=0.0)
        elif even:
            right = tl.load(weight_block, mask=(columns < num_columns - n)[None, :], other=0.0)
        else:
            right = tl.load(weight_block, mask=inside[:, None] & (columns < num_columns - n)[None, :], other=0.0)
        if UPCAST:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        sums = tl.dot(left, right, sums, input_precision="ieee")
        x_block += block_k
        weight_block += step
    return sums


@triton.jit
def halves(block, rows: tl.constexpr, columns: tl.constexpr):
    """The left and the right half of a block [rows, columns]."""
    return tl.split(tl.permute(tl.reshape(block, (rows, 2, columns // 2)), (0, 2, 1)))


@triton.jit
def quarters(block, rows: tl.constexpr, columns: tl.constexpr):
    """The four blocks [rows, columns / 4] of a block, from left to right."""
    half: tl.constexpr = columns // 2
    left, right = halves(block, rows, columns)
    first, second = halves(left, rows, half)
    third, fourth = halves(right, rows, half)
    return first, second, third, fourth


@triton.jit
def window(pointer, m, n, stride, rows: tl.constexpr, columns: tl.constexpr):
    """Pointers to the elements [rows, columns] at (m, n) of a matrix."""
    return pointer + m.to(tl.int64) * stride + (tl.arange(0, rows)[:, None] * stride + (n + tl.arange(0, columns))[None, :])


@triton.jit
def inside_of(m, n, num_rows, num_columns, rows: tl.constexpr, columns: tl.constexpr):
    """Which elements of the window [rows, columns] at (m, n) belong to the matrix."""
    return (tl.arange(0, rows) < num_rows - m)[:, None] & (tl.arange(0, columns) < num_columns - n)[None, :]


@triton.jit
def add_bias(sums, bias, n, num_columns, columns: tl.constexpr):
    """Adds the bias, a pointer or None, in float32."""
    if bias is not None:
        here = tl.arange(0, columns)
        sums += tl.load(bias + n + here, mask=here < num_columns - n, other=0.0).to(tl.float32)[None, :]
    return sums


def check_operands(x: Tensor, weight: Tensor, bias: Tensor | None, **others: Tensor) -> None:
    """Raises `KernelInputError` unless all lie on one device that runs kernels and have the rank and dtype of a product."""
    require_device(x, weight, bias, *others.values())
    matrices = {"x": x, "weight": weight, **others}
    for name, tensor in matrices.items():
        require_rank(name, tensor, 2)
        require_count(name, tensor.shape[0])
    require_floats(**matrices, bias=bias)
    if bias is not None:
        require_rank("bias", bias, 1)
        require_same("columns", weight=weight.shape[0], bias=bias.shape[0])
    found = {name: tensor.dtype for name, tensor in {"x": x, "weight": weight, "bias": bias}.items() if tensor is not None}
    if len(set(found.values())) > 1:
        told = ", ".join(f"`{name}` is {dtype}" for name, dtype in found.items())
        raise KernelInputError(f"{told}; expected one dtype, as torch.nn.functional.linear does")


def row_stride(name: str, tensor: Tensor) -> int:
    """Elements from one row to the next; raises `KernelInputError` where offsets inside a tile would pass 2^31."""
    stride = tensor.stride(0) if tensor.shape[0] > 1 else tensor.shape[1]
    if abs(stride) * _MOST_TILE_ROWS >= 2**31:
        raise KernelInputError(
            f"rows of `{name}` lie {stride:,} elements apart; kernels take less than {2**31 // _MOST_TILE_ROWS:,}"
        )
    return stride


def launch_product(kernel: Any, tile: Tile, size: tuple[int, int, int], *arguments: Any, on: Tensor) -> None:
    """Runs `kernel(*arguments)` for a product of `size` (M, N, K) with as many programs as the device holds at once."""
    num_rows, num_columns, depth = size
    tiles = blocks(num_rows, tile.block_m) * blocks(num_columns, tile.block_n)
    if tiles == 0:
        return
    if tiles >= 2**30:
        raise KernelInputError(
            f"a product of {num_rows:,} rows and {num_columns:,} columns is {tiles:,} tiles; at most {2**30:,}"
        )
    launch(
        kernel,
        (min(tiles, _programs(on.device) * _resident(tile)),),
        *arguments,
        on=on,
        even=depth % tile.block_k == 0,
        block_m=tile.block_m,
        block_n=tile.block_n,
        block_k=tile.block_k,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


@functools.cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _resident(tile: Tile) -> int:
    """Programs that fit a multiprocessor of Hopper at once: its shared memory holds the stages of two small tiles."""
    stages = tile.num_stages * (tile.block_m + tile.block_n) * tile.block_k * 2
    return 2 if stages <= 113 * 1024 else 1


def ahead_cases(op: str, kernel: Any, pointers: Mapping[str, str], **constants: Any) -> list[AheadCase]:
    """All tiles in bfloat16, the largest in float16, the small one in float32, as LLaVA's widths launch them: multiples of 16.

    `pointers` holds the kernel's own pointer arguments; "" stands for the dtype of the product.
    """
    forms = [*((tile, torch.bfloat16) for tile in CANDIDATES), (CANDIDATES[0], torch.float16), (SMALL, torch.float32)]
    return [
        ahead_case(f"{op} {TRITON_NAMES[dtype]} {tile}", kernel, tile, dtype, pointers, **constants) for tile, dtype in forms
    ]


def ahead_case(
    name: str, kernel: Any, tile: Tile, dtype: torch.dtype, pointers: Mapping[str, str], **constants: Any
) -> AheadCase:
    """One form of a kernel of this module's family: every argument that is no pointer and no constant counts something."""
    blocks = {"even": True, "block_m": tile.block_m, "block_n": tile.block_n, "block_k": tile.block_k}
    fixed = {**blocks, **constants}
    kinds = {parameter: "i32" if parameter in COUNTS else "i32:16" for parameter in kernel.arg_names}
    kinds |= {pointer: f"*{kind or TRITON_NAMES[dtype]}" for pointer, kind in pointers.items()}
    kinds |= dict.fromkeys(fixed, "constexpr")
    return AheadCase(name, kernel, kinds, fixed, tile.num_warps, tile.num_stages, dtype != torch.float32)
