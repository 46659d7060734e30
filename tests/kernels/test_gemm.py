"""What products share: every tile once, quarters in their order, no more tiles than can be counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL, _resident, corner, launch_product, quarters, tiles_of


@triton.jit
def _corners(result, num_rows, num_columns, block_m: tl.constexpr, block_n: tl.constexpr):
    m, n = corner(tl.program_id(0), num_rows, num_columns, block_m, block_n)
    tl.store(result + tl.program_id(0) * 2, m)
    tl.store(result + tl.program_id(0) * 2 + 1, n)


@triton.jit
def _quarters(result, rows: tl.constexpr, columns: tl.constexpr):
    block = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    part: tl.constexpr = columns // 4
    places = result + tl.arange(0, rows)[:, None] * part + tl.arange(0, part)[None, :]
    first, second, third, fourth = quarters(block, rows, columns)
    tl.store(places, first)
    tl.store(places + rows * part, second)
    tl.store(places + 2 * rows * part, third)
    tl.store(places + 3 * rows * part, fourth)


@triton.jit
def _tiles(result, size, block: tl.constexpr):
    tl.store(result, tiles_of(size, block))


def run(kernel: Any, programs: int, *arguments: Any) -> None:
    kernel[(programs,)](*arguments)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (256, 128), (257, 129), (70, 200), (330, 90)])
def test_every_tile_once(rows, columns, home):
    tiles_m, tiles_n = triton.cdiv(rows, 32), triton.cdiv(columns, 64)
    result = torch.full((tiles_m * tiles_n, 2), -1, dtype=torch.int32, device=home)
    run(_corners, tiles_m * tiles_n, result, rows, columns, 32, 64)
    found = [tuple(pair) for pair in result.tolist()]
    assert sorted(found) == [(m * 32, n * 64) for m in range(tiles_m) for n in range(tiles_n)]
    assert [m // 32 for m, _ in found[: min(8, tiles_m)]] == list(range(min(8, tiles_m)))  # down a group, then to the right


def test_quarters_from_left_to_right(home):
    result = torch.empty(4, 16, 8, dtype=torch.int32, device=home)
    run(_quarters, 1, result, 16, 32)
    assert torch.equal(torch.cat(list(result), 1), torch.arange(512, dtype=torch.int32, device=home).view(16, 32))


@pytest.mark.parametrize(("size", "tiles"), [(1, 1), (64, 1), (65, 2), (2**31 - 1, 2**25)])
def test_tiles_are_counted_up_to_the_end_of_int32(size, tiles, home):
    result = torch.zeros(1, dtype=torch.int32, device=home)
    run(_tiles, 1, result, size, 64)
    assert result.item() == tiles


def test_too_many_tiles_are_refused():
    with pytest.raises(KernelInputError, match=r"tiles; "):
        launch_product(None, SMALL, (2**31 - 1, 2**20, 64), on=torch.empty(0))


def test_how_many_programs_a_multiprocessor_holds():
    """228 KiB of shared memory, a little of it reserved for each program."""
    assert {str(tile): _resident(tile) for tile in (*CANDIDATES, SMALL)} == {
        "128x256x64 w8 s3": 1,
        "128x128x64 w8 s4": 1,
        "64x256x64 w8 s4": 1,
        "64x128x64 w4 s4": 2,
        "32x64x32 w4 s2": 2,
    }
