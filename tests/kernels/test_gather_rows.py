"""gather_rows: each row exactly once, zeros for indices outside, the gradient back home; eager, compiled, fake and captured."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gather_rows import _check, gather_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def reference(flat: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """index_select with a row of zeros for what is outside."""
    outside = (index < 0) | (index >= len(flat))
    padded = torch.cat([flat, flat.new_zeros(1, flat.shape[1])])
    return padded.index_select(0, torch.where(outside, len(flat), index))


def some_index(rows: int, wanted: int, seed: int = 0) -> torch.Tensor:
    """Distinct rows in no order, with some that are outside among them."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randperm(rows, generator=generator)[: max(wanted - 2, 0)]
    index = torch.cat([inside, torch.tensor([-1, rows, -(2**31), 2**31 - 1])])[:wanted]
    return index[torch.randperm(len(index), generator=generator)]


def places_of(index: torch.Tensor, rows: int) -> torch.Tensor:
    places = torch.full((rows,), -1, dtype=torch.int32)
    for place, row in enumerate(index.tolist()):
        if 0 <= row < rows:
            places[row] = place
    return places


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_moved_exactly(home, dtype, index_dtype):
    source = torch.randn(23, 41, device=home).to(dtype)
    index = some_index(23, 20).to(home)
    assert torch.equal(gather_rows(source, index.to(index_dtype)), reference(source, index))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 12), st.sampled_from([0, 1, 41, 341, 1100]), st.integers(0, 99))
def test_any_size(home, tiles, per_tile, wanted, width, seed):
    source = torch.randn(tiles, per_tile + 1, width, generator=torch.Generator().manual_seed(seed)).to(home)[:, 1:]
    index = some_index(tiles * per_tile, wanted, seed).to(home)
    assert torch.equal(gather_rows(source, index), reference(source.reshape(tiles * per_tile, width), index))


def test_the_class_token_is_skipped_in_place(home, monkeypatch):
    encoded = torch.randn(3, 8, 64, device=home)
    patches = encoded[:, 1:]
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self: pytest.fail("copied"))
    rows = gather_rows(patches, torch.tensor([0, 7, 20], device=home))
    assert torch.equal(rows, torch.stack([encoded[0, 1], encoded[1, 1], encoded[2, 7]]))


