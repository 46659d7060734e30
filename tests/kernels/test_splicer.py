"""The Triton splicer is held to the public battery, by the interpreter here and in all dtypes on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.common import count_host_reads, count_operations
from llava_kit.core.splice import SplicePlan, _map_tensors
from llava_kit.errors import LlavaKitError
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit.testing import battery, check_splicer
from llava_kit_kernels.ops import linear_dgelu, linear_gelu, linear_scatter
from llava_kit_kernels.ops.choices import Choice
from llava_kit_kernels.ops.gemm import SMALL
from llava_kit_kernels.splicer import TritonSplicer

CASES = {case.name: case for case in battery()}
# One case of each way that rows take: fused, by the connector's own forward, by all tiles, blended, nothing to project.
WAYS = ["packed", "packed_line", "halving", "blended", "text_only", "no_bias", "packed_through"]


@pytest.fixture
def fused(monkeypatch):
    """Products by the Triton kernels, as where a table says that they won."""
    for module in (linear_gelu, linear_scatter, linear_dgelu):
        monkeypatch.setattr(module, "choose", lambda *key: Choice(SMALL))


@pytest.mark.parametrize("name", CASES)
def test_passes_the_battery(name):
    check_splicer(TritonSplicer(), cases=[CASES[name]])


@pytest.mark.parametrize("name", ["anyres_1_1", "packed", "text_only", "no_bias"])  # products are slow when interpreted
def test_passes_the_battery_with_fused_products(name, fused):
    check_splicer(TritonSplicer(), cases=[CASES[name]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_passes_the_battery_on_a_gpu(dtype):
    check_splicer(TritonSplicer(), dtype, "cuda")


def results(splicer, case, plan: SplicePlan | None = None, device: str = "cpu") -> list[torch.Tensor]:
    parts = case.parts(torch.float32, device)
    rows = splicer(
        case.plan.to(device) if plan is None else plan, parts.features, parts.connector, parts.embedding, parts.newline
    )
    rows.square().sum().backward()
    return [rows.detach(), *(tensor.grad for tensor in parts.trained.values())]


@pytest.mark.parametrize("name", ["packed", "halving", "blended"])  # every kernel that adds up
def test_two_runs_are_equal_to_the_bit(name):
    for one, other in zip(results(TritonSplicer(), CASES[name]), results(TritonSplicer(), CASES[name]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", WAYS)
def test_reads_nothing_back_and_launches_as_much_for_any_batch(name):
    case = CASES[name]
    parts = case.parts(torch.float32, "cpu")
    with count_host_reads() as python_reads, count_operations() as operations:
        rows = TritonSplicer()(fake_of(case.plan), parts.features, parts.connector, parts.embedding, parts.newline)
        rows.backward(torch.ones_like(rows))
    ours = [operation for operation in operations.names if operation in OURS]
    assert ours
    assert operations.reads == 0
    assert python_reads.total() == 0


OURS = {"gather_rows", "project_rows", "seat_rows", "linear_dgelu", "embed_gradient", "sum_rows", "blend_rows"}


def fake_of(plan: SplicePlan) -> SplicePlan:
    """The plan as it is on a device, where it is not checked again."""
    return _map_tensors(plan, lambda tensor: tensor.as_subclass(_OnDevice))


class _OnDevice(torch.Tensor):
    """A plain tensor by another name."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.mark.parametrize("name", WAYS)
def test_runs_on_fake_tensors(name):
    case = CASES[name]
    with FakeTensorMode() as mode:
        plan = _map_tensors(case.plan, mode.from_tensor)
        features = torch.randn(case.num_tiles, case.patches.area, case.vision_width, requires_grad=True)
        connector = case.connector(case.vision_width, case.text_width)
        embedding, newline = torch.randn(53, case.text_width, requires_grad=True), nn.Parameter(torch.randn(case.text_width))
        rows = TritonSplicer()(plan, features, connector, embedding, newline)
        rows.sum().backward()
        assert rows.shape == (*plan.shape, case.text_width)
        assert all(tensor.grad is not None for tensor in (features, embedding, newline, *connector.parameters()))


@pytest.mark.parametrize("name", ["packed", "halving", "blended"])
def test_compiles_whole_forward_and_backward(name):
    case = CASES[name]
    compiled = torch.compile(TritonSplicer().__call__, fullgraph=True, backend="aot_eager")
    for eager, whole in zip(results(TritonSplicer(), case), results(compiled, case), strict=True):
        torch.testing.assert_close(eager, whole)


@pytest.mark.parametrize("name", ["packed", "blended"])
def test_autocast_computes_as_torch_does(name):
    """Products in half precision, rows in the embedding's dtype. (float16: the interpreter's bfloat16 products are wrong.)"""
    found = []
    for splicer in (TritonSplicer(), ReferenceSplicer()):
        with torch.autocast("cpu", torch.float16):
            found.append(results(splicer, CASES[name]))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))


def test_nothing_is_kept_without_gradients():
    case = CASES["packed"]
    parts = case.parts(torch.float32, "cpu")
    with torch.no_grad():
        rows = TritonSplicer()(case.plan, parts.features, parts.connector, parts.embedding, parts.newline)
    assert not rows.requires_grad
    assert rows.grad_fn is None


def splice(plan: SplicePlan, **changes):
    parts = CASES["packed"].parts(torch.float32, "cpu")
    given = {"features": parts.features, "embedding": parts.embedding, "newline": parts.newline, **changes}
    return TritonSplicer()(plan, given["features"], parts.connector, given["embedding"], given["newline"])


def test_refuses_what_does_not_fit():
    plan, parts = CASES["packed"].plan, CASES["packed"].parts(torch.float32, "cpu")
    doubled = plan.text_positions.clone()
    doubled[0] = plan.visual_positions[0]
    refused = [
        (plan, {"newline": None}, r"the plan has \d+ newline rows, but the model was made with newline=False"),
        (plan, {"features": parts.features[:-1]}, r"15 tiles of 16 visual rows, but the plan was made for 256 rows"),
        (plan, {"features": parts.features.to("meta")}, "the features on meta, the embedding on cpu; expected all on one"),
        (plan, {"features": parts.features.double()}, "float64"),
        (plan, {"embedding": parts.embedding.double()}, "float64"),
        (plan, {"embedding": parts.embedding[:, :-1]}, "widths"),
        (replace(plan, text_positions=doubled), {}, r"seat \d+ filled"),
        (replace(plan, text_ids=plan.text_ids[1:]), {}, "text rows for"),
    ]
    for wrong, changes, message in refused:
        with pytest.raises(LlavaKitError, match=message):
            splice(wrong, **changes)
