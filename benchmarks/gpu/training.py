"""Row G4: training steps of LLaVA-1.5 on a 16-layer slice of its 7B language model, in real tokens a second.

B samples, S positions, T = 16,384 positions a step, N parameters. The tower is frozen; connector, language model, embedding
and head train by AdamW. Ours: packed rows, the step of `train/loop.py` (autocast, sum of losses over the count of targets,
clipping, `Optimizers`). Peer 1: transformers' class on padded batches of 16 in random order, SDPA. Peer 2: batches of like
length, with Liger's norms, feed-forwards, rotary embedding and fused loss. All step the same parameters in turn, on samples of
the same lengths. Padding counts for nobody: tokens are those of the samples.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from llava_kit.data.collate import Batch, collate
from llava_kit.data.example import Example
from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.recipe.schema import ComponentTraining, Optimizer
from llava_kit.train.optim import Optimizers, set_trainable

from .batches import IGNORED, PaddedBatch, pad_examples
from .common import (
    GIB,
    Row,
    free,
    keep_trace,
    memory_of,
    optional,
    parse_arguments,
    peak_flops,
    reads_nothing,
    relative_error,
    synchronise,
)
from .lengths import draw_examples, grouped_batches, packed_rows, random_batches
from .models import SLICE, TINY, LigerGlobals, Sizes, adopt, liger_llama, make_model, make_peer
from .schedule import tell_schedule


@dataclass(frozen=True)
class Scale:
    sizes: Sizes
    positions: int
    """of a packed step"""
    batch: int
    """samples of a padded step"""
    samples: int
    steps: int
    warm_up: int
    shorter: int = 1


FULL = Scale(SLICE, positions=16_384, batch=16, samples=260, steps=12, warm_up=4)
_SMALL_SIZES = replace(TINY, hidden_size=16, num_hidden_layers=1, vocab_size=64, vision={**TINY.vision, "image_size": 28})
SMALL = Scale(_SMALL_SIZES, positions=72, batch=2, samples=6, steps=1, warm_up=0, shorter=32)


@dataclass
class Step:
    """What one optimizer step is made of; `tokens` are those of its samples."""

    parts: list[Any]
    tokens: int
    targets: int


@dataclass
class Way:
    """One way to train: how its steps are made (in how many parts), and the summed loss of a part on the device."""

    loss: Callable[[Any], Tensor]
    make: Callable[[int], list[Step]]
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    parts: int = 1
    steps: list[Step] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return sum(self.tokens) / sum(self.seconds)


class Bench:
    """The model, its peers and their data."""

    def __init__(self, row: Row, scale: Scale, dtype: torch.dtype):
        self.row, self.scale = row, scale
        sizes = scale.sizes
        self.model: Any = make_model(row, sizes, dtype=dtype)
        self.peer = make_peer(row, sizes, self.model)
        training = {name: ComponentTraining(lr=2e-5) for name in ("connector", "language_model")}
        set_trainable(self.model, training)
        self.optimizers = Optimizers(self.model, training, Optimizer())
        self.examples = draw_examples(
            scale.samples,
            seed=0,
            vocab=min(sizes.vocab_size, 32_000) - 1,
            image_size=sizes.vision["image_size"],
            patches=sizes.num_patches,
            scale=scale.shorter,
        )
        self.lengths = [example.length for example in self.examples]

    # The data of each way, in pinned memory, as workers leave it.

    def packed(self, parts: int) -> list[Step]:
        positions = self.scale.positions // parts
        rows = packed_rows(self.lengths, positions, seed=0)
        steps = [rows[start : start + parts] for start in range(0, len(rows) - parts + 1, parts)]
        return [_step([self._collated(row, positions) for row in step]) for step in steps]

    def _collated(self, numbers: Sequence[int], positions: int) -> Batch:
        spec = self.model.encoder.spec
        batch = collate(
            [self.examples[number] for number in numbers],
            side=spec.grid,
            vocab=self.scale.sizes.vocab_size,
            rows_of=[list(range(len(numbers)))],
            length=positions,
        )
        return batch.pin_memory() if self.row.device.type == "cuda" else batch

    def random(self, parts: int) -> list[Step]:
        return self._padded(random_batches(len(self.lengths), self.scale.batch, seed=0), parts)

    def grouped(self, parts: int) -> list[Step]:
        return self._padded(grouped_batches(self.lengths, self.scale.batch, seed=0), parts)

    def _padded(self, batches: list[list[int]], parts: int) -> list[Step]:
        size = self.scale.batch // parts
        steps = []
        for batch in batches:
            pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
            steps.append(_step([self.pad([self.examples[number] for number in piece]) for piece in pieces]))
        return steps

    def pad(self, examples: Sequence[Example]) -> PaddedBatch:
        """As transformers' processor and collator leave it: an image token a patch, float pixels, padding on the right."""
        spec, sizes = self.model.encoder.spec, self.scale.sizes
        batch = pad_examples(examples, spec.grid, sizes.image_token)
        scale, shift = torch.tensor(spec.std).view(3, 1, 1), torch.tensor(spec.mean).view(3, 1, 1)
        batch = replace(batch, pixels=((batch.pixels.float() / 255 - shift) / scale).to(torch.float32))
        return batch.pin_memory() if self.row.device.type == "cuda" else batch

    # The summed loss of a part, for each way.

    def our_loss(self, model: VisionLanguageModel) -> Callable[[Batch], Tensor]:
        return lambda b: model(b.tiles, b.plan, b.position_ids, b.target_positions, b.target_ids)

    def their_loss(self, batch: PaddedBatch) -> Tensor:
        """`loss` of the class is a mean: it is made the sum, so that all ways have the same gradients."""
        output = self.peer(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            pixel_values=batch.pixels if len(batch.pixels) else None,
            labels=batch.labels,
            use_cache=False,
        )
        return output.loss * batch.num_targets

    def liger_loss(self, peer: Any) -> Callable[[PaddedBatch], Tensor]:
        """As Liger's own forward for Llama: hidden states straight into the fused loss."""
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum")

        def loss(batch: PaddedBatch) -> Tensor:
            pixels = batch.pixels if len(batch.pixels) else None
            output = peer.model(input_ids=batch.ids, attention_mask=batch.mask, pixel_values=pixels, use_cache=False)
            labels = F.pad(batch.labels, (0, 1), value=IGNORED)[:, 1:].flatten()
            return fused(peer.lm_head.weight, output.last_hidden_state.flatten(0, 1), labels)

        return loss

    def compute(self, way: Way, step: Step) -> Tensor:
        """Gradients of the mean over all targets; the mean itself."""
        self.optimizers.zero_grad()
        total = torch.zeros((), device=self.row.device)
        with way.around():
            for part in step.parts:
                there = part.to(self.row.device, non_blocking=True)
                with torch.autocast(self.row.device.type, torch.bfloat16, enabled=not self.row.tiny):
                    loss = way.loss(there)
                (loss / step.targets).backward()
                total += loss.detach().float()
        return total / step.targets

    def apply(self) -> None:
        norm = get_total_norm(self.optimizers.gradients())
        clip_grads_with_norm_(list(self.optimizers.parameters.values()), 1.0, norm)
        self.optimizers.step()

    def run(self, way: Way, step: Step) -> None:
        self.compute(way, step)
        self.apply()

    def fit(self, name: str, way: Way) -> None:
        """Makes the steps of `way` in as few parts as fit into memory, and tries the largest of them."""
        while True:
            way.steps = way.make(way.parts)
            largest = max(way.steps, key=lambda step: max(part.num_positions for part in map(_sized, step.parts)))
            peak = self._try(way, largest)
            if peak is not None:
                break
            # Out of the `except`, which would still hold what the failed step had made.
            self.optimizers.zero_grad()
            free()
            way.parts *= 2
            if way.parts > 4:
                raise RuntimeError(f"{name}: not even a quarter of a step fits into this device's memory")
        self.row.report.figure(f"{name}: parts of a step", way.parts)
        self.row.report.figure(f"{name}: memory above weights and states", peak / GIB, "GiB")

    def _try(self, way: Way, step: Step) -> int | None:
        try:
            return memory_of(lambda: self.run(way, step))[1].peak
        except torch.OutOfMemoryError:
            return None


