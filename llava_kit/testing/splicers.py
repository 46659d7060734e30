"""Holds a splicer to the truth: seats filled one by one in float64, and the error that plain torch makes in the same precision.

K visual rows in use, B rows of S positions, T = B * S, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.connector import Connector
from ..core.splice import BLENDED, NEWLINE, PAD, TEXT, SplicePlan, Splicer
from .plans import Case, Parts, battery

ALLOWED = 1.5
"""A splicer's error may be this many times that of plain torch: other orders of summation, not other mathematics."""


def check_splicer(
    splicer: Splicer,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    cases: Sequence[Case] | None = None,
) -> None:
    """Runs `splicer` forward and backward through `battery()` (or `cases`), and again with memory that holds NaN before use.

    Text, newline and padding rows must be exact. Visual rows and every gradient may be off from float64 by 1.5 times as much
    as plain torch is, plus the rounding of the result itself. What is frozen gets no gradient; what trains always gets one.

    Raises:
        AssertionError: names the case, the tensor, the error and what was allowed.
    """
    for case in battery() if cases is None else cases:
        plan = case.plan.to(device)
        truth = _results(_seat_by_seat, case, plan, dtype, device, exact=True)
        plain = _results(_plain_torch, case, plan, dtype, device)
        _compare(case.name, _results(splicer, case, plan, dtype, device), plain, truth)
        with poisoned_memory():
            poisoned = _results(splicer, case, plan, dtype, device)
        _compare(f"{case.name}, memory poisoned", poisoned, plain, truth)
        _check_copied_rows(splicer, case, plan, dtype, device)


def _results(
    splicer: Splicer, case: Case, plan: SplicePlan, dtype: torch.dtype, device: torch.device | str, *, exact: bool = False
) -> dict[str, Tensor]:
    """The rows and the gradients. `exact`: the parts are rounded to `dtype` all the same, but then computed with in float64."""
    used = case.parts(dtype, device)
    if exact:
        used = _in_float64(used)
    leaves = used.trained
    rows = splicer(plan, used.features, used.connector, used.embedding, used.newline)
    assert rows.shape == (*plan.shape, case.text_width), f"case {case.name!r}: rows have shape {tuple(rows.shape)}"
    assert rows.dtype == used.embedding.dtype, f"case {case.name!r}: rows are {rows.dtype}, not {used.embedding.dtype}"
    results = {"rows": rows.detach()}
    if not leaves:
        assert not rows.requires_grad, f"case {case.name!r}: everything is frozen, but the rows require a gradient"
        return results
    upstream = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype).to(rows.dtype)
    rows.backward(upstream)
    for name, leaf in leaves.items():
        assert leaf.grad is not None, f"case {case.name!r}: {name} trains but got no gradient"
        results[f"gradient of {name}"] = leaf.grad
    return results


def _in_float64(parts: Parts) -> Parts:
    def raised(tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.detach().double(), tensor.requires_grad)

    connector = copy.deepcopy(parts.connector).double()
    newline = None if parts.newline is None else raised(parts.newline)
    exact = Parts(raised(parts.features), connector, raised(parts.embedding), newline)
    named = {"features": exact.features, "embedding": exact.embedding, "newline": newline}
    named |= {f"connector.{name}": parameter for name, parameter in connector.named_parameters()}
    exact.trained = {name: tensor for name, tensor in named.items() if tensor is not None and name in parts.trained}
    return exact


