"""Rows G1 and G2: projector, packing of rows and splice, forward (G1) and with the backward pass (`--backward`, G2).

B samples, N tiles of P patches and a class token, D_v and D widths before and after, T positions. Each sample has one picture
and 300 tokens of text; the tower's output with its class token is given, the plan was made beforehand by a data worker. Peers
are fed the very same weights: transformers' projector class, `pack_image_features`, placeholder mask and `masked_scatter` in
the order of `LlavaModel.forward` (the splice is that of row C5), and LLaVA's own loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from llava_kit.assemble.parts import build
from llava_kit.core.connector import Connector
from llava_kit.core.splice import PAD, SplicePlan, Splicer
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.splice.reference import ReferenceSplicer

from .. import splice
from ..common import Times
from .common import (
    MIB,
    Ceilings,
    Functions,
    Row,
    ceilings,
    free,
    gpu_times,
    keep_trace,
    kernels,
    memory_of,
    optional,
    parse_arguments,
    reads_nothing,
    relative_error,
    wall_times,
)

TEXT, VOCAB = 300, 32_064
# 640 x 480 on a canvas of two by two tiles: 576 + 1,728 rows are kept and 36 newlines put in.
NEXT = TileGrid((640, 480), Grid(2, 2), merge="spatial_unpad")


@dataclass(frozen=True)
class Case:
    """One model at one batch size, and what is asked of it: at least so many times each peer's speed."""

    name: str
    vision: int
    width: int
    batch: int
    grid: TileGrid = splice.OVERVIEW
    transformers: float | None = None
    original: float | None = None
    side: Grid = splice.SIDE
    text: int = TEXT
    vocab: int = VOCAB

    def __str__(self) -> str:
        return f"{self.name} B={self.batch}"


# Targets: of the wall clock in G1 and of the device's in G2, as the scoreboard has them. Most telling cases first.
FORWARD = [
    Case("7B", 1024, 4096, 8, transformers=1.6, original=4.0),
    Case("7B", 1024, 4096, 1, transformers=2.2),
    Case("7B", 1024, 4096, 32, transformers=1.6, original=4.0),
    Case("NeXT-7B", 1024, 4096, 8, NEXT, transformers=1.8),
    Case("13B", 1024, 5120, 8, transformers=1.5),
    Case("NeXT-34B", 1024, 7168, 8, NEXT, transformers=1.5),
]
BACKWARD = [
    Case("7B", 1024, 4096, 8, transformers=1.7),
    Case("NeXT-7B", 1024, 4096, 8, NEXT, transformers=1.7),
    Case("7B", 1024, 4096, 32, transformers=1.7),
    Case("13B", 1024, 5120, 8, transformers=1.7),
    Case("NeXT-34B", 1024, 7168, 4, NEXT, transformers=1.7),
]
_SMALL: dict[str, Any] = {"side": Grid(4, 4), "text": 24, "vocab": splice.VOCAB}
TINY = [Case("7B", 16, 24, 2, transformers=1.6, original=4.0, **_SMALL), Case("NeXT", 16, 24, 1, NEXT, **_SMALL)]


@dataclass
class Setting:
    """A case on the device: weights, and the inputs as each side wants them."""

    tower: Tensor
    """[N, 1 + P, D_v]: what the vision tower gives, its class token first."""
    plan: SplicePlan
    connector: Connector
    projector: nn.Module
    """transformers' own, around the connector's parameters."""
    batch: splice.Batch
    """For the peers' splices; `features` is put in when they are known."""

    @property
    def leaves(self) -> list[Tensor]:
        parameters = list(self.connector.parameters())
        return [*parameters, *(leaf for leaf in (self.batch.embedding, self.batch.newline) if leaf is not None)]


