"""What a run writes down for people and for the report: the machine it ran on, and what each stage came to."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch

from ..data.quarantine import Quarantine
from .loop import Trainer

# What decides the numbers of a run besides the recipe.
PACKAGES = ("llava-kit", "torch", "transformers", "tokenizers", "timm", "open_clip_torch", "safetensors", "pillow", "numpy")


def environment(device: torch.device, plugins: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Versions, plugins and machine, for the report and for whoever wants to have the run again."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "plugins": list(plugins),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
    }


def stage_record(
    trainer: Trainer, quarantine: Quarantine, identity: Mapping[str, Any], mixture: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What a finished stage came to: what was really trained on, how long it took, what stepped what.

    `bad` counts the samples that could not be used by reason; `padding` is the share of positions that held nothing; `mixture`
    says how much of each ingredient there was to train on, where the source is a mixture.
    """
    counters = trainer.counters
    best = None if counters.best_loss is None else {"loss": counters.best_loss, "step": counters.best_step}
    return {
        "name": trainer.stage,
        "steps": counters.step,
        "num_steps": trainer.num_steps,
        "model_step": trainer.model_step,
        "samples": counters.samples,
        "seen": counters.seen,
        "bad": dict(quarantine.counts),
        "mixture": list(mixture),
        "dropped_turns": counters.dropped_turns,
        "tokens": counters.tokens,
        "targets": counters.targets,
        "padding": 1 - counters.tokens / max(1, counters.positions),
        "seconds": sum(counters.seconds.values()),
        "phases": dict(counters.seconds),
        "parameters": trainer.optimizers.describe(),
        "best_validation": best,
        "notes": _notes(trainer, quarantine),
        "identity": identity,
    }


def told_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's record without what only a program asks for."""
    return {key: value for key, value in record.items() if key != "identity"}


def told_group(row: Mapping[str, Any]) -> str:
    """One row of `Optimizers.describe` in words."""
    told = f"{row['component']} ({row['part']}): {row['total']:,} parameters"
    if row["trained"]:
        told += f", {row['optimizer']}, lr {row['lr']:g}, weight decay {row['weight_decay']:g}"
    return told


def _notes(trainer: Trainer, quarantine: Quarantine) -> list[str]:
    counters, notes = trainer.counters, []
    if counters.stopped_early:
        notes.append(f"stopped early after step {counters.step} of {trainer.num_steps}: validation found no better loss")
    if trainer.model_step != counters.step:
        notes.append(f"the model is that of step {trainer.model_step}, the best in validation")
    if quarantine.num_bad:
        notes.append(f"{quarantine.num_bad} samples could not be used: {quarantine.summary()}")
    if counters.dropped_turns:
        notes.append(f"{counters.dropped_turns} turns were left out of samples longer than max_length")
    return notes