@dataclass(frozen=True)
class _Sized:
    num_positions: int


def _sized(part: Batch | PaddedBatch) -> _Sized:
    return _Sized(part.ids.numel() if isinstance(part, PaddedBatch) else part.position_ids.numel())


def _step(parts: list[Any]) -> Step:
    return Step(parts, sum(part.num_tokens for part in parts), sum(part.num_targets for part in parts))


def make_ways(row: Row, bench: Bench) -> dict[str, Way]:
    """Ours, ours with Liger's layers where the option is there, and both peers."""
    ways = {"ours": Way(bench.our_loss(bench.model), bench.packed)}
    dtype = bench.model.language_model.embedding.dtype

    def with_liger() -> Way:
        model = sharing(row, bench, make_model(row, bench.scale.sizes, dtype=dtype, kernels="liger"))
        return Way(bench.our_loss(model), bench.packed, LigerGlobals().lent)

    found = optional(row, "ours with Liger's layers", with_liger)
    if found is not None:
        ways["ours, kernels: liger"] = found
    ways["transformers, padded"] = Way(bench.their_loss, bench.random)

    def grouped() -> Way:
        peer = make_peer(row, bench.scale.sizes, bench.model).train()
        # Triton's interpreter cannot run Liger's norms and feed-forwards.
        return Way(bench.liger_loss(peer), bench.grouped, liger_llama(peer, layers=not row.tiny))

    found = optional(row, "transformers, grouped, with Liger", grouped)
    if found is not None:
        ways["transformers, grouped, Liger"] = found
    return ways


