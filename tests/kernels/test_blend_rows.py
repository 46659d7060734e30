"""blend_rows against torch's interpolate, embedding_bag and max: forward, gradient, registration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_kit.core.splice import Blend
from llava_kit.splice.inverse import readers as readers_of
from llava_kit.splice.reference import mix
from llava_kit_kernels.ops.blend_rows import _check, blend_rows
from llava_kit_kernels.ops.common import KernelInputError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def arguments_of(taps: torch.Tensor, weights: torch.Tensor, num_rows: int, home: str) -> list[torch.Tensor]:
    """taps, weights, readers and their bounds, on the device."""
    readers, bounds = (torch.from_numpy(array).int() for array in readers_of(taps.numpy(), num_rows))
    return [tensor.to(home) for tensor in (taps, weights, readers, bounds)]


def some_blend(num_blended: int, num_rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    taps = torch.randint(0, num_rows, (num_blended, 4), generator=generator)
    return taps, torch.rand(num_blended, 4, generator=generator)


def expected_of(rows: torch.Tensor, taps: torch.Tensor, weights: torch.Tensor, reduce) -> torch.Tensor:
    """The reference splicer's own blend, in float64 for sums."""
    none = torch.zeros(0, dtype=torch.int64)
    blend = Blend(none, taps.long(), weights, positions=none, reduce=reduce, readers=none, reader_bounds=none)
    return mix(rows if reduce == "max" else rows.double(), blend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_blended", "num_rows", "width"), [(0, 3, 41), (1, 1, 1), (13, 40, 41), (9, 20, 1100)])
def test_forward_and_gradient(home, num_blended, num_rows, width, dtype):
    taps, weights = some_blend(num_blended, num_rows)
    rows, gradient = torch.randn(num_rows, width).to(dtype), torch.randn(num_blended, width).to(dtype)
    for reduce in ("sum", "max"):
        truth = rows.clone().double().requires_grad_()
        expected = expected_of(truth, taps, weights, reduce)
        (wanted,) = torch.autograd.grad(expected, truth, gradient.double())
        given = rows.to(home).requires_grad_()
        blended = blend_rows(given, *arguments_of(taps, weights, num_rows, home), reduce)
        (found,) = torch.autograd.grad(blended, given, gradient.to(home))
        assert blended.dtype == found.dtype == dtype
        eps = torch.finfo(dtype).eps
        if reduce == "max":
            assert torch.equal(blended.cpu(), expected.detach().to(dtype))
        torch.testing.assert_close(blended.detach().cpu().double(), expected.detach(), rtol=2 * eps, atol=4e-7)
        torch.testing.assert_close(found.cpu().double(), wanted, rtol=2 * eps, atol=2e-6)
        again = blend_rows(given, *arguments_of(taps, weights, num_rows, home), reduce)
        assert torch.equal(torch.autograd.grad(again, given, gradient.to(home))[0], found)


def test_it_is_bilinear_interpolation(home):
    """24 x 24 rows shrunk to 17 x 17 by taps and weights as torch has them: align_corners=False, no antialias."""
    picture = torch.randn(8, 24, 24)
    rows = picture.flatten(1).T.contiguous()
    taps, weights = shrink_taps(24, 17)
    expected = F.interpolate(picture[None], size=(17, 17), mode="bilinear", align_corners=False)[0].flatten(1).T
    found = blend_rows(rows.to(home), *arguments_of(taps, weights, 576, home), "sum")
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=2e-5)  # torch's weights are rounded otherwise


def shrink_taps(before: int, after: int) -> tuple[torch.Tensor, torch.Tensor]:
    where = ((torch.arange(after) + 0.5) * before / after - 0.5).clamp(min=0)
    low = where.long()
    high, share = (low + 1).clamp(max=before - 1), where - low
    rows, columns = torch.stack([low, low, high, high], 1), torch.stack([low, high, low, high], 1)
    down = torch.stack([1 - share, 1 - share, share, share], 1)
    across = torch.stack([1 - share, share, 1 - share, share], 1)
    taps = rows[:, None] * before + columns[None]
    return taps.flatten(0, 1), (down[:, None] * across[None]).flatten(0, 1).float()


def test_ties_go_to_the_first(home):
    rows = torch.tensor([[1.0, 2.0], [1.0, 3.0], [0.0, 3.0], [1.0, -1.0]], device=home, requires_grad=True)
    taps = torch.tensor([[2, 0, 1, 3], [3, 1, 0, 2]])
    blended = blend_rows(rows, *arguments_of(taps, torch.ones(2, 4), 4, home), "max")
    assert blended.tolist() == [[1, 3], [1, 3]]
    (found,) = torch.autograd.grad(blended.sum(), rows)
    assert found.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]


def test_what_is_not_a_number_wins(home):
    rows = torch.tensor([[1.0], [float("nan")], [float("inf")]], device=home, requires_grad=True)
    blended = blend_rows(rows, *arguments_of(torch.tensor([[0, 1, 2, 1]]), torch.ones(1, 4), 3, home), "max")
    assert blended.isnan().all()
    (found,) = torch.autograd.grad(blended.sum(), rows)
    assert found.flatten().tolist() == [0, 1, 0]


