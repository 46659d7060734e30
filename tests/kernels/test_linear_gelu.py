"""linear_gelu: as exact as torch's own layer, rows and columns outside neither read nor written; eager, compiled, captured."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_kit_kernels.ops import linear_gelu as module
from llava_kit_kernels.ops.activations import ACTIVATIONS, torch_activate
from llava_kit_kernels.ops.ahead import MOST_SHARED
from llava_kit_kernels.ops.choices import CUBLAS, Choice
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_gelu import differentiable_linear_gelu, linear_gelu

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALLEST = Choice(SMALL)
# M, N, K: one of all; tails of rows, columns and depth; more tiles than programs; more rows than a group of eight tiles;
# columns that end in each quarter of a tile of 64.
SHAPES = [
    (1, 1, 1),
    (41, 90, 41),
    (33, 65, 341),
    (72, 160, 96),
    (300, 66, 8),
    (5, 341, 41),
    (40, 10, 32),
    (40, 20, 32),
    (40, 55, 32),
]


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


def layer(m: int, n: int, k: int, device: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(m + n + k)
    bias = torch.randn(n, device=device).mul_(0.1).to(dtype)
    return framed(m, k, device, dtype), framed(n, k, device, dtype, scale=k**-0.5), bias


def exact(x, weight, bias, activation="gelu"):
    z = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return torch_activate(z, activation), z


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found.double() - expected).abs().max().item()


def within(found, torchs, expected) -> bool:
    """At most one and a half times as wrong as torch, or as one rounding to the dtype where torch has luck."""
    rounding = torch.finfo(found.dtype).eps * expected.abs().max().item()
    return error(found, expected) <= max(1.5 * error(torchs, expected), rounding)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_as_exact_as_torch(m, n, k, home):
    x, weight, bias = layer(m, n, k, home)
    h, z = linear_gelu(x, weight, bias, "gelu", True, SMALLEST)
    expected = exact(x, weight, bias)
    assert within(z, F.linear(x, weight, bias), expected[1])
    assert within(h, F.gelu(F.linear(x, weight, bias)), expected[0])
    again = linear_gelu(x, weight, bias, "gelu", True, SMALLEST)
    assert torch.equal(h, again[0])
    assert torch.equal(z, again[1])


@pytest.mark.parametrize("tile", CANDIDATES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_candidate(tile, dtype, home):
    x, weight, bias = layer(70, 90, 41, home, dtype)
    h, z = linear_gelu(x, weight, bias, "gelu", True, Choice(tile))
    torchs = F.linear(x, weight, bias)
    expected = exact(x, weight, bias)
    assert within(z, torchs, expected[1])
    assert within(h, F.gelu(torchs), expected[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter's, where a sigmoid has ended
def test_activations(activation, home):
    x, weight, bias = layer(40, 70, 32, home)
    h, z = linear_gelu(x * 8, weight, bias, activation, False, SMALLEST)
    expected = exact(x * 8, weight, bias, activation)[0]
    assert within(h, torch_activate(F.linear(x * 8, weight, bias), activation), expected)
    assert z.shape == (0, 70)


def test_without_a_bias(home):
    x, weight, _ = layer(40, 70, 32, home)
    h = linear_gelu(x, weight, None, "gelu", False, SMALLEST)[0]
    assert within(h, F.gelu(F.linear(x, weight)), exact(x, weight, None)[0])


@pytest.mark.parametrize("choice", [SMALLEST, CUBLAS], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 3), (4, 0, 3), (4, 5, 0)])
def test_empty_sizes(choice, m, n, k, home):
    x, weight, bias = torch.randn(m, k, device=home), torch.randn(n, k, device=home), torch.randn(n, device=home)
    h, z = linear_gelu(x, weight, bias, "gelu", True, choice)
    assert torch.equal(z, F.linear(x, weight, bias))
    torch.testing.assert_close(h, F.gelu(z))


def test_any_strides(home):
    """Neighbours of a row that do not lie together are copied first."""
    x, weight, bias = (
        torch.randn(32, 40, device=home).t(),
        torch.randn(32, 70, device=home).t(),
        torch.randn(140, device=home)[::2],
    )
    h = linear_gelu(x, weight, bias, "gelu", False, SMALLEST)[0]
    assert within(h, F.gelu(F.linear(x, weight, bias)), exact(x, weight, bias)[0])


def test_cublas_unless_measured(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path))
    x, weight, bias = layer(40, 70, 32, home)
    h, z = linear_gelu(x, weight, bias, "gelu", True)
    assert torch.equal(z, F.linear(x, weight, bias))
    assert torch.equal(h, F.gelu(z))


def test_what_it_cannot_take(home):
    x, weight, bias = torch.randn(4, 6, device=home), torch.randn(5, 6, device=home), torch.randn(5, device=home)
    with pytest.raises(KernelInputError, match=r"`x` is torch\.float32, `weight` is torch\.float16"):
        linear_gelu(x, weight.half(), None, "gelu", False)
    with pytest.raises(KernelInputError, match="no activation 'tanh'"):
        linear_gelu(x, weight, bias, "tanh", False)
    with pytest.raises(KernelInputError, match="6 in `x`, 5 in `weight`"):
        linear_gelu(x, weight[:, :5], bias, "gelu", False)
    with pytest.raises(KernelInputError, match="5 in `weight`, 4 in `bias`"):
        linear_gelu(x, weight, bias[:4], "gelu", False)
    with pytest.raises(KernelInputError, match=r"\[4, 6, 1\]; expected 2 dim"):
        linear_gelu(x[..., None], weight, bias, "gelu", False)
    with pytest.raises(KernelInputError, match="float64"):
        linear_gelu(x.double(), weight.double(), None, "gelu", False)


def test_strides_too_large_for_offsets_inside_a_tile(home):
    wide = torch.randn(1, device=home).as_strided((1, 6), (0, 0)).expand(4, 6)
    far = torch.empty(0, device=home).new_empty(0).as_strided((0, 6), (2**24, 1))
    assert module.row_stride("x", wide) == 0
    assert module.row_stride("x", far) == 6
    with pytest.raises(KernelInputError, match="16,777,216 elements apart"):
        module.row_stride("x", torch.empty((2, 6), device="meta").as_strided((2, 6), (2**24, 1)))


# Gradients


def leaves(home, *wanted: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, weight, bias = (tensor.clone().requires_grad_(want) for tensor, want in zip(layer(12, 10, 7, home), wanted, strict=True))
    return x, weight, bias


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_torch(activation, home):
    ours, peers = leaves(home, True, True, True), leaves(home, True, True, True)
    upstream = torch.randn(12, 10, device=home)
    differentiable_linear_gelu(*ours, activation).backward(upstream)
    torch_activate(F.linear(*peers), activation).backward(upstream)
    for one, other in zip(ours, peers, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_that_are_wanted(wanted, home):
    tensors = leaves(home, *wanted)
    differentiable_linear_gelu(*tensors, "gelu").sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == list(wanted)


def test_z_is_kept_only_for_a_gradient(home, monkeypatch):
    kept = []
    monkeypatch.setattr(module, "linear_gelu", lambda *inputs: kept.append(inputs[4]) or linear_gelu(*inputs))
    differentiable_linear_gelu(*leaves(home, False, False, False), "gelu")
    differentiable_linear_gelu(*leaves(home, False, True, False), "gelu")
    with torch.no_grad():
        differentiable_linear_gelu(*leaves(home, True, True, True), "gelu")
    assert kept == [False, True, False]


def test_a_gradient_without_z_kept(home):
    ours, peers = leaves(home, True, True, True), leaves(home, True, True, True)
    torch.ops.llava_kit.linear_gelu(*ours, "gelu", False)[0].sum().backward()
    F.gelu(F.linear(*peers)).sum().backward()
    torch.testing.assert_close(ours[1].grad, peers[1].grad)


def test_a_second_derivative_is_refused(home):
    tensors = leaves(home, True, True, True)
    (grad,) = torch.autograd.grad(differentiable_linear_gelu(*tensors, "gelu").sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@pytest.mark.parametrize("keep", [True, False])
def test_registered_as_torch_wants_it(keep, home):
    torch.library.opcheck(torch.ops.llava_kit.linear_gelu, (*leaves(home, True, True, True), "gelu", keep))
    torch.library.opcheck(torch.ops.llava_kit.linear_gelu, (*leaves(home, True, False, False)[:2], None, "relu", keep))


def test_compiles_as_one_graph(home):
    tensors = leaves(home, True, True, True)
    compiled = torch.compile(differentiable_linear_gelu, fullgraph=True, backend="aot_eager")
    compiled(*tensors, "gelu").sum().backward()
    peers = leaves(home, True, True, True)
    F.gelu(F.linear(*peers)).sum().backward()
    torch.testing.assert_close(tensors[0].grad, peers[0].grad)


def test_fake_tensors(home):
    with FakeTensorMode():
        x, weight = torch.empty(12, 7, device=home), torch.empty(10, 7, device=home)
        h, z = torch.ops.llava_kit.linear_gelu(x, weight, None, "gelu", True)
    assert h.shape == z.shape == (12, 10)


# On hardware that is not here


def test_all_forms_fit_hopper(usage):
    found = usage(module)
    assert len(found) == 9
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
    x, weight, bias = layer(1000, 4096, 1024, "cuda", dtype)
    x, weight = x.contiguous(), weight.contiguous()
    torchs, expected = F.linear(x, weight, bias), exact(x, weight, bias)
    tiles = (SMALL,) if dtype == torch.float32 else CANDIDATES
    for choice in [CUBLAS, *map(Choice, tiles)]:
        h, z = linear_gelu(x, weight, bias, "gelu", True, choice)
        order = of_order(expected[1], dtype, 1024)
        assert error(z, expected[1]) <= 1.5 * error(torchs, expected[1]) + order, str(choice)
        assert error(h, expected[0]) <= 1.5 * error(F.gelu(torchs), expected[0]) + order, str(choice)
        assert torch.equal(h, linear_gelu(x, weight, bias, "gelu", True, choice)[0]), str(choice)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("choice", [CUBLAS, Choice(CANDIDATES[0])], ids=str)
def test_waits_for_nothing_and_is_captured(choice):
    x, weight, bias = (tensor.contiguous() for tensor in layer(576, 4096, 1024, "cuda", torch.bfloat16))
    expected = linear_gelu(x, weight, bias, "gelu", True, choice)[0]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_gelu(x, weight, bias, "gelu", True, choice)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        h = linear_gelu(x, weight, bias, "gelu", True, choice)[0]
    h.zero_()
    graph.replay()
    assert torch.equal(h, expected)
