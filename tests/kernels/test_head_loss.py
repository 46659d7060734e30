"""Head and cross-entropy in one operation: the truth at every chunking, nothing read on the host, nothing out of bounds."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from benchmarks.common import READS, count_host_reads, count_operations
from llava_kit.testing import LossCase, check_loss
from llava_kit_kernels.loss import TritonLoss
from llava_kit_kernels.ops import head_loss as module
from llava_kit_kernels.ops.ahead import MOST_SHARED
from llava_kit_kernels.ops.common import INTERPRETED, KernelInputError
from llava_kit_kernels.ops.head_loss import IGNORE, head_loss

HOME = "cpu" if INTERPRETED else "cuda"

# The interpreter computes with what lies beyond a row's last word too, before it is left out.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def inputs(num_words=41, num_rows=11, num_targets=7, width=24, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(num_rows, width).to(HOME, dtype).requires_grad_()
    weight = (torch.randn(num_words, width) / width**0.5).to(HOME, dtype).requires_grad_()
    positions = torch.randperm(num_rows)[:num_targets].to(HOME)
    ids = torch.randint(0, num_words, (num_targets,)).to(HOME)
    return hidden, positions, ids, weight, torch.randn(num_words).to(HOME, dtype).requires_grad_() if bias else None


def results(loss, *leaves, upstream=0.37):
    """The loss and the leaves' gradients."""
    for leaf in leaves:
        leaf.grad = None
    (loss() * upstream).backward()
    return [loss().detach(), *(leaf.grad for leaf in leaves)]


def truth(hidden, positions, ids, weight, bias, softcap=None):
    """In float64, and its gradients by hidden, weight and bias."""
    leaves = [None if tensor is None else tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]

    def loss():
        logits = F.linear(leaves[0][positions], leaves[1], leaves[2])
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return F.cross_entropy(logits, ids, reduction="sum")

    return results(loss, *(leaf for leaf in leaves if leaf is not None))


@pytest.fixture(params=[5, 3])
def small_tiles(request, monkeypatch):
    """Chunks and slices of so many rows and words, though the limit allows fewer; 64 words are one block at most."""
    monkeypatch.setattr(module, "_TILE", request.param)
    monkeypatch.setattr(module, "_BLOCK", 64)
    return request.param


def test_keeps_the_contract():
    check_loss(TritonLoss(), torch.float32, HOME)


def test_keeps_the_contract_in_half_precision():
    """Without products in the kernel the interpreter computes bfloat16 well."""
    cases = [LossCase("half", 41, ignored=2, bias=True), LossCase("capped", 100, softcap=5.0, tied=True, num_targets=4)]
    for dtype in (torch.bfloat16, torch.float16):
        check_loss(TritonLoss(), dtype, HOME, cases)


def test_keeps_the_contract_in_chunks(small_tiles):
    cases = [
        LossCase("chunks", 17, num_targets=7, ignored=2, bias=True),
        LossCase("chunks, capped", 11, num_targets=6, softcap=5.0, tied=True),
        LossCase("chunks, head alone", 10, num_targets=7, frozen=frozenset({"hidden"})),
        LossCase("chunks, hidden alone", 70, num_targets=6, frozen=frozenset({"head"})),
    ]
    check_loss(TritonLoss(limit=1), torch.float32, HOME, cases)


def test_chunks_differ_from_the_whole_by_rounding_alone(monkeypatch):
    hidden, positions, ids, weight, bias = inputs(num_words=130, num_targets=9)
    expected = truth(hidden, positions, ids, weight, bias)
    monkeypatch.setattr(module, "_TILE", 4)
    monkeypatch.setattr(module, "_BLOCK", 64)
    for limit in (2**28, 64 * 4 * 40):
        found = results(lambda: head_loss(hidden, positions, ids, weight, bias, limit=limit), hidden, weight, bias)  # noqa: B023
        for one, other in zip(found, expected):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-6)