def sharing(row: Row, bench: Bench, model: VisionLanguageModel) -> VisionLanguageModel:
    """`model` with the parameters of the bench's model."""
    adopt(model, dict(bench.model.named_parameters()))
    free()
    return model


def check(row: Row, bench: Bench, ways: dict[str, Way]) -> None:
    """The same samples, packed and padded: losses and the connector's gradients agree."""
    count = min(4, bench.scale.batch)
    numbers = list(range(count))
    packed = _step([bench._collated(numbers, sum(bench.lengths[:count]))])
    padded = _step([bench.pad([bench.examples[number] for number in numbers])])
    parameters = list(bench.model.connector.parameters())
    found = {}
    for name, way in list(ways.items()):
        loss = optional(row, name, lambda n=name, w=way: float(bench.compute(w, packed if n.startswith("ours") else padded)))
        if loss is None and name not in ("ours", "transformers, padded"):
            del ways[name]  # does not work here: the others are still to be measured
            continue
        found[name] = loss, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    loss, gradients = found["transformers, padded"]
    # In bfloat16 the paths round differently at each layer; in float32 they agree to the last digits.
    loose, fine = (1e-4, 1e-3) if row.tiny else (1e-2, 1e-1)
    for name in (name for name in ways if name != "transformers, padded"):
        ours, our_gradients = found[name]
        worst = max(relative_error(a, b) for a, b in zip(our_gradients, gradients, strict=True))
        good = abs(ours - loss) <= loose * abs(loss) and worst <= fine
        told = f"({ours:.5f}, {loss:.5f}; gradients {worst:.1e})"
        row.report.claim(f"{name}: loss and the connector's gradients are those of padded transformers {told}", good)
    bench.apply()  # the optimizer's states are there from now on, so that no way is charged for them
    bench.optimizers.zero_grad()


def take_turns(row: Row, bench: Bench, ways: dict[str, Way], reserve: float) -> None:
    """One step of each way in turn; the first steps warm up. Ends early when no more than `reserve` seconds are left.

    What is timed are the batches of the warm-up again: for a length that is new to it, cuDNN's attention, which torch prefers
    on Hopper, makes a plan first, and in a whole training hardly any length is new.
    """
    count = max(1, bench.scale.warm_up)
    for number in range(bench.scale.steps):
        begin = time.monotonic()
        for way in ways.values():
            step = way.steps[number % min(count, len(way.steps))]
            synchronise()
            start = time.perf_counter()
            bench.run(way, step)
            synchronise()
            if number >= bench.scale.warm_up:
                way.seconds.append(time.perf_counter() - start)
                way.tokens.append(step.tokens)
        if number > bench.scale.warm_up and row.left - reserve < time.monotonic() - begin:
            row.note(f"{number + 1} of {bench.scale.steps} steps, for want of time")
            return


def flops_per_token(sizes: Sizes, mean_length: float) -> float:
    """6 for each parameter of blocks and head, whose rows all count for everybody, and causal attention at the mean length."""
    width, layers = sizes.hidden_size, sizes.num_hidden_layers
    blocks = layers * (4 * width * width + 3 * width * sizes.intermediate_size)
    return 6 * (blocks + width * sizes.vocab_size) + 6 * layers * width * mean_length


