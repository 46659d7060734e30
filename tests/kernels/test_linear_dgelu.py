"""linear_dgelu: the gradient before the activation as exact as torch's two steps; captured on a GPU."""

from __future__ import annotations

import pytest
import torch

from llava_kit_kernels.ops import linear_dgelu as module
from llava_kit_kernels.ops.activations import ACTIVATIONS, torch_activate, torch_backward
from llava_kit_kernels.ops.ahead import MOST_SHARED
from llava_kit_kernels.ops.choices import CUBLAS, Choice
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_dgelu import linear_dgelu

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALLEST = Choice(SMALL)
BOTH = pytest.mark.parametrize("choice", [SMALLEST, CUBLAS], ids=str)
# M, N, K, N contracted: one of all; tails of rows, columns and depth; columns that end in each quarter of a tile of 64.
SHAPES = [(1, 1, 1), (41, 41, 90), (33, 341, 65), (72, 96, 160), (5, 41, 341), (8, 32, 10), (8, 32, 20), (8, 32, 55)]


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Memory that nobody has written is not a number."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def framed(rows: int, columns: int, device: str, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    """A random matrix inside a larger one that holds no numbers: what reads too far shows."""
    frame = torch.full((rows + 5, columns + 7), float("nan"), dtype=dtype, device=device)
    frame[2 : 2 + rows, 3 : 3 + columns] = torch.randn(rows, columns, device=device).mul_(scale).to(dtype)
    return frame[2 : 2 + rows, 3 : 3 + columns]


def inputs(m: int, n: int, k: int, device: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(m + n + k)
    return framed(m, n, device, dtype), framed(n, k, device, dtype, n**-0.5), framed(m, k, device, dtype, 2.0)


def exact(grad, weight, z, activation="gelu") -> torch.Tensor:
    """By autograd in float64, not by the formulas of the kernel."""
    before = z.double().requires_grad_()
    return torch.autograd.grad(torch_activate(before, activation), before, grad.double() @ weight.double())[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found.double() - expected).abs().max().item()


def within(found, torchs, expected) -> bool:
    """At most one and a half times as wrong as torch, or as one rounding to the dtype where torch has luck."""
    rounding = torch.finfo(found.dtype).eps * expected.abs().max().item()
    return error(found, expected) <= max(1.5 * error(torchs, expected), rounding)


@BOTH
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_as_exact_as_torch(choice, m, n, k, home):
    grad, weight, z = inputs(m, n, k, home)
    found = linear_dgelu(grad, weight, z, "gelu", choice)
    assert within(found, torch_backward(grad @ weight, z, "gelu"), exact(grad, weight, z))
    assert torch.equal(found, linear_dgelu(grad, weight, z, "gelu", choice))


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter's, where a sigmoid has ended
def test_activations(choice, activation, home):
    grad, weight, z = inputs(40, 32, 70, home)
    z[0, :3] = torch.tensor([0.0, 30.0, -30.0], device=home)  # the kink of relu, and where derivatives have ended
    found = linear_dgelu(grad, weight, z, activation, choice)
    assert within(found, torch_backward(grad @ weight, z, activation), exact(grad, weight, z, activation))


@pytest.mark.parametrize("tile", CANDIDATES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_candidate(tile, dtype, home):
    grad, weight, z = inputs(70, 41, 90, home, dtype)
    found = linear_dgelu(grad, weight, z, "gelu", Choice(tile))
    assert within(found, torch_backward(grad @ weight, z, "gelu"), exact(grad, weight, z))


@BOTH
@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 3), (4, 0, 3), (4, 5, 0)])
def test_empty_sizes(choice, m, n, k, home):
    grad, weight, z = torch.randn(m, n, device=home), torch.randn(n, k, device=home), torch.randn(m, k, device=home)
    assert torch.equal(linear_dgelu(grad, weight, z, "gelu", choice), torch_backward(grad @ weight, z, "gelu"))


def test_any_strides(home):
    grad, weight, z = (torch.randn(*sizes, device=home).t() for sizes in ((32, 40), (70, 32), (70, 40)))
    found = linear_dgelu(grad, weight, z, "gelu", SMALLEST)
    assert within(found, torch_backward(grad @ weight, z, "gelu"), exact(grad, weight, z))


def test_cublas_unless_measured(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path))
    grad, weight, z = inputs(40, 32, 70, home)
    assert torch.equal(linear_dgelu(grad, weight, z, "silu"), torch_backward(grad @ weight, z, "silu"))


def test_what_it_cannot_take(home):
    grad, weight, z = torch.randn(4, 5, device=home), torch.randn(5, 6, device=home), torch.randn(4, 6, device=home)
    with pytest.raises(KernelInputError, match="no activation 'tanh'"):
        linear_dgelu(grad, weight, z, "tanh")
    with pytest.raises(KernelInputError, match="4 in `grad`, 3 in `z`"):
        linear_dgelu(grad, weight, z[:3], "gelu")
    with pytest.raises(KernelInputError, match="5 in `grad`, 4 in `weight`"):
        linear_dgelu(grad, weight[:4], z, "gelu")
    with pytest.raises(KernelInputError, match="6 in `weight`, 5 in `z`"):
        linear_dgelu(grad, weight, z[:, :5], "gelu")
    with pytest.raises(KernelInputError, match=r"`z` is torch\.float16"):
        linear_dgelu(grad, weight, z.half(), "gelu")


def test_all_forms_fit_hopper(usage):
    found = usage(module)
    assert len(found) == 10
    for name, used in found.items():
        assert used.stack == 0, f"{name} spills: {used}"
        assert used.shared <= MOST_SHARED, f"{name}: {used}"
        assert used.has_wgmma == (" fp32 " not in name and "to one column" not in name), f"{name}: {used}"


def of_order(expected: torch.Tensor, dtype: torch.dtype, depth: int) -> float:
    """What a float32 sum of `depth` may lose in one part, as ours, where cuBLAS adds in several; TF32 loses 50 times more."""
    return torch.finfo(dtype).eps * depth**0.5 / 2 * expected.abs().max().item() if dtype == torch.float32 else 0.0


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_real_shapes(dtype):
    grad, weight, z = (tensor.contiguous() for tensor in inputs(1000, 4096, 4096, "cuda", dtype))
    torchs, expected = torch_backward(grad @ weight, z, "gelu"), exact(grad, weight, z)
    tiles = (SMALL,) if dtype == torch.float32 else CANDIDATES
    for choice in [CUBLAS, *map(Choice, tiles)]:
        found = linear_dgelu(grad, weight, z, "gelu", choice)
        assert error(found, expected) <= 1.5 * error(torchs, expected) + of_order(expected, dtype, 4096), str(choice)
        assert torch.equal(found, linear_dgelu(grad, weight, z, "gelu", choice)), str(choice)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("choice", [CUBLAS, Choice(CANDIDATES[0])], ids=str)
def test_waits_for_nothing_and_is_captured(choice):
    grad, weight, z = (tensor.contiguous() for tensor in inputs(576, 4096, 4096, "cuda", torch.bfloat16))
    expected = linear_dgelu(grad, weight, z, "gelu", choice)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_dgelu(grad, weight, z, "gelu", choice)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = linear_dgelu(grad, weight, z, "gelu", choice)
    found.zero_()
    graph.replay()
    assert torch.equal(found, expected)