def test_elements_of_a_row_that_are_apart(home):
    channels_first = torch.randn(2, 41, 6, device=home)
    index = torch.tensor([11, 0], device=home)
    expected = torch.stack([channels_first[1, :, 5], channels_first[0, :, 0]])
    assert torch.equal(gather_rows(channels_first.transpose(1, 2), index), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conversion_on_the_way(home, dtype):
    source = torch.randn(5, 64, device=home)
    index = torch.tensor([4, -1, 2], device=home)
    converted = gather_rows(source, index, dtype=dtype)
    assert converted.dtype == dtype
    tolerance = 0 if home == "cuda" or dtype == torch.float32 else torch.finfo(dtype).eps  # the interpreter rounds otherwise
    torch.testing.assert_close(converted, reference(source, index).to(dtype), atol=tolerance, rtol=tolerance)
    widened = gather_rows(converted, torch.arange(3, device=home), dtype=torch.float32)
    assert torch.equal(widened, converted.float())


@pytest.mark.parametrize("with_places", [False, True])
@pytest.mark.parametrize("width", [1, 41, 1100])
def test_gradient_is_index_add(home, with_places, width):
    source = torch.randn(4, 6, width, device=home).requires_grad_()
    index = some_index(24, 15).to(home)
    places = places_of(index, 24).to(home) if with_places else None
    gradient = torch.randn(15, width, device=home)
    (found,) = torch.autograd.grad(gather_rows(source, index, places), source, gradient)
    inside = (index >= 0) & (index < 24)
    expected = torch.zeros(24, width, device=home).index_add_(0, index[inside], gradient[inside])
    assert torch.equal(found, expected.view(4, 6, width))


def test_gradient_of_rows_taken_twice_is_their_sum(home):
    source = torch.randn(5, 41, device=home).requires_grad_()
    index = torch.tensor([3, 0, 3, 9, 3, -1], device=home)
    gradient = torch.randn(6, 41, device=home)
    (found,) = torch.autograd.grad(gather_rows(source, index), source, gradient)
    torch.testing.assert_close(found[3], gradient[[0, 2, 4]].sum(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(found[[0, 1, 2, 4]], torch.cat([gradient[1:2], torch.zeros(3, 41, device=home)]))


def test_gradient_takes_shape_and_dtype_of_the_source(home):
    encoded = torch.randn(2, 5, 16, device=home, dtype=torch.bfloat16).requires_grad_()
    index = torch.tensor([7, 2], device=home)
    rows = gather_rows(encoded[:, 1:], index, places_of(index.cpu(), 8).to(home), torch.float32)
    rows.sum().backward()  # an expanded gradient: every element is the same number in memory
    assert encoded.grad.dtype == torch.bfloat16
    assert encoded.grad.sum(-1).tolist() == [[0, 0, 0, 16, 0], [0, 0, 0, 0, 16]]


def test_no_gradient_where_none_is_wanted(home):
    assert not gather_rows(torch.randn(3, 4, device=home), torch.tensor([1], device=home)).requires_grad


@pytest.mark.parametrize("with_places", [False, True])
def test_registration(home, with_places):
    for requires_grad in (False, True):
        source = torch.randn(2, 7, 16, device=home)[:, 1:].requires_grad_(requires_grad)
        index = torch.tensor([5, 11, -1, 0], device=home)
        places = places_of(index.cpu(), 12).to(home) if with_places else None
        torch.library.opcheck(torch.ops.llava_kit.gather_rows, (source, index, places, torch.float32))


def test_compiles_as_one_graph(home):
    def loss(source, index):
        return (gather_rows(source * 2, index) ** 2).sum()

    source = torch.randn(3, 4, 41, device=home).requires_grad_()
    index = torch.tensor([11, 0, -1], device=home)
    (expected,) = torch.autograd.grad(loss(source, index), source)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(source, index), source)
    assert torch.equal(found, expected)


def test_fake_tensors():
    with FakeTensorMode():
        rows = gather_rows(
            torch.empty(2, 5, 8, device="cuda"), torch.empty(3, device="cuda", dtype=torch.int32), None, torch.float16
        )
    assert rows.shape == (3, 8)
    assert rows.dtype == torch.float16
    assert rows.device.type == "cuda"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.zeros(4, 8, dtype=torch.float64)}, r"`source` is torch.float64; expected float32"),
        ({"source": torch.zeros(8)}, r"`source` has the shape \[8\]; expected 2 or 3"),
        ({"index": torch.zeros(3)}, r"`index` is torch.float32; an index is int32 or int64"),
        ({"index": torch.zeros(3, 1, dtype=torch.int32)}, r"`index` has the shape \[3, 1\]"),
        ({"index": torch.zeros(3, dtype=torch.int32, device="meta")}, r"several devices"),
        ({"places": torch.zeros(5, dtype=torch.int32)}, r"4 in `source`, 5 in `places`"),
        ({"dtype": torch.int8}, r"`the result` is torch.int8"),
        ({"source": torch.empty(1, 8).expand(2**31, 8)}, r"`source` has 2,147,483,648 rows"),
    ],
)
def test_wrong_input_is_refused(home, change, message):
    arguments = {
        "source": torch.zeros(4, 8),
        "index": torch.zeros(3, dtype=torch.int32),
        "places": None,
        "dtype": None,
    } | change
    arguments = {k: v.to(home) if isinstance(v, torch.Tensor) and v.device.type != "meta" else v for k, v in arguments.items()}
    with pytest.raises(KernelInputError, match=message):
        _check(**arguments)  # a tensor on `meta` never reaches the operation's own body


def test_the_operation_checks(home):
    with pytest.raises(KernelInputError, match=r"`index` is torch.float32"):
        gather_rows(torch.zeros(4, 8, device=home), torch.zeros(3, device=home))


@pytest.mark.gpu
@GPU
def test_nothing_waits_for_the_device():
    source = torch.randn(4, 577, 1024, device="cuda", dtype=torch.bfloat16)[:, 1:].requires_grad_()
    index = torch.randperm(4 * 576)[:1000].to("cuda")
    gather_rows(source, index).sum().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        for places in (None, torch.zeros(4 * 576, dtype=torch.int32, device="cuda")):
            gather_rows(source, index, places).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@GPU
def test_a_graph_can_capture_it():
    source = torch.randn(4, 577, 1024, device="cuda", dtype=torch.bfloat16)[:, 1:]
    index = torch.randperm(4 * 576, device="cuda")[:1000]
    gather_rows(source, index)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = gather_rows(source, index)
    source.normal_()
    index.copy_(index.flip(0))
    graph.replay()
    assert torch.equal(rows, source.reshape(-1, 1024).index_select(0, index))
