"""Packed attention: one kernel over offsets on a GPU, held to one attention a sequence in float32; masks where recorded."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from llava_kit import Sequences
from llava_kit_causal_lm import attention

LENGTHS = (1, 300, 77, 1, 128, 129, 5, 383)


def sequences(lengths, device="cpu", *, empty: int = 0, longest: int | None = None) -> Sequences:
    ends = (0, *accumulate(lengths))
    offsets = torch.tensor((*ends, *[ends[-1]] * empty), dtype=torch.int32, device=device)
    return Sequences(offsets, ends, longest or max(lengths), packed=True)


def attend(view: attention.View, inputs: list[Tensor], window: int | None) -> list[Tensor]:
    """The output [B, S, H, E] and the gradients of a fixed random sum of it."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output, _ = attention.attend(nn.Module(), *leaves, None, sliding_window=window, **{attention.ARGUMENT: view})
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    output.backward(upstream)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def draw(rows: int, length: int, heads: int, groups: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, count, length, width, generator=generator) for count in (heads, groups, groups)]


@pytest.mark.parametrize("window", [None, 1, 60])
def test_masks_of_recorded_steps_are_the_same_attention(monkeypatch, window):
    inputs = draw(2, 512, 4, 2, 16)
    packed = sequences((1, 300, 77, 134, 511, 1), empty=5)
    expected = attend(attention.make_view((2, 512), torch.device("cpu"), {window}, sequences=packed), inputs, window)
    monkeypatch.setattr(attention, "_recorded", lambda device: True)
    view = attention.make_view((2, 512), torch.device("cpu"), {window}, sequences=packed)
    assert view.packed is None
    for wanted, found in zip(expected, attend(view, inputs, window), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("knows_groups", [True, False])
@pytest.mark.parametrize(("window", "asked"), [(None, (512, 0)), (60, (59, 0))])
def test_what_the_kernel_is_asked(monkeypatch, window, asked, knows_groups):
    """Causal order as a window of the longest sequence; the first releases want grouped heads repeated."""
    found = {}

    def fake(query, key, value, offsets_q, offsets_k, longest_q, longest_k, **keys):
        found.update(keys, shapes=(query.shape, key.shape, value.shape), longest=(longest_q, longest_k))
        assert offsets_q is offsets_k
        return query

    known = {"window_size", "scale", *(["enable_gqa"] if knows_groups else [])}
    monkeypatch.setattr(attention, "_VARLEN_KNOWS", frozenset(known))
    monkeypatch.setattr(attention, "varlen_attn", fake)
    inputs = draw(2, 512, 4, 2, 16)
    view = attention.View({window: None}, sequences(LENGTHS, longest=512), torch.bfloat16)
    keys = {attention.ARGUMENT: view, "scaling": 0.3}
    output, _ = attention.attend(nn.Module(), *inputs, None, sliding_window=window, **keys)
    heads = 2 if knows_groups else 4
    assert found == {
        "window_size": asked,
        "scale": 0.3,
        "shapes": ((1024, 4, 16), (1024, heads, 16), (1024, heads, 16)),
        "longest": (512, 512),
        **({"enable_gqa": True} if knows_groups else {}),
    }
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, inputs[0].transpose(1, 2).bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 96, 128])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 1, 60, 4096])
def test_one_kernel_is_one_attention_for_each_sequence(window, heads, groups, width, dtype):
    inputs = [tensor.cuda() for tensor in draw(2, 512, heads, groups, width)]
    rounded = [tensor.to(dtype) for tensor in inputs]
    truth = attend(
        attention.make_view((2, 512), inputs[0].device, {window}, sequences=sequences(LENGTHS, "cuda")),
        [tensor.float() for tensor in rounded],
        window,
    )
    results = []
    for packed in (sequences(LENGTHS, "cuda"), sequences(LENGTHS, "cuda", empty=24, longest=512)):
        view = attention.make_view((2, 512), inputs[0].device, {window}, sequences=packed, fused=dtype)
        results.append(attend(view, rounded, window))
    allowed = 2e-2 if dtype is torch.bfloat16 else 4e-3
    for found, filled, wanted in zip(*results, truth, strict=True):
        assert found.dtype == dtype
        # Who sees itself alone has weights of one, whatever the scores: gradients of queries and keys are nothing but rounding.
        limit = allowed * wanted.abs().max().clamp(min=1e-2)
        assert (found.float() - wanted).abs().max() <= limit
        # A longest sequence that is rounded up, and empty sequences at the end, change nothing; how the kernel adds up the
        # gradient of queries may differ from run to run.
        assert (filled.float() - found.float()).abs().max() <= limit
    assert torch.equal(results[0][0], results[1][0])