def test_at_once():
    """All where they fit, else whole tiles, at least one."""
    assert module._at_once(32_000, 2, module.LIMIT, 2949) == 2949
    assert module._at_once(128_256, 2, module.LIMIT, 2949) == 768
    assert module._at_once(256_000, 4, 1, 2949) == 256
    assert module._at_once(10, 4, 1, 0) >= 1


def test_no_more_logits_at_once_than_the_limit(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_TILE", 2)
    monkeypatch.setattr(module, "_buffer", lambda *given, make=module._buffer: seen.append(make(*given)) or seen[-1])
    hidden, positions, ids, weight, _ = inputs(num_words=300, num_targets=9)
    limit = 320 * 4 * 4  # four rows
    head_loss(hidden, positions, ids, weight, limit=limit).backward()
    assert [buffer.shape[0] for buffer in seen] == [4, 9], "rows in chunks, then words in slices"
    assert all(buffer.numel() * buffer.element_size() <= limit for buffer in seen)


def test_out_of_range_adds_nothing():
    hidden, positions, ids, weight, bias = inputs()
    plain = results(lambda: head_loss(hidden, positions, ids, weight, bias), hidden, weight, bias)
    bad_ids = torch.tensor([IGNORE, -1, 41, 2**40, 3, 3], device=HOME)
    bad_positions = torch.tensor([0, 0, 0, 0, -1, 11], device=HOME)
    positions, ids = torch.cat([positions, bad_positions]), torch.cat([ids, bad_ids])
    filled = results(lambda: head_loss(hidden, positions, ids, weight, bias), hidden, weight, bias)
    for one, other in zip(plain, filled):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_rows_that_count_nothing_may_hold_anything():
    hidden, positions, ids, weight, _ = inputs(bias=False)
    ids[2] = IGNORE
    with torch.no_grad():
        hidden[positions[2]] = math.nan
    found = results(lambda: head_loss(hidden, positions, ids, weight), hidden)
    assert found[0].isfinite()
    assert found[1].isfinite().all()


def test_words_that_a_bias_forbids(monkeypatch):
    """A whole block of -inf before the first number, and one after."""
    monkeypatch.setattr(module, "_BLOCK", 64)
    hidden, positions, ids, weight, bias = inputs(num_words=200)
    with torch.no_grad():
        bias[:70], bias[130:] = -math.inf, -math.inf
    ids = 70 + ids % 60
    found = results(lambda: head_loss(hidden, positions, ids, weight, bias), hidden, weight, bias)
    for one, other in zip(found, truth(hidden, positions, ids, weight, bias)):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-6)


def test_a_position_taken_twice_gets_the_sum():
    hidden, _, _, weight, bias = inputs()
    positions, ids = torch.tensor([3, 3, 5], device=HOME), torch.tensor([1, 2, 1], device=HOME, dtype=torch.int32)
    found = results(lambda: head_loss(hidden, positions, ids, weight, bias), hidden, weight, bias)
    for one, other in zip(found, truth(hidden, positions, ids.long(), weight, bias)):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-6)


def test_strided_inputs():
    hidden, positions, ids, weight, _ = inputs(width=24)
    wide, turned = hidden.detach().repeat(1, 2), weight.detach().t().contiguous().t()
    spread = torch.stack([positions, positions], 1)[:, 0], torch.stack([ids, ids], 1)[:, 0]
    found = head_loss(wide[:, :24], *spread, turned)
    torch.testing.assert_close(found, head_loss(hidden, positions, ids, weight).detach())


def test_autocast_computes_as_linear_does():
    hidden, positions, ids, weight, bias = inputs(num_words=100)
    with torch.autocast(HOME, torch.bfloat16):
        found = results(lambda: head_loss(hidden, positions, ids, weight, bias), hidden, weight, bias)
        plain = results(
            lambda: F.cross_entropy(F.linear(hidden[positions], weight, bias).float(), ids, reduction="sum"),
            hidden,
            weight,
            bias,
        )
    assert [tensor.dtype for tensor in found] == [torch.float32] * 4
    for one, other in zip(found, plain):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=5e-3)


