"""scatter_rows: every row on its seat and no other row of the buffer touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.scatter_rows import scatter_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([1, 41, 341, 1100]), st.integers(0, 99))
def test_any_size(home, poisoned, num_rows, spare, width, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, width, generator=generator).to(home)
    seats = torch.randperm(num_rows + spare, generator=generator)[:num_rows].to(home)
    buffer = poisoned(num_rows + spare, width)
    scatter_rows(rows, seats, buffer)
    assert torch.equal(buffer[seats], rows)
    assert buffer.isnan().all(1).sum() == spare


@pytest.mark.parametrize("seat_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(home, poisoned, dtype, seat_dtype):
    rows = torch.randn(4, 41, device=home).to(dtype)
    buffer = poisoned(4, 41, dtype)
    scatter_rows(rows, torch.tensor([3, 1, 0, 2], device=home, dtype=seat_dtype), buffer)
    assert torch.equal(buffer, rows[[2, 1, 3, 0]])
    wide = poisoned(4, 41)
    scatter_rows(rows, torch.arange(4, device=home, dtype=seat_dtype), wide)
    assert torch.equal(wide, rows.float())


def test_seats_outside_are_not_written(home, poisoned):
    frame = poisoned(6, 41)
    scatter_rows(torch.ones(5, 41, device=home), torch.tensor([-1, 2, 4, 2**31 - 1, -(2**31)], device=home), frame[1:5])
    assert frame.isnan().all(1).tolist() == [True, True, True, False, True, True]


def test_a_list_of_seats_that_are_apart(home, poisoned):
    rows, seats = torch.randn(3, 41, device=home), torch.tensor([2, 9, 0, 9, 1, 9], device=home)[::2]
    buffer = poisoned(3, 41)
    scatter_rows(rows, seats, buffer)
    assert torch.equal(buffer[seats], rows)


def test_wrong_input_is_refused(home, poisoned):
    rows, seats = torch.randn(2, 41, device=home), torch.tensor([1, 2], device=home)
    for arguments, message in [
        ((rows, seats[:1], poisoned(3, 41)), r"the counts do not agree: 2 in `rows`, 1 in `seats`"),
        ((rows[:, 1:], seats, poisoned(3, 41)), r"40 in `source`, 41 in `buffer`"),
        ((rows[None], seats, poisoned(3, 41)), r"`rows` has the shape \[1, 2, 41\]; expected 2"),
        ((rows, seats.half(), poisoned(3, 41)), r"`seats` is torch.float16; an index is int32 or int64"),
        ((rows, seats, poisoned(3, 41).double()), r"`result` is torch.float64"),
        ((rows, seats, poisoned(1, 41).expand(2**31, 41)), r"`the buffer` has 2,147,483,648 rows"),
        ((rows, seats.to("meta"), poisoned(3, 41)), r"several devices"),
    ]:
        with pytest.raises(KernelInputError, match=message):
            scatter_rows(*arguments)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu_nothing_waits_and_a_graph_captures(dtype):
    rows = torch.randn(4608, 4096, device="cuda", dtype=dtype)
    seats = torch.randperm(7000, device="cuda")[:4608]
    buffer = torch.full((7000, 4096), float("nan"), device="cuda", dtype=dtype)
    scatter_rows(rows, seats, buffer)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        scatter_rows(rows, seats, buffer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scatter_rows(rows, seats, buffer)
    buffer.fill_(float("nan"))
    graph.replay()
    assert torch.equal(buffer[seats], rows)
    assert buffer.isnan().all(1).sum() == 7000 - 4608
