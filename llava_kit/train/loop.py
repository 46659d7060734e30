"""The loop: one optimizer step after another, until the steps, the patience or the user's say it is enough.

A step is a list of micro-batches. Their summed losses are divided by the number of supervised tokens of *all* of them, so
accumulating k micro-batches is the same step as one batch of all. The loop only calls `model(...)`, never a part of it, and
takes all counts from the batches, which know them on the host: apart from the logging steps nothing waits for an accelerator.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..errors import DataError, TrainingError
from ..recipe.schema import Stage
from .checkpoint import Checkpoints, Snapshot, restore_parameters
from .finite import FiniteWatch
from .metrics import Metrics
from .optim import Optimizers, named_buffers, rate, set_modes, set_trainable
from .parallel import World
from .signals import Interrupted, StopRequest

PHASES = ("data", "compute", "optimizer", "validation", "checkpoint")


class StepData(Protocol):
    """The steps' batches in order. The state is integers and tells which step comes next."""

    def __iter__(self) -> Iterator[Sequence[Any]]:
        """Lists of `data.collate.Batch`, one list an optimizer step, from the state on."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Look:
    """What a validation found: the mean loss of a supervised token, and some questions with the answers given."""

    loss: float
    answers: Sequence[Mapping[str, Any]] = ()


@dataclass
class Counters:
    """All that changes from step to step besides tensors; JSON in a checkpoint.

    `tokens` are positions that hold something, `positions` all that the model worked on, `targets` the supervised ones.
    `window`: the losses since the last logged step. `logged`: the totals at that step.
    """

    step: int = 0
    samples: int = 0
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


class Trainer:
    """Trains one stage.

    model       called as `model(tiles, plan, position_ids, target_positions, target_ids)`, gives the summed cross-entropy
    data        the batches; `settings` the stage's block of the recipe, `num_steps` how many steps it makes
    folder      the run's
    validate    makes a `Look` at the held-out samples, or None
    """

    def __init__(
        self,
        model: Any,
        data: StepData,
        settings: Stage,
        *,
        stage: str,
        num_steps: int,
        folder: Path,
        checkpoints: Checkpoints,
        device: torch.device | str = "cpu",
        seed: int = 0,
        validate: Callable[[], Look] | None = None,
        world: World | None = None,
    ):
        self.model = model
        self.data = data
        self.settings = settings
        self.stage = stage
        self.num_steps = num_steps
        self.folder = folder
        self.checkpoints = checkpoints
        self.device = torch.device(device)
        self.seed = seed
        self.validate = validate
        self.world = world or World()
        self.counters = Counters()
        self.components = settings.train.components()
        set_trainable(model, self.components)
        self.optimizers = Optimizers(model, self.components, settings.optimizer)
        self.watch = FiniteWatch(folder, stage)
        self._saved_step = 0
        self._losses: list[Tensor] = []
        self._norm = torch.zeros(())

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint."""
        restore_parameters(self._tensors(), snapshot)
        try:
            self.optimizers.load_state(snapshot.optimizer)
        except KeyError as error:
            raise TrainingError(
                f"{snapshot.path}: holds optimizer state of a parameter that does not train here: {error}"
            ) from error
        self.counters = Counters(**snapshot.state["counters"])
        self.data.load_state_dict(snapshot.state["data"])
        self._saved_step = self.counters.step

    def run(self, metrics: Metrics) -> Counters:
        """All steps that are left. Raises `Interrupted` after a signal, `TrainingError` when the run cannot go on."""
        counters = self.counters
        with StopRequest() as stop:
            batches = iter(self.data)
            while counters.step < self.num_steps and not counters.stopped_early:
                self._step(batches, metrics)
                last = counters.step == self.num_steps
                if counters.step % self.settings.log_every == 0 or counters.step == 1 or last:
                    self._log(metrics)
                improved = self._look(metrics, last)
                if last or improved or stop.number or counters.stopped_early or self._checkpoint_due():
                    self._save()
                if stop.number and not last:
                    raise Interrupted(
                        stop.number,
                        f"stopped by signal {stop.number} after step {counters.step}/{self.num_steps} of stage {self.stage!r}; "
                        f"all is saved in {self.folder}; the same command goes on from here",
                    )
        if counters.stopped_early and self.settings.checkpoint.best and counters.best_step not in (None, counters.step):
            best = self.checkpoints.load(self.checkpoints.folder / f"step_{counters.best_step}")
            restore_parameters(self._tensors(), best)
        return counters

    def _step(self, iterator: Iterator[Sequence[Any]], metrics: Metrics) -> None:
        counters = self.counters
        with self._phase("data"):
            batches = next(iterator, None)
        if batches is None:
            raise DataError(f"stage {self.stage!r}: the data ended after {counters.step} of {self.num_steps} steps")
        self._seed_step()
        with self._phase("compute"):
            loss = self._forward_backward(batches)
        with self._phase("optimizer"):
            norm = self._apply(loss, batches)
        counters.step += 1
        self._losses.append(loss)
        self._norm = norm
        for batch in batches:
            counters.samples += len(batch.sample_ids)
            counters.tokens += batch.num_tokens
            counters.positions += batch.plan.shape[0] * batch.plan.shape[1]
            counters.targets += batch.num_targets
        metrics.display.advance(counters.step)

    def _forward_backward(self, batches: Sequence[Any]) -> Tensor:
        """Gradients of the mean over all supervised tokens of the step; the mean itself, float32 [] on the device."""
        num_targets = self.world.sum(sum(batch.num_targets for batch in batches))
        if num_targets == 0:
            raise DataError(f"stage {self.stage!r}, step {self.counters.step + 1}: no token of the batch is supervised")
        self.optimizers.zero_grad()
        total = torch.zeros((), device=self.device)
        for batch in batches:
            there = batch.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                loss = self.model(there.tiles, there.plan, there.position_ids, there.target_positions, there.target_ids)
            (loss / num_targets).backward()
            total += loss.detach()
        return self.world.sum_tensor(total) / num_targets

    def _apply(self, loss: Tensor, batches: Sequence[Any]) -> Tensor:
        """Clip, look whether all is finite, step. Returns the gradient norm before clipping."""
        gradients = self.optimizers.gradients()
        norm = get_total_norm(gradients)
        self.watch.look(self.counters.step + 1, loss, norm, batches)
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(list(self.optimizers.parameters.values()), self.settings.clip_norm, norm)
        self.optimizers.set_rate(rate(self.settings.schedule, self.counters.step, self.num_steps))
        self.optimizers.step()
        return norm

    def _seed_step(self) -> None:
        """Random numbers of a step (dropout) depend on seed, stage and step alone: resuming needs no random state."""
        text = f"{self.seed}/{self.stage}/{self.counters.step}/{self.world.rank}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)

    def _log(self, metrics: Metrics) -> None:
        counters = self.counters
        with self._phase("compute"):  # reading the losses waits for the device: that time is the device's work
            self.watch.settle()
            losses = self._window()
            norm = float(self._norm)
        totals = {key: getattr(counters, key) for key in ("step", "samples", "tokens", "positions")}
        totals["seconds"] = dict(counters.seconds)
        before = counters.logged or {**dict.fromkeys(totals, 0), "seconds": dict.fromkeys(PHASES, 0.0)}
        spent = {phase: totals["seconds"][phase] - before["seconds"][phase] for phase in PHASES}
        since = {key: totals[key] - before[key] for key in ("step", "samples", "tokens", "positions")}
        duration = max(sum(spent.values()), 1e-9)
        metrics.write(
            "train",
            counters.step,
            {
                "loss": sum(losses) / len(losses),
                "grad_norm": norm,
                "lr": self.optimizers.rates(),
                "samples": counters.samples,
                "tokens": counters.tokens,
                "targets": counters.targets,
                "tokens_per_second": since["tokens"] / duration,
                "samples_per_second": since["samples"] / duration,
                "seconds_left": (self.num_steps - counters.step) * duration / since["step"],
                "padding": 1 - since["tokens"] / max(1, since["positions"]),
                "seconds": spent,
            },
        )
        counters.logged = totals
        counters.window = []

    def _look(self, metrics: Metrics, last: bool) -> bool:
        """Validate when it is time; whether the loss is the best so far."""
        counters, block = self.counters, self.settings.validate_on
        if self.validate is None or block is None or not (last or counters.step % block.every == 0):
            return False
        with self._phase("validation"):
            self.watch.settle()
            self.model.eval()
            with torch.no_grad():
                look = self.validate()
            self.model.train()
            set_modes(self.model, self.components)
        if not np.isfinite(look.loss):
            raise TrainingError(
                f"stage {self.stage!r}, step {counters.step}: found validation loss {look.loss}, expected a finite number; "
                "try `precision: float32` or a lower learning rate; the same command goes on from the last checkpoint"
            )
        better = counters.best_loss is None or look.loss < counters.best_loss
        if better:
            counters.best_loss, counters.best_step, counters.looks_without_better = look.loss, counters.step, 0
        else:
            counters.looks_without_better += 1
        counters.stopped_early = block.patience is not None and counters.looks_without_better >= block.patience
        metrics.write("validation", counters.step, {"loss": look.loss, "best": better, "answers": list(look.answers)})
        return better and self.settings.checkpoint.best

    def _checkpoint_due(self) -> bool:
        return self.counters.step % self.settings.checkpoint.every == 0

    def _save(self) -> None:
        counters = self.counters
        if counters.step == self._saved_step:
            return
        with self._phase("checkpoint"):
            self.watch.settle()
            counters.window = self._window()
            state = {
                "stage": self.stage,
                "num_steps": self.num_steps,
                "counters": asdict(counters),
                "data": self.data.state_dict(),
            }
            self.checkpoints.save(counters.step, self._tensors(), self.optimizers.state(), state, counters.best_step)
        self._saved_step = counters.step

    def _window(self) -> list[float]:
        """The losses since the last logged step, read from the device."""
        read = torch.stack(self._losses).tolist() if self._losses else []
        self._losses = []
        self.counters.window = self.counters.window + read
        return self.counters.window

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.optimizers.parameters, **named_buffers(self.model, self.components)}

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.counters.seconds[name] += time.perf_counter() - start