def count_products(monkeypatch):
    """The names of matrix products as they come; inside an operation a dispatch mode sees nothing."""
    names = []
    for name in ("mm", "addmm"):
        original = getattr(torch, name)
        counting = lambda *given, original=original, name=name, **options: names.append(name) or original(*given, **options)  # noqa: E731
        monkeypatch.setattr(torch, name, counting)
    return names


def test_only_what_is_needed_is_computed(monkeypatch):
    hidden, positions, ids, weight, bias = inputs(num_words=100)
    names = count_products(monkeypatch)
    for trained, products in (("", 1), ("hidden", 2), ("weight", 2), ("hidden weight", 3), ("bias", 1)):
        leaves = {"hidden": hidden, "weight": weight, "bias": bias}
        for name, leaf in leaves.items():
            leaf.requires_grad_(name in trained.split())
        names.clear()
        loss = head_loss(hidden, positions, ids, weight, bias)
        if trained:
            loss.backward()
        assert len(names) == products, trained
        assert {name for name, leaf in leaves.items() if leaf.grad is not None} == set(trained.split())
        for leaf in leaves.values():
            leaf.grad = None
    weight.requires_grad_(True)
    names.clear()
    with torch.no_grad():
        assert not head_loss(hidden, positions, ids, weight, bias).requires_grad
    assert names == ["addmm"]
    # Rows in chunks, then words in slices: one product more.
    names.clear()
    monkeypatch.setattr(module, "_TILE", 4)
    hidden.requires_grad_(True)
    head_loss(hidden, positions, ids, weight, limit=1).backward()
    assert len(names) == 2 * 2 + 25 * 2, "7 rows in chunks of 4, 100 words in slices of 4"


def test_a_second_backward_is_refused():
    """Gradients are scaled in place: a second one would scale them twice."""
    hidden, positions, ids, weight, _ = inputs()
    loss = head_loss(hidden, positions, ids, weight)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_reads_nothing_on_the_host(monkeypatch):
    monkeypatch.setattr(module, "_TILE", 3)
    hidden, positions, ids, weight, bias = inputs()
    head_loss(hidden, positions, ids, weight, bias).backward()
    # The interpreter itself reads what kernels work on, so they do not run here.
    if INTERPRETED:
        for name in (f"{place}.launch" for place in ("head_loss", "move_rows", "sum_segments")):
            monkeypatch.setattr(f"llava_kit_kernels.ops.{name}", lambda *given, **options: None)
    for limit in (2**28, 1):
        with count_host_reads() as reads, count_operations() as counted:
            head_loss(hidden, positions, ids, weight, bias, softcap=5.0, limit=limit).backward()
            # A dispatch mode does not look into an operation: this is what is inside.
            with torch.no_grad():
                module._head_loss._init_fn(hidden[:7], ids, weight, bias, 5.0, limit, True, True, True)
        assert not reads
        assert counted.names["addmm"] > 0
        assert not {*READS, "_local_scalar_dense"} & set(counted.names)