def test_taps_and_readers_outside(home):
    rows = torch.randn(3, 41, device=home, requires_grad=True)
    taps = torch.tensor([[0, -1, 3, 1], [2**31 - 1, 0, -(2**31), 2]], device=home)
    weights = torch.full((3, 4), 0.5, device=home)[1:]  # what lies before a list must not be read
    readers = torch.tensor([0, 5, 8, -1, 3, 7, 99, 99], device=home, dtype=torch.int32)
    bounds = torch.tensor([-4, 4, 5, 6], device=home, dtype=torch.int32)
    blended = blend_rows(rows, taps, weights, readers, bounds, "sum")
    torch.testing.assert_close(blended, torch.stack([rows[0] + rows[1], rows[0] + rows[2]]) / 2)
    gradient = torch.randn(3, 41, device=home)[1:]
    (found,) = torch.autograd.grad(blended, rows, gradient)
    torch.testing.assert_close(found, torch.stack([gradient[0] + gradient[1], gradient[0], gradient[1]]) / 2)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_registration(home, reduce):
    taps, weights = some_blend(5, 7)
    arguments = arguments_of(taps, weights, 7, home)
    for requires_grad in (False, True):
        rows = torch.randn(7, 16, device=home, requires_grad=requires_grad)
        torch.library.opcheck(torch.ops.llava_kit.blend_rows, (rows, *arguments, reduce, requires_grad))


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_compiles_as_one_graph(home, reduce):
    taps, weights = some_blend(5, 7)
    arguments = arguments_of(taps, weights, 7, home)
    rows = torch.randn(7, 41, device=home, requires_grad=True)

    def loss(rows):
        return (blend_rows(rows * 2, *arguments, reduce) ** 2).sum()

    (expected,) = torch.autograd.grad(loss(rows), rows)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(rows), rows)
    assert torch.equal(found, expected)


def test_fake_tensors():
    with FakeTensorMode():
        lists = [torch.empty(5, 4, dtype=torch.int32), torch.empty(5, 4), torch.empty(20), torch.empty(8)]
        rows = torch.empty(7, 16, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        blended = blend_rows(rows, *(t.to("cuda") for t in lists), "max")
    assert blended.shape == (5, 16)
    assert blended.dtype == torch.bfloat16


def test_nothing_is_kept_for_a_gradient_that_nobody_wants(home):
    taps, weights = some_blend(5, 7)
    rows = torch.randn(7, 16, device=home)
    for keep, kept in ((False, 0), (True, 5)):
        _, winners = torch.ops.llava_kit.blend_rows(rows, *arguments_of(taps, weights, 7, home), "max", keep)
        assert winners.shape == (kept, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduce": "mean"}, r"`reduce` is 'mean'; expected one of sum, max"),
        ({"rows": torch.zeros(3, 8, dtype=torch.float64)}, r"`rows` is torch.float64"),
        ({"rows": torch.zeros(3, 2, 8)}, r"`rows` has the shape \[3, 2, 8\]"),
        ({"rows": torch.zeros(2, 8)}, r"2 in `rows`, 3 in `reader_bounds`"),
        ({"taps": torch.zeros(5, 3, dtype=torch.int32)}, r"`taps` \[5, 3\] and `weights` \[5, 4\]; expected \[R, 4\]"),
        ({"taps": torch.zeros(5, 4)}, r"`taps` is torch.float32; an index"),
        ({"weights": torch.zeros(5, 4, dtype=torch.bfloat16)}, r"`weights` is torch.bfloat16; expected float32"),
        ({"readers": torch.zeros(19, dtype=torch.int32)}, r"20 in `taps`, 19 in `readers`"),
        ({"readers": torch.zeros(20, dtype=torch.int32, device="meta")}, r"several devices"),
    ],
)
def test_wrong_input_is_refused(home, change, message):
    taps, weights = some_blend(5, 3)
    names = ["taps", "weights", "readers", "reader_bounds"]
    arguments = {"rows": torch.zeros(3, 8), **dict(zip(names, arguments_of(taps, weights, 3, home))), "reduce": "sum"} | change
    arguments = {k: v.to(home) if isinstance(v, torch.Tensor) and v.device.type != "meta" else v for k, v in arguments.items()}
    with pytest.raises(KernelInputError, match=message):
        _check(**arguments)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_on_a_gpu_nothing_waits_and_a_graph_captures(reduce):
    taps, weights = shrink_taps(48, 34)
    lists = arguments_of(taps, weights, 48 * 48, "cuda")
    rows = torch.randn(48 * 48, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    first = blend_rows(rows, *lists, reduce)  # compiles
    first.sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        blend_rows(rows, *lists, reduce).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        blend_rows(rows, *lists, reduce)  # "max" without a gradient is a kernel of its own, and none can be loaded in a capture
        with torch.cuda.graph(graph):
            captured = blend_rows(rows, *lists, reduce)
    graph.replay()
    assert torch.equal(first, captured)
