"""The watch for losses and gradients that are no numbers: none of them may reach a checkpoint.

On the CPU each step is looked at before it is applied. On an accelerator, looking would make the host wait for the device in
every step; there the look is one step late. The verdict is copied to the host behind the step that it is about, and only that
copy is waited for, not the work queued since. One bad step may then stand in memory, but the run ends before it is saved,
because saving, validating and the end of the stage ask `settle()` first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..assemble.files import write_folder
from ..errors import CheckpointError, TrainingError


class FiniteWatch:
    """Looks at loss and gradient norm of every step. `folder` is the run's: a bad batch is written there."""

    def __init__(self, folder: Path, stage: str):
        self._folder = folder
        self._stage = stage
        self._pending: tuple[int, _Verdict, Sequence[Any]] | None = None

    def look(self, step: int, loss: Tensor, norm: Tensor, batches: Sequence[Any]) -> None:
        """Called after backward, before the optimizer. Raises `TrainingError` for this step (CPU) or the last one (else)."""
        self.settle()
        self._pending = step, _Verdict(torch.stack((loss, norm.to(loss.dtype)))), batches
        if loss.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Wait for the verdict on the last step that was looked at."""
        if self._pending is None:
            return
        step, verdict, batches = self._pending
        self._pending = None
        loss, norm = verdict.read()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop(step, loss, norm, batches)

    def _stop(self, step: int, loss: float, norm: float, batches: Sequence[Any]) -> NoReturn:
        folder = self._folder / f"bad_batch_{self._stage}_step_{step}"
        sample_ids = [sample for batch in batches for sample in batch.sample_ids]
        about = {"stage": self._stage, "step": step, "loss": str(loss), "gradient_norm": str(norm), "samples": sample_ids}
        try:
            write_folder(folder, lambda path: _write_batches(path, batches, about))
            place = f"is in {folder}"
        except CheckpointError as error:
            place = f"could not be kept: {error}"
        shown = ", ".join(sample_ids[:4]) + (f" and {len(sample_ids) - 4} more" if len(sample_ids) > 4 else "")
        raise TrainingError(
            f"stage {self._stage!r}, step {step}: found loss {loss} and gradient norm {norm}, expected finite numbers. "
            f"The step was not saved, and no checkpoint holds such a number. Its batch (samples {shown}) {place}. Lower the "
            "learning rate, set `clip_norm`, warm up longer, or try `precision: float32`; the same command goes on from the "
            "last checkpoint"
        )


class _Verdict:
    """Two numbers on their way to the host."""

    def __init__(self, numbers: Tensor):
        self._arrived: torch.cuda.Event | None = None
        if numbers.is_cuda:
            # `tolist` on the device would wait for all that is queued by then: this step's forward and backward pass.
            there = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = there.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        self._numbers = numbers

    def read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()


def _write_batches(folder: Path, batches: Sequence[Any], about: dict[str, Any]) -> None:
    for number, batch in enumerate(batches):
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        _collect(batch, "", tensors, plain)
        save_file(tensors, folder / f"batch_{number}.safetensors")
        (folder / f"batch_{number}.json").write_text(json.dumps(plain, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / "step.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _collect(record: Any, prefix: str, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """The fields of a dataclass, those of nested ones included, under dotted names."""
    for field in fields(record):
        name, value = f"{prefix}{field.name}", getattr(record, field.name)
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
        elif is_dataclass(value) and not isinstance(value, type):
            _collect(value, f"{name}.", tensors, plain)
        else:
            plain[name] = value