def make_setting(row: Row, case: Case, *, trains: bool) -> Setting:
    generator = torch.Generator(row.device).manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, device=row.device) * scale
        return drawn.to(row.dtype).requires_grad_(trains)

    batch = splice.make_batch([case.grid] * case.batch, side=case.side, text=case.text, width=8)
    plan = batch.built.plan
    if row.device.type == "cuda":
        plan = plan.pin_memory()
        lists = (plan.source, plan.text_ids, plan.text_positions, plan.visual_rows, plan.visual_positions)
        row.report.claim(f"{case}: the plan's lists are in pinned memory", all(tensor.is_pinned() for tensor in lists))
    connector = build("connector", "mlp", depth=2, vision_width=case.vision, text_width=case.width, grid=case.side)
    connector = connector.to(row.device, row.dtype).requires_grad_(trains)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.copy_(draw(*parameter.shape, scale=parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.1))
    tiles = plan.num_visual // case.side.area
    return Setting(
        tower=draw(tiles, 1 + case.side.area, case.vision).detach(),
        plan=plan.to(row.device, non_blocking=True),
        connector=connector,
        projector=_theirs(connector, case),
        batch=replace(
            batch,
            embedding=draw(case.vocab, case.width),
            newline=None if batch.newline is None else draw(case.width),
            placeholder_ids=batch.placeholder_ids.to(row.device),
            image_sizes=batch.image_sizes.to(row.device),
            padded_ids=batch.padded_ids.to(row.device),
            padded_labels=batch.padded_labels.to(row.device),
        ),
    )


def _theirs(connector: Connector, case: Case) -> nn.Module:
    """`LlavaMultiModalProjector` (LLaVA-NeXT's is the same code) whose parameters are the connector's."""
    vision = CLIPVisionConfig(hidden_size=case.vision, num_attention_heads=1)
    text = LlamaConfig(hidden_size=case.width, num_attention_heads=1)
    with torch.device("meta"):
        projector = LlavaMultiModalProjector(LlavaConfig(vision_config=vision, text_config=text))
    chain = connector.chain()
    assert chain is not None
    projector.linear_1, projector.linear_2 = chain.maps
    return projector


def transformers_way(setting: Setting) -> Tensor:
    return splice.transformers_way(replace(setting.batch, features=setting.projector(setting.tower[:, 1:])))


def original_way(setting: Setting) -> Tensor:
    return splice.original_way(replace(setting.batch, features=setting.projector(setting.tower[:, 1:])))


def our_ways(row: Row) -> dict[str, Callable[[Setting], Tensor]]:
    """Ours by kernels where they can run, and the plain one; the first is the one that targets are for."""

    def load():
        from llava_kit_kernels.splicer import TritonSplicer

        return TritonSplicer()

    triton = kernels(row, "the splicer in Triton", load)
    splicers: dict[str, Splicer] = {} if triton is None else {"ours": triton}
    splicers["ours, plain torch"] = ReferenceSplicer()

    def wear(splicer: Splicer) -> Callable[[Setting], Tensor]:
        return lambda s: splicer(s.plan, s.tower[:, 1:], s.connector, s.batch.embedding, s.batch.newline)

    return {name: wear(splicer) for name, splicer in splicers.items()}


Ways = dict[str, Callable[[Setting], Tensor]]


def check(row: Row, case: Case, ways: Ways, setting: Setting) -> None:
    """Each of ours against float64, no further from it than 1.5 times transformers' own distance."""
    wide = deepcopy(setting.connector).double()
    embedding, newline = setting.batch.embedding.detach().double(), setting.batch.newline
    with torch.no_grad():
        exact = ReferenceSplicer()(
            setting.plan, setting.tower[:, 1:].double(), wide, embedding, None if newline is None else newline.double()
        )
        filled = (setting.plan.source != PAD).view(exact.shape[:2])
        exact = exact[filled]
        apart = {name: relative_error(way(setting)[filled], exact) for name, way in ways.items()}
    for name in ours_of(ways):
        found, theirs = apart[name], apart["transformers"]
        sentence = f"{case}, {name}: error against float64 at most 1.5 times transformers' ({found:.1e}, {theirs:.1e})"
        row.report.claim(sentence, found <= 1.5 * theirs + 1e-12)
    as_near = apart["original"] <= 1.5 * apart["transformers"] + 1e-12
    row.report.claim(f"{case}: the original's rows are as near to float64 as transformers'", as_near)


def ours_of(ways: Ways) -> list[str]:
    return [name for name in ways if name.startswith("ours")]