def tell(row: Row, bench: Bench, ways: dict[str, Way], name: str) -> None:
    report, peak = row.report, peak_flops()
    mean_length = sum(bench.lengths) / len(bench.lengths)
    each = flops_per_token(bench.scale.sizes, mean_length)
    best = max((way for way in ways if way.startswith("ours")), key=lambda way: ways[way].rate)
    for label, way in ways.items():
        places = sum(_sized(part).num_positions for step in way.steps for part in step.parts)
        report.figure(
            f"{name}: {label}, positions that are padding", 100 * (1 - sum(s.tokens for s in way.steps) / places), "%"
        )
        report.figure(f"{name}: {label}, tokens a second", way.rate)
        if peak is not None:
            least = 45 if label == best else None
            report.figure(f"{name}: {label}, of the data sheet's FLOP/s", 100 * way.rate * each / peak, "%", at_least=least)
    for peer, least in (("transformers, padded", 1.35), ("transformers, grouped, Liger", 1.05)):
        if peer in ways:
            report.figure(f"{name}: {best} / {peer}", ways[best].rate / ways[peer].rate, "x", at_least=least)
    tell_schedule(row, f"{name}, {best}", ways[best].rate * each, peak)


def reads(row: Row, bench: Bench) -> None:
    """Forward and backward pass of one step with a plan in pinned memory; in tiny shapes without our kernels' interpreter."""
    model = bench.model
    if row.tiny:
        model = sharing(row, bench, make_model(row, bench.scale.sizes, plain=True))
    way = Way(bench.our_loss(model), bench.packed)
    step = bench.packed(4 if not row.tiny else 1)[0]
    device = row.device
    there = [part.to(device) for part in step.parts]

    def forward_backward() -> None:
        bench.optimizers.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=not row.tiny):
            loss = way.loss(there[0])
        (loss / step.targets).backward()

    row.report.claim("ours: no host read in forward and backward pass", reads_nothing(row, forward_backward))
    bench.optimizers.zero_grad()


def compiled(row: Row, bench: Bench, name: str) -> None:
    """Ours with compiled blocks, as `parallel.compile` has it."""
    dtype = bench.model.language_model.embedding.dtype
    # Interpreted kernels were seen to work by now, and are slow.
    model, plain = (sharing(row, bench, make_model(row, bench.scale.sizes, dtype=dtype, plain=row.tiny)) for _ in range(2))
    for block in model.language_model.blocks():
        block.compile(backend="eager" if row.tiny else "inductor")
    ways = {
        "ours, compiled": Way(bench.our_loss(model), bench.packed),
        "ours": Way(bench.our_loss(plain), bench.packed),
    }
    for label, way in ways.items():
        bench.fit(f"{name}, {label} again", way)
    take_turns(row, bench, ways, reserve=2)
    report = row.report
    for label, way in ways.items():
        report.figure(f"{name}: {label}, tokens a second (a run of these two)", way.rate)


def regime(row: Row, scale: Scale, name: str, dtype: torch.dtype, first: bool) -> None:
    bench = Bench(row, scale, dtype)
    bench.peer.train()
    ways = make_ways(row, bench)
    check(row, bench, ways)
    for label, way in ways.items():
        bench.fit(f"{name}, {label}", way)
    take_turns(row, bench, ways, reserve=8)
    tell(row, bench, ways, name)
    row.save()
    if first:
        reads(row, bench)
        for label in ("ours", "transformers, padded"):
            way = ways[label]
            keep_trace(row, f"{name}, {label}", lambda way=way: bench.run(way, way.steps[0]), calls=1)
        row.part(f"{name}, compiled", compiled, row, bench, name, needs=60)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv, seconds=150)
    row = Row("G4", "training steps of LLaVA-1.5, 16 layers of 7B", arguments)
    scale = SMALL if row.tiny else FULL
    row.part("bfloat16 weights", regime, row, scale, "bfloat16 weights", row.dtype, True)
    if row.tiny:
        return row.finish()  # the other regime has the same lines
    row.part("float32 weights", regime, row, scale, "float32 weights, autocast", torch.float32, False, needs=50)
    return row.finish()


if __name__ == "__main__":
    sys.exit(main())
