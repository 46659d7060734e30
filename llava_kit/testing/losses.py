"""Holds a loss to the truth: targets one by one in float64, and the error that plain torch makes in the same precision.

B rows of S positions, T = B * S, M targets, V words, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.language_model import LanguageModel
from ..core.loss import IGNORE, TargetLoss
from .splicers import ALLOWED, poisoned_memory

# What a loss is multiplied with before the backward pass: the loop divides by the targets of the global batch.
_UPSTREAM = 0.37


@dataclass(frozen=True)
class LossCase:
    """B, S and D, a vocabulary, and how many targets there are; `ignored` of them count nothing.

    `tied`: the head is the embedding, of which the hidden states are made too. `frozen`: of hidden, head and bias.
    """

    name: str
    num_words: int
    num_targets: int = 7
    ignored: int = 0
    shape: tuple[int, int, int] = (2, 9, 24)
    bias: bool = False
    softcap: float | None = None
    tied: bool = False
    frozen: frozenset[str] = frozenset()
    scale: float = 1.0


def loss_cases() -> list[LossCase]:
    """Vocabularies of every size, fillings, caps, and each part frozen."""
    return [
        LossCase("one word", 1),
        LossCase("41 words", 41, shape=(1, 13, 41)),
        LossCase("341 words", 341, num_targets=17),
        LossCase("1,000 words, steep", 1000, num_targets=5, scale=8.0),
        LossCase("one target", 41, num_targets=1),
        LossCase("no targets", 41, num_targets=0, bias=True),
        LossCase("filled up", 341, ignored=3, bias=True),
        LossCase("nothing counts", 41, ignored=7),
        LossCase("capped", 341, softcap=2.0),
        LossCase("capped, biased", 341, softcap=5.0, bias=True, scale=3.0),
        LossCase("tied", 41, tied=True),
        LossCase("head frozen", 341, bias=True, frozen=frozenset({"head", "bias"})),
        LossCase("hidden frozen", 341, bias=True, frozen=frozenset({"hidden"})),
        LossCase("bias alone", 41, bias=True, frozen=frozenset({"hidden", "head"})),
        LossCase("all frozen", 41, bias=True, frozen=frozenset({"hidden", "head", "bias"})),
    ]


def check_loss(
    loss: TargetLoss,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    cases: Sequence[LossCase] | None = None,
) -> None:
    """Runs `loss` forward and backward through `loss_cases()` (or `cases`), and again with memory that holds NaN before use.

    The loss and every gradient may be off from float64 by 1.5 times as much as plain torch is, plus the rounding of the result
    itself; two runs are equal bit by bit. What is frozen gets no gradient; what trains always gets one.

    Raises:
        AssertionError: names the case, the tensor, the error and what was allowed.
    """
    for case in loss_cases() if cases is None else cases:
        truth = _results(_one_by_one, case, dtype, device, exact=True)
        plain = _results(_plain_torch, case, dtype, device)
        found = _results(loss, case, dtype, device)
        rounding = _rounding_of_logits(case, dtype)
        _compare(case.name, found, plain, truth, rounding)
        with poisoned_memory():
            again = _results(loss, case, dtype, device)
        _compare(f"{case.name}, memory poisoned", again, plain, truth, rounding)
        for what, value in found.items():
            assert torch.equal(value, again[what]), f"case {case.name!r}: two runs differ in {what}"
        _check_without_gradient(loss, case, found["loss"], dtype, device)


class HeadModel(LanguageModel):
    """A language model of which only the head is wanted: embedding [V, D], head [V, D] (None: tied), bias [V]."""

    def __init__(self, embedding: nn.Parameter, head: nn.Parameter | None, bias: nn.Parameter | None, softcap: float | None):
        super().__init__()
        self.width = embedding.shape[1]
        self.logit_softcap = softcap
        self._embedding, self._head, self._bias = embedding, head, bias

    @property
    def embedding(self) -> nn.Parameter:
        return self._embedding

    @property
    def head(self) -> nn.Parameter:
        return self._embedding if self._head is None else self._head

    @property
    def head_bias(self) -> Tensor | None:
        return self._bias

    def forward(self, rows: Tensor, position_ids: Tensor, **_: Any) -> Tensor:
        return rows

    def new_cache(self, batch: int, length: int, left_padding: Tensor | None = None) -> None:
        return None


def head_model(case: LossCase, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, HeadModel]:
    """Hidden states [B, S, D] (a leaf), positions [M], ids [M], and the model: the same for each call, and for each `dtype`."""
    generator = torch.Generator().manual_seed(len(case.name) + case.num_words)
    batch, length, width = case.shape

    def leaf(*shape: int, scale: float, name: str) -> nn.Parameter:
        values = torch.randn(*shape, generator=generator) * scale
        return nn.Parameter(values.to(dtype).to(device), name not in case.frozen)

    hidden = leaf(batch, length, width, scale=case.scale, name="hidden")
    embedding = leaf(case.num_words, width, scale=width**-0.5, name="head")
    head = None if case.tied else leaf(case.num_words, width, scale=width**-0.5, name="head")
    bias = leaf(case.num_words, scale=1.0, name="bias") if case.bias else None
    positions = torch.randperm(batch * length, generator=generator)[: case.num_targets]
    ids = torch.randint(0, case.num_words, (case.num_targets,), generator=generator)
    if case.ignored:
        # What fills a list up may name any row, one that counts too.
        ids[-case.ignored :] = IGNORE
        positions[-case.ignored :] = positions[0]
    return hidden, positions.to(device), ids.to(device), HeadModel(embedding, head, bias, case.softcap)


def _results(
    loss: Callable[..., Tensor], case: LossCase, dtype: torch.dtype, device: torch.device | str, *, exact: bool = False
) -> dict[str, Tensor]:
    """The loss and the gradients. `exact`: inputs are rounded to `dtype` all the same, but then computed with in float64."""
    hidden, positions, ids, model = head_model(case, dtype, device)
    if exact:
        model.double()
        hidden = nn.Parameter(hidden.detach().double(), hidden.requires_grad)
    rows = hidden
    if case.tied:
        words = torch.arange(rows.shape[0] * rows.shape[1], device=rows.device) % case.num_words
        rows = rows + F.embedding(words, model.embedding).view_as(rows)
    leaves = {"hidden": hidden, "head": model.head, "bias": model.head_bias}
    trained = [name for name, leaf in leaves.items() if leaf is not None and leaf.requires_grad]
    value = loss(rows, positions, ids, model)
    if not exact:
        assert value.shape == (), f"case {case.name!r}: the loss has shape {tuple(value.shape)}"
        assert value.dtype == torch.float32, f"case {case.name!r}: the loss is {value.dtype}, not float32"
    results = {"loss": value.detach().clone()}
    if not trained:
        assert not value.requires_grad, f"case {case.name!r}: everything is frozen, but the loss requires a gradient"
        return results
    (value * _UPSTREAM).backward()
    for name, leaf in leaves.items():
        if name in trained:
            assert leaf is not None
            assert leaf.grad is not None, f"case {case.name!r}: {name} trains but got no gradient"
            results[f"gradient of {name}"] = leaf.grad
        else:
            assert leaf is None or leaf.grad is None, f"case {case.name!r}: {name} is frozen but got a gradient"
    return results


def _one_by_one(hidden: Tensor, positions: Tensor, ids: Tensor, model: LanguageModel) -> Tensor:
    """The truth: one target after another."""
    used = [tensor for tensor in (hidden, model.head, model.head_bias) if tensor is not None]
    total = sum((tensor.sum() * 0 for tensor in used), hidden.new_zeros(()))
    rows = hidden.flatten(0, -2)
    for position, word in zip(positions.tolist(), ids.tolist(), strict=True):
        if word != IGNORE:
            total = total - model.logits(rows[position]).log_softmax(-1)[word]
    return total


def _plain_torch(hidden: Tensor, positions: Tensor, ids: Tensor, model: LanguageModel) -> Tensor:
    """The yardstick of rounding errors."""
    logits = model.logits(hidden.flatten(0, -2)[positions]).float()
    return F.cross_entropy(logits, ids, reduction="sum", ignore_index=IGNORE)


def _rounding_of_logits(case: LossCase, dtype: torch.dtype) -> float:
    """What the loss may be off when each target's logit is rounded to `dtype`, up or down by chance."""
    hidden, positions, _, model = head_model(case, dtype, "cpu")
    logits = model.double().logits(hidden.detach().double().flatten(0, -2)[positions]).detach()
    return torch.finfo(dtype).eps / 2 * float(logits.abs().max()) * len(positions) ** 0.5 if len(positions) else 0.0


def _compare(name: str, found: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor], rounding: float) -> None:
    for what, expected in truth.items():
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        # Plain torch may be right by luck: hence also a unit of the result's own rounding (it is rounded once when it is made,
        # and once when it is scaled), and what sums of float32 numbers of the size of logits lose to another order.
        luck = torch.finfo(found[what].dtype).eps * scale + 8 * torch.finfo(torch.float32).eps * (1 + scale)
        allowed = ALLOWED * _error(plain[what], expected) + luck + (rounding if what == "loss" else 0.0)
        error = _error(found[what], expected)
        # Written so that NaN fails.
        assert error <= allowed, f"case {name!r}: {what} off by {error:.3g}, allowed {allowed:.3g} (largest value {scale:.3g})"


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max()) if expected.numel() else 0.0


def _check_without_gradient(
    loss: TargetLoss, case: LossCase, expected: Tensor, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Validation asks for the number alone."""
    if case.tied:
        return  # its hidden states are made inside `_results`
    with torch.no_grad(), poisoned_memory():
        value = loss(*head_model(case, dtype, device))
    assert not value.requires_grad
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=f"case {case.name!r}: another loss under no_grad")
