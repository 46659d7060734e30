"""What is counted while a stage trains: steps, samples, tokens, seconds; a line of the log is made from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..data.loader import StepData

PHASES = ("data", "compute", "optimizer", "validation", "checkpoint")
"""Where the time goes: waiting for data, forward and backward, optimizer, validation, checkpoints.

On an accelerator the host runs ahead, so the work of the other phases shows up where the host waits for it, in `compute`.
"""


@dataclass
class Counters:
    """All that changes from step to step besides tensors; JSON in a checkpoint.

    `samples` were trained on, `seen` counts the bad ones too. `tokens` are positions that hold something, `positions` all that
    the model worked on, `targets` the supervised ones. `window` are the losses since the last logged step, `logged` the totals
    at that step.
    """

    step: int = 0
    epoch: int = 0
    samples: int = 0
    seen: int = 0
    dropped_turns: int = 0
    tokens: int = 0
    positions: int = 0
    targets: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    window: list[float] = field(default_factory=list)
    logged: dict[str, Any] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int | None = None
    looks_without_better: int = 0
    stopped_early: bool = False

    def add(self, step: StepData) -> None:
        """One optimizer step is done."""
        self.step += 1
        self.epoch = step.epoch
        self.seen += step.num_seen
        self.dropped_turns += step.dropped_turns
        for batch in step.batches:
            self.samples += len(batch.sample_ids)
            self.tokens += batch.num_tokens
            self.positions += batch.plan.shape[0] * batch.plan.shape[1]
            self.targets += batch.num_targets

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of its block as `name`, one of `PHASES`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def record(self, num_steps: int) -> dict[str, Any]:
        """What the log says of the steps since the last record: mean loss, speeds, padding, seconds by phase; begins a new one.

        There must have been a step with a loss.
        """
        totals = {key: getattr(self, key) for key in ("step", "samples", "tokens", "positions")}
        before = self.logged or {**dict.fromkeys(totals, 0), "seconds": dict.fromkeys(PHASES, 0.0)}
        since = {key: totals[key] - before[key] for key in totals}
        spent = {phase: self.seconds[phase] - before["seconds"][phase] for phase in PHASES}
        duration = max(sum(spent.values()), 1e-9)
        record = {
            "loss": sum(self.window) / len(self.window),
            "epoch": self.epoch,
            "samples": self.samples,
            "tokens": self.tokens,
            "targets": self.targets,
            "tokens_per_second": since["tokens"] / duration,
            "samples_per_second": since["samples"] / duration,
            "seconds_left": (num_steps - self.step) * duration / since["step"],
            "padding": 1 - since["tokens"] / max(1, since["positions"]),
            "seconds": spent,
        }
        self.logged = {**totals, "seconds": dict(self.seconds)}
        self.window = []
        return record

    def look(self, loss: float, patience: int | None) -> bool:
        """Take note of a validation loss; whether it is the best so far."""
        better = self.best_loss is None or loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.looks_without_better = loss, self.step, 0
        else:
            self.looks_without_better += 1
        self.stopped_early = patience is not None and self.looks_without_better >= patience
        return better

    def take_losses(self, losses: Sequence[float]) -> None:
        """Losses that were read from the device."""
        self.window = [*self.window, *losses]