def floor_seconds(setting: Setting, limits: Ceilings) -> float:
    """Both products of the kept rows at this device's rate, and text and newline rows read and written once."""
    plan, (first, second) = setting.plan, setting.connector.chain().maps  # type: ignore[union-attr]
    flops = 2 * len(plan.visual_rows) * (first.weight.numel() + second.weight.numel())
    copied = (len(plan.text_positions) + len(plan.newline_positions)) * second.weight.shape[0] * setting.tower.element_size()
    return flops / limits.flops + 2 * copied / limits.bandwidth


def note_choices(row: Row, case: Case, setting: Setting) -> None:
    """Which candidate the tables choose for each product of this shape."""

    def load():
        from llava_kit_kernels.ops import choices

        return choices

    choices = optional(row, "the table of choices", load)
    if choices is None:
        return
    rows = len(setting.plan.visual_rows)
    sizes = {"linear_gelu": (case.width, case.vision), "linear_scatter": (case.width, case.width)}
    for op, (n, k) in sizes.items():
        chosen = optional(row, op, lambda op=op, n=n, k=k: choices.choose(op, row.device, row.dtype, rows, n, k))
        if chosen is not None:
            row.note(f"{case}: {op} {rows} x {n} x {k} by {chosen}")


def measure_forward(row: Row, case: Case, limits: Ceilings, seconds: float, trace: bool) -> None:
    setting = make_setting(row, case, trains=False)
    ways: Ways = {**our_ways(row), "transformers": transformers_way, "original": original_way}
    check(row, case, ways, setting)
    free()
    first, second = setting.connector.chain().maps  # type: ignore[union-attr]
    rows = setting.tower.flatten(0, 1)[: len(setting.plan.visual_rows)]
    functions: Functions = {name: lambda way=way: way(setting) for name, way in ways.items()}
    products: Functions = {"two products by cuBLAS": lambda: second(first(rows))}
    with torch.no_grad():
        device = gpu_times(row, {**functions, **products}, seconds=seconds)
        wall = wall_times(row, functions)
        floor = floor_seconds(setting, limits)
        _tell_forward(row, case, device, wall, floor)
        note_choices(row, case, setting)
        best = next(iter(ways))
        if not row.tiny or "ours" not in ways:  # the interpreter itself reads tensors
            row.report.claim(f"{case}, {best}: no host read", reads_nothing(row, functions[best]))
        if trace:
            for name in (best, "transformers"):
                keep_trace(row, f"{case}, {name}", functions[name])


def _tell_forward(row: Row, case: Case, device: dict[str, Times], wall: dict[str, Times], floor: float) -> None:
    report, best = row.report, next(iter(wall))
    report.figure(f"{case}: floor", floor * 1e6, "us")
    for name, times in device.items():
        report.figure(f"{case}: {name}, on the device, median", times.median * 1e6, "us")
    for name, times in wall.items():
        report.figure(f"{case}: {name}, wall of a call, median", times.median * 1e6, "us")
    report.figure(f"{case}: of the floor's speed, {best}", 100 * floor / device[best].median, "%", at_least=70)
    targets = {"transformers": case.transformers, "original": case.original}
    for peer, target in targets.items():
        report.figure(f"{case}: {peer} / ours, wall", wall[peer].median / wall[best].median, "x", at_least=target)
        report.figure(f"{case}: {peer} / ours, on the device", device[peer].median / device[best].median, "x")


def gradients(way: Callable[[Setting], Tensor], setting: Setting, upstream: Tensor) -> list[Tensor]:
    """One forward and backward pass; the gradients of all leaves."""
    return list(torch.autograd.grad(way(setting), setting.leaves, upstream))