def test_fake_tensors():
    hidden, positions, ids, weight, bias = inputs()
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(tensor) for tensor in (hidden, positions, ids, weight, bias)]
        leaves = [fake[0], fake[3], fake[4]]
        loss = head_loss(*fake)
        loss.backward()
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    hidden, positions, ids, weight, bias = inputs()

    def loss(hidden, weight, bias):
        return head_loss(hidden, positions, ids, weight, bias, softcap=5.0)

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for one, other in zip(
        results(lambda: loss(hidden, weight, bias), hidden, weight, bias),
        results(lambda: compiled(hidden, weight, bias), hidden, weight, bias),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_opcheck():
    hidden, _, ids, weight, bias = inputs(num_rows=7)
    for softcap, needed in ((0.0, (True, True, True)), (5.0, (True, False, False)), (0.0, (False, False, False))):
        leaves = [leaf.detach().requires_grad_(need) for leaf, need in zip((hidden, weight, bias), needed)]
        opcheck(torch.ops.llava_kit.head_loss, (leaves[0], ids, leaves[1], leaves[2], softcap, 2**20, *needed))


def test_what_cannot_be_computed_is_refused():
    hidden, positions, ids, weight, bias = inputs()
    for given, message in (
        ((hidden, positions[:3], ids, weight), r"the counts do not agree: 3 in `positions`, 7 in `ids`"),
        ((hidden, positions, ids.float(), weight), r"`ids` is torch.float32; an index is int32 or int64"),
        ((hidden, positions, ids, weight[:, :5]), r"the widths do not agree: 24 in `hidden`, 5 in `weight`"),
        ((hidden, positions, ids, weight, bias[:5]), r"the words do not agree: 41 in `weight`, 5 in `bias`"),
        ((hidden, positions, ids, weight.half()), r"the head is torch.float16, the hidden states are torch.float32"),
        ((hidden.double(), positions, ids, weight.double()), r"`hidden` is torch.float64"),
    ):
        with pytest.raises(KernelInputError, match=message):
            head_loss(*given)
    with pytest.raises(KernelInputError, match=r"`softcap` is -1.0; expected a positive number"):
        head_loss(hidden, positions, ids, weight, softcap=-1.0)
    with pytest.raises(KernelInputError, match=r"`limit` is 0"):
        head_loss(hidden, positions, ids, weight, limit=0)
    with pytest.raises(KernelInputError, match=r"lie on meta|several devices"):
        head_loss(hidden.to("meta"), positions, ids, weight)


def test_a_model_with_logits_of_its_own_keeps_them():
    hidden, positions, ids, model = _model()
    ids[0] = IGNORE
    plain = F.cross_entropy(3 * model.logits(hidden.flatten(0, 1)[positions]), ids, reduction="sum")

    class Tripled(type(model)):
        def logits(self, hidden):
            return 3 * super().logits(hidden)

    model.__class__ = Tripled
    torch.testing.assert_close(TritonLoss()(hidden, positions, ids, model), plain)


def _model():
    from llava_kit.testing.losses import head_model

    return head_model(LossCase("some", 41), torch.float32, HOME)


def test_compiled_for_hopper(usage):
    found = usage(module)
    assert len(found) == 9
    for name, used in found.items():
        assert used.stack == 0, name
        assert used.shared <= MOST_SHARED, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnDevice:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_keeps_the_contract(self, dtype):
        check_loss(TritonLoss(), dtype, "cuda")
        check_loss(TritonLoss(limit=1), dtype, "cuda", [LossCase("long", 5003, num_targets=600, shape=(1, 700, 72), bias=True)])

    def test_waits_for_nothing_and_can_be_captured(self):
        hidden, positions, ids, weight, bias = inputs(num_words=5000, num_targets=7, dtype=torch.bfloat16)
        leaves = (hidden, weight, bias)

        def step():
            return torch.autograd.grad(head_loss(hidden, positions, ids, weight, bias, limit=2**20), leaves)

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            expected = step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(one, other) for one, other in zip(expected, captured))

    def test_memory_stays_within_a_quarter_of_the_logits_path(self):
        hidden, positions, ids, weight, _ = inputs(32_000, 16_384, 2_949, 4096, bias=False, dtype=torch.bfloat16)
        labels = torch.full((16_384,), IGNORE, device=HOME)
        labels[positions] = ids
        peaks = []
        for loss in (
            lambda: F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum"),
            lambda: head_loss(hidden, positions, ids, weight),
        ):
            hidden.grad = weight.grad = None
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            loss().backward()
            peaks.append(torch.cuda.max_memory_allocated() - before)
        assert peaks[1] <= peaks[0] / 4
