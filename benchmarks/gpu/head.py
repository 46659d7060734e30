"""Row G3: head and loss, forward and backward, against transformers' logits and Liger's fused loss.

T rows, D width, V vocabulary, M supervised rows. T=16,384, D=4,096, M=2,949 in 20 runs a sample of 876 positions (what a batch
of LLaVA's 665K mixture is like: 18 % are supervised). Ours is given the supervised rows' places, which the collator knows; the
peers are given labels of all rows, as their callers have them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_kit.core.language_model import LanguageModel
from llava_kit.model.loss import ReferenceLoss

from ..common import Times
from .common import (
    GIB,
    Ceilings,
    Functions,
    Memory,
    Row,
    ceilings,
    gpu_times,
    keep_trace,
    kernels,
    memory_of,
    optional,
    parse_arguments,
    reads_nothing,
    relative_error,
)

IGNORED = -100


@dataclass(frozen=True)
class Shape:
    rows: int
    width: int
    vocabs: tuple[int, ...]
    supervised: int
    sample: int
    runs: int


FULL = Shape(rows=16_384, width=4096, vocabs=(32_000, 128_256), supervised=2949, sample=876, runs=20)
TINY = Shape(rows=96, width=32, vocabs=(64, 80), supervised=17, sample=48, runs=4)


class Head(LanguageModel):
    """As much of a language model as the loss asks for."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.width = weight.shape[1]
        self.weight = nn.Parameter(weight)

    @property
    def embedding(self) -> nn.Parameter:
        return self.weight

    @property
    def head(self) -> nn.Parameter:
        return self.weight

    def forward(self, rows: Tensor, position_ids: Tensor, *, sequences: Any = None, cache: Any = None) -> Tensor:
        return rows

    def new_cache(self, batch: int, length: int, left_padding: Tensor | None = None) -> Any:
        raise NotImplementedError("only the head is here")


@dataclass
class Case:
    """One vocabulary: the inputs as each side wants them."""

    hidden: Tensor
    model: Head
    labels: Tensor
    """int64 [T], IGNORED where not supervised."""
    positions: Tensor
    """int64 [M], the rows whose next token is supervised."""
    ids: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.model.weight]


def supervised_places(shape: Shape) -> np.ndarray:
    """Which of the rows are answers: int64 [M], in runs, never the first of a sample."""
    random = np.random.default_rng(0)
    starts = np.arange(0, shape.rows, shape.sample)
    ends = np.minimum(starts + shape.sample, shape.rows)
    shares = np.diff(np.round(np.append(starts, shape.rows) / shape.rows * shape.supervised).astype(int))
    places = []
    for start, end, share in zip(starts, ends, shares, strict=True):
        runs = min(shape.runs, share)
        lengths = np.full(runs, share // runs) + (np.arange(runs) < share % runs)
        free = end - start - share - runs  # a place before each run is surely free
        gaps = 1 + random.multinomial(free, np.full(runs + 1, 1 / (runs + 1)))[:runs]
        begins = start + np.cumsum(gaps) + np.cumsum(lengths) - lengths
        places += [np.arange(begin, begin + length) for begin, length in zip(begins, lengths, strict=True)]
    found = np.concatenate(places)
    assert len(found) == shape.supervised
    assert len(np.unique(found)) == shape.supervised
    return found


def make_case(row: Row, shape: Shape, vocab: int) -> Case:
    generator = torch.Generator(row.device).manual_seed(0)

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator, device=row.device) * scale).to(row.dtype)

    places = torch.from_numpy(supervised_places(shape))
    ids = torch.randint(0, vocab, (len(places),), generator=torch.Generator().manual_seed(0))
    labels = torch.full((shape.rows,), IGNORED)
    labels[places] = ids
    hidden = draw(shape.rows, shape.width).requires_grad_()
    model = Head(draw(vocab, shape.width, scale=shape.width**-0.5))
    return Case(hidden, model, *(tensor.to(row.device) for tensor in (labels, places - 1, ids)))


