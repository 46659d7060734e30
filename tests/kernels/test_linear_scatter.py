"""linear_scatter: each row at its seat as exact as torch's layer, nothing else touched; captured on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llava_kit_kernels.ops import linear_scatter as module
from llava_kit_kernels.ops.ahead import MOST_SHARED
from llava_kit_kernels.ops.choices import CUBLAS, Choice
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_scatter import linear_scatter

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALLEST = Choice(SMALL)
BOTH = pytest.mark.parametrize("choice", [SMALLEST, CUBLAS], ids=str)
# M, N, K: one of all; tails of rows, columns and depth; columns that end in each quarter of a tile of 64.
SHAPES = [(1, 1, 1), (41, 90, 41), (33, 65, 341), (72, 160, 96), (5, 341, 41), (8, 10, 32), (8, 20, 32), (8, 55, 32)]


def framed(rows: int, columns: int, device: str, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    """A random matrix inside a larger one that holds no numbers: what reads too far shows."""
    frame = torch.full((rows + 5, columns + 7), float("nan"), dtype=dtype, device=device)
    frame[2 : 2 + rows, 3 : 3 + columns] = torch.randn(rows, columns, device=device).mul_(scale).to(dtype)
    return frame[2 : 2 + rows, 3 : 3 + columns]


def layer(m: int, n: int, k: int, device: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(m + n + k)
    bias = torch.randn(n, device=device).mul_(0.1).to(dtype)
    return framed(m, k, device, dtype), framed(n, k, device, dtype, scale=k**-0.5), bias


def some_seats(rows: int, places: int, device: str) -> torch.Tensor:
    """Distinct seats in no order; where there are rows enough, some that are not in the buffer."""
    seats = torch.randperm(places, device=device)[:rows].int()
    outside = torch.tensor([-1, places, -(2**31), 2**31 - 1], dtype=torch.int32, device=device)
    if rows > 4:
        seats[torch.randperm(rows, device=device)[:4]] = outside
    return seats


def exact(x, weight, bias):
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found.double() - expected).abs().max().item()


def within(found, torchs, expected) -> bool:
    """At most one and a half times as wrong as torch, or as one rounding to the dtype where torch has luck."""
    rounding = torch.finfo(found.dtype).eps * expected.abs().max().item()
    return error(found, expected) <= max(1.5 * error(torchs, expected), rounding)


@BOTH
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_rows_at_their_seats_and_nothing_else(choice, m, n, k, home):
    x, weight, bias = layer(m, n, k, home)
    seats = some_seats(m, m + 20, home)
    frame = torch.full((m + 26, n + 9), 7.0, device=home)
    buffer = frame[3 : 3 + m + 20, 4 : 4 + n]  # rows lie further apart than they are wide
    linear_scatter(x, weight, bias, seats, buffer, choice)
    inside = (seats >= 0) & (seats < m + 20)
    seats = seats.long()
    assert within(buffer[seats[inside]], F.linear(x, weight, bias)[inside], exact(x, weight, bias)[inside])
    untouched = frame.clone()
    untouched[3 + seats[inside], 4 : 4 + n] = 7.0
    assert torch.equal(untouched, torch.full_like(frame, 7.0))
    again = frame.clone()[3 : 3 + m + 20, 4 : 4 + n]
    linear_scatter(x, weight, bias, seats, again, choice)
    assert torch.equal(again, buffer)


@pytest.mark.parametrize("tile", CANDIDATES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_candidate(tile, dtype, home, poisoned):
    x, weight, bias = layer(70, 90, 41, home, dtype)
    seats, buffer = torch.randperm(70, device=home), poisoned(70, 90, dtype)
    linear_scatter(x, weight, bias, seats, buffer, Choice(tile))
    assert within(buffer[seats], F.linear(x, weight, bias), exact(x, weight, bias))


@BOTH
def test_a_buffer_of_another_dtype(choice, home, poisoned):
    x, weight, bias = layer(20, 30, 16, home)
    seats, buffer = torch.arange(20, device=home), poisoned(20, 30, torch.bfloat16)
    linear_scatter(x, weight, bias, seats, buffer, choice)
    torch.testing.assert_close(buffer, F.linear(x, weight, bias).bfloat16(), rtol=2**-7, atol=1e-6)


@BOTH
def test_without_a_bias_and_seats_that_do_not_follow_one_another(choice, home, poisoned):
    x, weight, _ = layer(20, 30, 16, home)
    seats, buffer = torch.arange(40, device=home)[::2], poisoned(40, 30)
    linear_scatter(x, weight, None, seats, buffer, choice)
    assert within(buffer[::2], F.linear(x, weight), exact(x, weight, None))
    assert buffer[1::2].isnan().all()


@BOTH
@pytest.mark.parametrize(("m", "n", "places"), [(0, 5, 4), (4, 5, 0), (4, 0, 4)])
def test_nothing_to_do(choice, m, n, places, home, poisoned):
    x, weight, buffer = torch.randn(m, 3, device=home), torch.randn(n, 3, device=home), poisoned(places, n)
    linear_scatter(x, weight, None, torch.arange(m, device=home) + 4 * (places == 0), buffer, choice)
    if m == 0:
        assert buffer.isnan().all()


def test_cublas_unless_measured(home, tmp_path, monkeypatch, poisoned):
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path))
    x, weight, bias = layer(40, 70, 32, home)
    buffer = poisoned(40, 70)
    linear_scatter(x, weight, bias, torch.arange(40, device=home), buffer)
    assert torch.equal(buffer, F.linear(x, weight, bias))


def test_what_it_cannot_take(home):
    x, weight, bias = torch.randn(4, 6, device=home), torch.randn(5, 6, device=home), torch.randn(5, device=home)
    seats, buffer = torch.arange(4, device=home), torch.zeros(9, 5, device=home)
    with pytest.raises(KernelInputError, match="4 in `x`, 3 in `seats`"):
        linear_scatter(x, weight, bias, seats[:3], buffer)
    with pytest.raises(KernelInputError, match="5 in `weight`, 9 in `buffer`"):
        linear_scatter(x, weight, bias, seats, buffer.t())
    with pytest.raises(KernelInputError, match=r"\[1, 9\]; expected 1 last"):
        linear_scatter(x, weight, bias, seats, torch.zeros(5, 9, device=home).t())
    with pytest.raises(KernelInputError, match="float32; an index is"):
        linear_scatter(x, weight, bias, seats.float(), buffer)
    with pytest.raises(KernelInputError, match="6 in `x`, 5 in `weight`"):
        linear_scatter(x, weight[:, :5], bias, seats, buffer)


def test_all_forms_fit_hopper(usage):
    found = usage(module)
    assert len(found) == 6
    for name, used in found.items():
        assert used.stack == 0, f"{name} spills: {used}"
        assert used.shared <= MOST_SHARED, f"{name}: {used}"
        assert used.has_wgmma == (" fp32 " not in name), f"{name}: {used}"


def of_order(expected: torch.Tensor, dtype: torch.dtype, depth: int) -> float:
    """What a float32 sum of `depth` may lose in one part, as ours, where cuBLAS adds in several; TF32 loses 50 times more."""
    return torch.finfo(dtype).eps * depth**0.5 / 2 * expected.abs().max().item() if dtype == torch.float32 else 0.0


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_real_shapes(dtype):
    x, weight, bias = (tensor.contiguous() for tensor in layer(1000, 4096, 4096, "cuda", dtype))
    seats = torch.randperm(1500, device="cuda")[:1000].int()
    torchs, expected = F.linear(x, weight, bias), exact(x, weight, bias)
    tiles = (SMALL,) if dtype == torch.float32 else CANDIDATES
    for choice in [CUBLAS, *map(Choice, tiles)]:
        buffer = torch.full((1500, 4096), float("nan"), dtype=dtype, device="cuda")
        linear_scatter(x, weight, bias, seats, buffer, choice)
        most = 1.5 * error(torchs, expected) + of_order(expected, dtype, 4096)
        assert error(buffer[seats.long()], expected) <= most, str(choice)
        assert buffer.isnan().all(1).sum() == 500, str(choice)
        again = torch.full_like(buffer, 0.0)
        linear_scatter(x, weight, bias, seats, again, choice)
        assert torch.equal(again, buffer.nan_to_num(nan=0.0)), str(choice)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("choice", [CUBLAS, Choice(CANDIDATES[0])], ids=str)
def test_waits_for_nothing_and_is_captured(choice):
    x, weight, bias = (tensor.contiguous() for tensor in layer(576, 4096, 4096, "cuda", torch.bfloat16))
    seats, buffer = torch.arange(576, device="cuda"), torch.zeros(700, 4096, dtype=torch.bfloat16, device="cuda")
    linear_scatter(x, weight, bias, seats, buffer, choice)
    expected = buffer.clone()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_scatter(x, weight, bias, seats, buffer, choice)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        linear_scatter(x, weight, bias, seats, buffer, choice)
    buffer.zero_()
    graph.replay()
    assert torch.equal(buffer, expected)
