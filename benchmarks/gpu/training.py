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
from collections.abc import Sequence
from dataclasses import replace

import torch

from llava_kit.model.vlm import VisionLanguageModel

from .bench import Bench, Scale, Way, num_positions, step_of
from .common import (
    Row,
    free,
    keep_trace,
    optional,
    parse_arguments,
    peak_flops,
    reads_nothing,
    relative_error,
    synchronise,
)
from .models import SLICE, TINY, LigerGlobals, Sizes, adopt, liger_llama, make_model, make_peer
from .schedule import tell_schedule

FULL = Scale(SLICE, positions=16_384, batch=16, samples=260, steps=12, warm_up=4)
_SMALL_SIZES = replace(TINY, hidden_size=16, num_hidden_layers=1, vocab_size=64, vision={**TINY.vision, "image_size": 28})
SMALL = Scale(_SMALL_SIZES, positions=72, batch=2, samples=6, steps=1, warm_up=0, shorter=32)


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
    packed = step_of([bench._collated(numbers, sum(bench.lengths[:count]))])
    padded = step_of([bench.pad([bench.examples[number] for number in numbers])])
    parameters = list(bench.model.connector.parameters())
    found = {}
    for name, way in list(ways.items()):

        def one(name: str = name, way: Way = way) -> float:
            return float(bench.compute(way, packed if name.startswith("ours") else padded))

        loss = one() if name in ("ours", "transformers, padded") else optional(row, name, one)
        if loss is None:
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
        for name, way in list(ways.items()):
            step = way.steps[number % min(count, len(way.steps))]
            synchronise()
            start = time.perf_counter()
            if not bench.runs(way, step):
                row.note(f"{name}: left out after {number} steps: out of memory, beside the others")
                del ways[name]
                continue
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
        places = sum(num_positions(part) for step in way.steps for part in step.parts)
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
