"""`llava-kit inspect batch RECIPE`: who sits where in the batches of a step, and how much of them is padding."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.collate import Batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a file or a name")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes to the recipe")
    parser.add_argument("--stage", metavar="NAME", help="default: the first")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="counted from 0 (default)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    import json

    from ..data.loader import TrainLoader
    from ..errors import LlavaKitError
    from .stage_data import open_stage
    from .table import print_table

    opened = open_stage(arguments.recipe, arguments.overrides, arguments.stage)
    stage, data = opened.stage, opened.stage.data
    loader = TrainLoader(
        opened.maker,
        opened.source,
        global_batch_size=stage.global_batch_size,
        micro_batch_size=stage.micro_batch_size,
        seed=opened.recipe.seed,
        epochs=stage.epochs,
        steps=stage.steps,
        pack_rows=data.pack,
        shuffled=data.order == "shuffled",
        start_step=arguments.step,
        vocab=opened.vocab,
        pictures=data.pictures,  # of that step's epoch; the source has those of the first
    )
    if not 0 <= arguments.step < loader.num_steps:
        raise LlavaKitError(f"--step {arguments.step}: stage {opened.name!r} has the steps 0 to {loader.num_steps - 1}")
    step = next(iter(loader))
    batches = [_describe(batch) for batch in step.batches]
    bad = [sample._asdict() for sample in step.bad]
    if arguments.json:
        print(json.dumps({"step": step.step, "epoch": step.epoch, "batches": batches, "bad": bad}, ensure_ascii=False))
        return 0
    print(f"stage {opened.name}, step {step.step} of {loader.num_steps}: {step.num_samples} samples in {len(batches)} batches")
    for number, batch in enumerate(batches):
        rows, positions = batch["shape"]
        print(
            f"\nbatch {number}: {rows} rows of {positions} positions, {batch['tiles']} tiles; "
            f"padding {batch['padding']:.1%}, pictures {batch['visual']:.1%}, learnt {batch['learnt']:.1%}"
        )
        lines: list[tuple[str, ...]] = [("ROW", "FILLED", "PADDING", "PICTURES", "LEARNT", "SAMPLES")]
        for index, row in enumerate(batch["rows"]):
            shares = [f"{row[key]:.1%}" for key in ("padding", "visual", "learnt")]
            lines.append((str(index), str(row["filled"]), *shares, ", ".join(row["samples"])))
        print_table(lines)
    for sample in step.bad:
        print(f"left out: {sample.id}: {sample.reason}: {sample.message}")
    if step.dropped_turns:
        print(f"{step.dropped_turns} turns left out of samples longer than {data.max_length}")
    return 0


def _describe(batch: Batch) -> dict[str, Any]:
    """The batch and each of its rows in numbers; shares are of all positions."""
    from ..core.splice import PAD, TEXT

    rows, positions = batch.plan.shape
    source = batch.plan.source.view(rows, positions)
    targets = (batch.target_positions // positions).bincount(minlength=rows)
    filled = (source != PAD).sum(1)
    visual = ((source != TEXT) & (source != PAD)).sum(1)
    samples = iter(batch.sample_ids)
    names: list[list[str]] = [[] for _ in range(rows)]
    for offset in batch.plan.sequences.host_offsets[:-1]:
        if batch.plan.source[offset] != PAD:
            names[offset // positions].append(next(samples))
    total = rows * positions
    return {
        "shape": [rows, positions],
        "tiles": len(batch.tiles),
        "padding": 1 - batch.num_tokens / total,
        "visual": int(visual.sum()) / total,
        "learnt": batch.num_targets / total,
        "rows": [
            {
                "samples": names[row],
                "filled": int(filled[row]),
                "padding": 1 - int(filled[row]) / positions,
                "visual": int(visual[row]) / positions,
                "learnt": int(targets[row]) / positions,
            }
            for row in range(rows)
        ],
    }