def _seat_by_seat(
    plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None
) -> Tensor:
    """The truth: one position after another, from `source` alone but for the token ids."""
    visual = [row for tile in features for row in connector(tile[None])[0]]
    text = dict(zip(plan.text_positions.tolist(), plan.text_ids.tolist()))
    blended = {}
    for blend in plan.blends:
        taken = blend.rows[blend.taps].tolist()
        for position, taps, weights in zip(blend.positions.tolist(), taken, blend.weights.tolist(), strict=True):
            four = [visual[tap] for tap in taps]
            weighted = [row * weight for row, weight in zip(four, weights)]
            blended[position] = torch.stack(weighted).sum(0) if blend.reduce == "sum" else torch.stack(four).max(0).values
    rows = []
    for position, source in enumerate(plan.source.tolist()):
        if source == TEXT:
            rows.append(embedding[text[position]])
        elif source == PAD:
            rows.append(torch.zeros_like(embedding[0]))
        elif source == NEWLINE:
            assert newline is not None
            rows.append(newline)
        elif source == BLENDED:
            rows.append(blended[position])
        else:
            rows.append(visual[source])
    unused = [tensor.sum() * 0 for tensor in (features, embedding, newline, *connector.parameters()) if tensor is not None]
    return torch.stack(rows).view(*plan.shape, -1) + sum(unused)


def _plain_torch(plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None) -> Tensor:
    """The same in a few torch operations, every tile projected: the yardstick of rounding errors."""
    parameter = next(connector.parameters(), None)
    projected = connector(features if parameter is None else features.to(parameter.dtype)).flatten(0, 1).to(embedding.dtype)
    last = embedding.new_zeros(1, embedding.shape[1]) if newline is None else newline[None]
    table = torch.cat([projected, F.embedding(plan.text_ids, embedding), last, embedding.new_zeros(1, embedding.shape[1])])
    num_text = len(plan.text_ids)
    seats = torch.full((plan.source.numel() + plan.spare,), len(projected) + num_text + 1, device=embedding.device)
    seats[plan.newline_positions] = len(projected) + num_text
    seats[plan.text_positions] = len(projected) + torch.arange(num_text, device=embedding.device)
    seats[plan.visual_positions] = plan.visual_rows
    rows = table[seats]
    for blend in plan.blends:
        four = projected[blend.rows][blend.taps]
        weighted = four.float() * blend.weights[..., None]
        mixed = weighted.sum(1).to(rows.dtype) if blend.reduce == "sum" else four.max(1).values
        rows = rows.index_copy(0, blend.positions, mixed)
    return rows[: plan.source.numel()].view(*plan.shape, -1)


def _compare(name: str, found: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    num_rows = truth["rows"][..., 0].numel()
    for what, expected in truth.items():
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        # Where a tensor has one element, plain torch may be right by luck: hence also half a unit of the result's own rounding,
        # and what a float32 sum over the rows may lose to another order.
        luck = torch.finfo(found[what].dtype).eps / 2 + torch.finfo(torch.float32).eps * num_rows**0.5
        allowed = ALLOWED * _error(plain[what], expected) + luck * scale
        error = _error(found[what], expected)
        # Written so that NaN fails.
        assert error <= allowed, f"case {name!r}: {what} off by {error:.3g}, allowed {allowed:.3g} (largest value {scale:.3g})"


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max()) if expected.numel() else 0.0


def _check_copied_rows(splicer: Splicer, case: Case, plan: SplicePlan, dtype: torch.dtype, device: torch.device | str) -> None:
    """Rows that are only copied have no rounding to excuse."""
    parts = case.parts(dtype, device)
    with torch.no_grad(), poisoned_memory():
        rows = splicer(plan, parts.features, parts.connector, parts.embedding, parts.newline).flatten(0, 1)
        seated = plan.text_positions < len(rows)  # all, but for those that only fill the list up
        text = rows[plan.text_positions[seated]] == F.embedding(plan.text_ids[seated], parts.embedding)
        assert text.all(), f"case {case.name!r}: text rows are not the embedding's"
        if parts.newline is not None:
            newlines = rows[plan.source == NEWLINE]
            assert (newlines == parts.newline).all(), f"case {case.name!r}: newline rows differ"
        assert (rows[plan.source == PAD] == 0).all(), f"case {case.name!r}: padding rows are not zero"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that is allocated without being filled holds NaN, so that a row nobody wrote is seen."""
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # a module with a property, which type checkers do not see
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