def measure_backward(row: Row, case: Case, limits: Ceilings, seconds: float, trace: bool) -> None:
    setting = make_setting(row, case, trains=True)
    ways: Ways = {**our_ways(row), "transformers": transformers_way}
    best = next(iter(ways))
    generator = torch.Generator(row.device).manual_seed(1)
    shape = (*setting.plan.shape, case.width)
    upstream = torch.randn(shape, generator=generator, device=row.device).to(row.dtype)
    check_gradients(row, case, ways, setting, upstream)
    transient = {name: _transient(way, setting, upstream) for name, way in ways.items()}
    functions: Functions = {name: lambda way=way: gradients(way, setting, upstream) for name, way in ways.items()}
    device = gpu_times(row, functions, seconds=seconds)
    report = row.report
    for name, times in device.items():
        report.figure(f"{case}: {name}, on the device, median", times.median * 1e6, "us")
        report.figure(f"{case}: {name}, transient memory", transient[name] / MIB, "MiB")
    ratio = device["transformers"].median / device[best].median
    report.figure(f"{case}: transformers / ours", ratio, "x", at_least=case.transformers)
    share = transient[best] / max(1, transient["transformers"])
    report.figure(f"{case}: ours / transformers, transient memory", share, "x", at_most=0.1)
    if not row.tiny or best != "ours":
        report.claim(f"{case}, {best}: no host read", reads_nothing(row, functions[best]))
    if row.device.type == "cuda":
        report.claim(f"{case}, {best}: a captured graph gives the same rows", _captured_is_equal(ways[best], setting))
    if trace:
        for name in (best, "transformers"):
            keep_trace(row, f"{case}, {name}", functions[name])


def check_gradients(row: Row, case: Case, ways: Ways, setting: Setting, upstream: Tensor) -> None:
    """Ours against float64 as in the forward pass, and the same bits twice."""
    names = [*(name for name, _ in setting.connector.named_parameters()), "embedding", "newline"]
    wide = replace(
        setting,
        tower=setting.tower.double(),
        connector=deepcopy(setting.connector).double(),
        batch=replace(
            setting.batch,
            embedding=setting.batch.embedding.detach().double().requires_grad_(),
            newline=None if setting.batch.newline is None else setting.batch.newline.detach().double().requires_grad_(),
        ),
    )
    reference = ReferenceSplicer()
    exact = gradients(
        lambda s: reference(s.plan, s.tower[:, 1:], s.connector, s.batch.embedding, s.batch.newline), wide, upstream.double()
    )
    del wide
    theirs = [relative_error(a, b) for a, b in zip(gradients(ways["transformers"], setting, upstream), exact, strict=True)]
    for name in ours_of(ways):
        once = gradients(ways[name], setting, upstream)
        pairs = zip(names, once, exact, theirs, strict=False)
        wrong = [leaf for leaf, a, b, limit in pairs if relative_error(a, b) > 1.5 * limit + 1e-6]
        sentence = f"{case}, {name}: gradients at most 1.5 times as far from float64 as transformers'"
        row.report.claim(sentence + (f" (further: {', '.join(wrong)})" if wrong else ""), not wrong)
        again = gradients(ways[name], setting, upstream)
        same = all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
        # torch adds up the embedding's gradient in no fixed order; ours by kernels promises the same bits.
        if name == "ours" or row.device.type == "cpu":
            row.report.claim(f"{case}, {name}: two runs have the same bits", same)


def _transient(way: Callable[[Setting], Tensor], setting: Setting, upstream: Tensor) -> int:
    """Bytes at the highest above what must be there: the result and what is saved, then the gradients. The greater of both."""
    rows, forward = memory_of(lambda: way(setting))
    backward = memory_of(lambda: torch.autograd.grad(rows, setting.leaves, upstream, retain_graph=True))[1]
    return max(forward.transient, backward.transient)


def _captured_is_equal(way: Callable[[Setting], Tensor], setting: Setting) -> bool:
    with torch.no_grad():
        expected = way(setting)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rows = way(setting)
        rows.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        return torch.equal(rows, expected)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv, seconds=80, backward="row G2: with the backward pass, and its memory")
    if arguments.backward:
        row = Row("G2", "projector, packing and splice, forward and backward", arguments)
        measure, cases = measure_backward, BACKWARD
    else:
        row = Row("G1", "projector, packing and splice, forward", arguments)
        measure, cases = measure_forward, FORWARD
    cases = TINY if row.tiny else cases
    limits = row.part("ceilings of this device", ceilings, row)
    share = row.left / (2 * len(cases))
    for number, case in enumerate(cases if limits else ()):
        row.part(str(case), measure, row, case, limits, share, number == 0, needs=3)
    return row.finish()


if __name__ == "__main__":
    sys.exit(main())
