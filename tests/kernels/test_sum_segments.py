"""sum_rows: the sum over a list of seats, in an order that never changes. (Groups of tokens: test_embed_into.py.)"""

from __future__ import annotations

import pytest
import torch

from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.sum_segments import UNBOUND_GROUP, sum_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# None, one, one group, one more, and so many that the sums of groups make groups themselves.
COUNTS = [0, 1, UNBOUND_GROUP, UNBOUND_GROUP + 1, UNBOUND_GROUP**2 + 5]


def ulps(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest distance to the float64 sum, in units of the last place of the result's dtype."""
    ulp = torch.finfo(found.dtype).eps * 2.0 ** expected.abs().log2().floor()
    return ((found.double() - expected).abs() / ulp).max().item()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("width", [1, 41, 600])
def test_sum_of_a_list(home, count, width):
    grad = torch.rand(count + 7, width) + 1  # of one sign, so that an error in units of the last place means something
    seats = torch.randperm(count + 7)[:count]
    expected = grad.double()[seats].sum(0)
    found = sum_rows(grad.to(home), seats.to(home).int(), torch.float32)
    assert found.shape == (width,)
    if count:
        assert ulps(found.cpu(), expected) <= 2 + count / 32  # eight sums side by side, each of count / groups / 8 terms
    else:
        assert not found.any()
    assert torch.equal(found, sum_rows(grad.to(home), seats.to(home).int(), torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(home, dtype):
    grad = (torch.rand(300, 64) + 1).to(dtype)
    found = sum_rows(grad.to(home), torch.arange(300, device=home), dtype)
    assert found.dtype == dtype
    assert ulps(found.cpu(), grad.double().sum(0)) <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_of_groups_are_float32(home, dtype):
    grad = torch.zeros(2 * UNBOUND_GROUP, 41, device=home, dtype=dtype)
    grad[0], grad[1], grad[UNBOUND_GROUP] = 1024, 0.125, -1024
    found = sum_rows(grad, torch.arange(2 * UNBOUND_GROUP, device=home), dtype)
    assert found.unique().tolist() == [0.125]


def test_a_seat_named_twice_counts_twice_and_one_outside_not_at_all(home):
    grad = torch.randn(5, 41, device=home)
    seats = torch.tensor([2, -1, 5, 2, 2**31 - 1], device=home)
    assert torch.equal(sum_rows(grad, seats, torch.float32), grad[2] * 2)


def test_a_gradient_with_gaps_between_its_rows(home):
    grad = torch.randn(6, 2, 41, device=home)[:, 1]
    seats = torch.tensor([4, 0], device=home)
    assert torch.equal(sum_rows(grad, seats, torch.float32), grad[4] + grad[0])
    turned = torch.randn(41, 6, device=home).T
    assert torch.equal(sum_rows(turned, seats, torch.float32), turned[4] + turned[0])


def test_wrong_input_is_refused(home):
    grad, seats = torch.randn(5, 41, device=home), torch.tensor([1, 2], device=home)
    for arguments, message in [
        ((grad[0], seats, torch.float32), r"`grad` has the shape \[41\]; expected 2"),
        ((grad.double(), seats, torch.float32), r"`grad` is torch.float64"),
        ((grad, seats.float(), torch.float32), r"`seats` is torch.float32; an index is int32 or int64"),
        ((grad, seats, torch.int32), r"`the result` is torch.int32"),
        ((grad, seats.to("meta"), torch.float32), r"several devices"),
    ]:
        with pytest.raises(KernelInputError, match=message):
            sum_rows(*arguments)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu_nothing_waits_and_a_graph_captures(dtype):
    grad = (torch.rand(18000, 4096, device="cuda") + 1).to(dtype)
    seats = torch.randperm(18000, device="cuda")[:1500]
    first = sum_rows(grad, seats, dtype)  # compiles
    assert ulps(first, grad.double()[seats].sum(0)) <= (2 if dtype != torch.float32 else 50)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = sum_rows(grad, seats, dtype)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        third = sum_rows(grad, seats, dtype)
    graph.replay()
    assert torch.equal(first, second)
    assert torch.equal(first, third)