def transformers_way(case: Case) -> Tensor:
    """As `LlamaForCausalLM.forward` does: logits of all rows, in float32, shifted by the labels."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = F.linear(case.hidden, case.model.head)
    return ForCausalLMLoss(logits[None], case.labels[None], vocab_size=case.model.head.shape[0])


def liger_way(row: Row) -> Callable[[Case], Tensor] | None:
    def load():
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)

    loss = optional(row, "Liger's fused loss", load)
    return loss and (lambda case: loss(case.model.head, case.hidden, F.pad(case.labels, (0, 1), value=IGNORED)[1:]))


def our_ways(row: Row) -> dict[str, Callable[[Case], Tensor]]:
    """Ours by kernels where they can run, and the plain one; the first is the one that targets are for."""
    ways: dict[str, Callable[[Case], Tensor]] = {}

    def load():
        from llava_kit_kernels.loss import TritonLoss

        return TritonLoss()

    triton = kernels(row, "the loss in Triton", load)
    if triton is not None:
        ways["ours"] = lambda case: triton(case.hidden, case.positions, case.ids, case.model) / len(case.ids)
    reference = ReferenceLoss()
    ways["ours, plain torch"] = lambda case: reference(case.hidden, case.positions, case.ids, case.model) / len(case.ids)
    return ways


def step(way: Callable[[Case], Tensor], case: Case) -> Tensor:
    """The loss; gradients are left with the leaves."""
    for leaf in case.leaves:
        leaf.grad = None
    loss = way(case)
    loss.backward()
    return loss.detach()


def truth(case: Case) -> tuple[float, list[Tensor]]:
    """Loss and gradients in float32, of the supervised rows alone (those of all others are zero)."""
    weight = case.model.weight.detach().float()
    rows = case.hidden.detach().index_select(0, case.positions).float()
    gradient, rows_gradient, total = torch.zeros_like(weight), torch.empty_like(rows), 0.0
    for start in range(0, len(rows), 512):
        part, ids = rows[start : start + 512], case.ids[start : start + 512]
        logits = part @ weight.T
        total += float(F.cross_entropy(logits, ids, reduction="sum"))
        errors = logits.softmax(dim=-1)
        errors[torch.arange(len(ids), device=ids.device), ids] -= 1
        errors /= len(rows)
        gradient += errors.T @ part
        rows_gradient[start : start + 512] = errors @ weight
    whole = torch.zeros(case.hidden.shape, device=rows.device).index_copy_(0, case.positions, rows_gradient)
    return total / len(rows), [whole, gradient]


def check(row: Row, name: str, ways: dict[str, Callable[[Case], Tensor]], case: Case) -> None:
    """Ours against float32: loss to 1e-3, gradients to 2e-2, and the same bits twice."""
    loss, gradients = truth(case)
    for way in (way for way in ways if way.startswith("ours")):
        found = float(step(ways[way], case))
        taken = [leaf.grad for leaf in case.leaves]
        worst = max(relative_error(a, b) for a, b in zip(taken, gradients, strict=True) if a is not None)
        good = all(gradient is not None for gradient in taken) and worst <= 2e-2 and abs(found - loss) <= 1e-3 * abs(loss)
        row.report.claim(f"{name}, {way}: loss to 1e-3 and gradients to 2e-2 of float32 (found {worst:.1e})", good)
        step(ways[way], case)
        same = all(
            a is not None and leaf.grad is not None and torch.equal(a, leaf.grad)
            for a, leaf in zip(taken, case.leaves, strict=True)
        )
        row.report.claim(f"{name}, {way}: two runs have the same bits", same)


def measure(row: Row, shape: Shape, vocab: int, limits: Ceilings) -> None:
    name = f"V={vocab:,}"
    case, ours = make_case(row, shape, vocab), our_ways(row)
    ways: dict[str, Callable[[Case], Tensor]] = {**ours, "transformers": transformers_way}
    liger = liger_way(row)
    if liger is not None:
        ways["Liger"] = liger
    check(row, name, ways, case)
    memory = {}
    for way, function in ways.items():
        for leaf in case.leaves:
            leaf.grad = None
        _, memory[way] = memory_of(lambda function=function: step(function, case))
    functions: Functions = {way: lambda function=function: step(function, case) for way, function in ways.items()}
    times = gpu_times(row, functions, seconds=min(14.0, row.left / 3))
    tell(row, name, times, memory, 6 * shape.supervised * shape.width * vocab / limits.flops)
    if not row.tiny or "ours" not in ours:  # the interpreter itself reads tensors
        first = next(iter(ours))
        row.report.claim(f"{name}, {first}: no host read", reads_nothing(row, functions[first]))
    keep_trace(row, f"{name}, {next(iter(ours))}", functions[next(iter(ours))])


def tell(row: Row, name: str, times: dict[str, Times], memory: dict[str, Memory], floor: float) -> None:
    report, ours = row.report, next(iter(times))
    report.figure(f"{name}: floor, three products over the supervised rows", floor * 1e3, "ms")
    for way in times:
        report.figure(f"{name}: {way}, median", times[way].median * 1e3, "ms")
        report.figure(f"{name}: {way}, minimum", times[way].minimum * 1e3, "ms")
        report.figure(f"{name}: {way}, peak memory", memory[way].peak / GIB, "GiB")
    report.figure(f"{name}: of the floor's speed, {ours}", 100 * floor / times[ours].median, "%")
    for peer, most in (("transformers", 0.25), ("Liger", 1.0)):
        if peer in times:
            report.figure(f"{name}: {peer} / ours, time", times[peer].median / times[ours].median, "x", at_least=3.0)
            share = memory[ours].peak / max(1, memory[peer].peak)
            report.figure(f"{name}: ours / {peer}, memory", share, "x", at_most=most)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv, seconds=60)
    row = Row("G3", "head and loss, forward and backward", arguments)
    shape = TINY if row.tiny else FULL
    limits = row.part("ceilings of this device", ceilings, row)
    for vocab in shape.vocabs if limits else ():
        row.part(f"V={vocab:,}", measure, row, shape, vocab, limits, needs=10)
    return row.finish()


if __name__ == "__main__":
    sys.exit(main())
