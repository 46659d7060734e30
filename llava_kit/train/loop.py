"""The loop: one optimizer step after another, until the steps, the patience or the user's say it is enough.

A step is a list of micro-batches. Their summed losses are divided by the number of supervised tokens of *all* of them, so
accumulating k micro-batches is the same step as one batch of all. The loop only calls `model(...)`, never a part of it, and
takes all counts from the batches, which know them on the host: apart from the logging steps nothing waits for an accelerator.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..data.loader import StepData
from ..data.quarantine import Quarantine
from ..errors import DataError, TrainingError
from ..recipe.schema import Stage
from .checkpoint import Checkpoints, Snapshot, restore_parameters
from .counters import Counters
from .finite import FiniteWatch
from .metrics import Metrics
from .optim import Optimizers, named_buffers, rate, set_modes, set_trainable
from .parallel import World
from .signals import Interrupted, StopRequest


@dataclass(frozen=True)
class Look:
    """What a validation found: the mean loss of a supervised token, and some questions with the answers given."""

    loss: float
    answers: Sequence[Mapping[str, Any]] = ()


class Trainer:
    """Trains one stage.

    model       called as `model(tiles, plan, position_ids, target_positions, target_ids)`, gives the summed cross-entropy
    data        gives the steps from a number (counting from 0) on; each step's samples must follow from its number alone
    settings    the stage's block of the recipe; `num_steps` how many steps it makes
    folder      the run's
    validate    makes a `Look` at the held-out samples, or None
    """

    def __init__(
        self,
        model: Any,
        data: Callable[[int], Iterable[StepData]],
        settings: Stage,
        *,
        stage: str,
        num_steps: int,
        folder: Path,
        checkpoints: Checkpoints,
        device: torch.device | str = "cpu",
        seed: int = 0,
        validate: Callable[[], Look] | None = None,
        quarantine: Quarantine | None = None,
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
        self.quarantine = quarantine
        self.world = world or World()
        self._whole = settings.parallel.compile == "step"
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
        self._saved_step = self.counters.step

    def run(self, metrics: Metrics) -> Counters:
        """All steps that are left. Raises `Interrupted` after a signal, `TrainingError` when the run cannot go on."""
        counters = self.counters
        with StopRequest() as stop, closing(self._steps()) as steps:
            for step in steps:
                self._step(step)
                metrics.display.advance(counters.step)
                last = counters.step == self.num_steps
                if counters.step % self.settings.log_every == 0 or counters.step == 1 or last:
                    self._log(metrics)
                improved = self._look(metrics, last)
                if last or improved or stop.number or counters.stopped_early or self._checkpoint_due():
                    self._save(metrics)
                if stop.number:
                    raise Interrupted(
                        stop.number,
                        f"stopped by signal {stop.number} after step {counters.step}/{self.num_steps} of stage {self.stage!r}; "
                        f"all is saved in {self.folder}; the same command goes on from here",
                    )
                if counters.stopped_early:
                    break
        if self.model_step != counters.step:
            best = self.checkpoints.load(self.checkpoints.folder / f"step_{self.model_step}")
            restore_parameters(self._tensors(), best)
        return counters

    @property
    def model_step(self) -> int:
        """The step whose weights the model has after `run`: the last one, or the best one when validation ended the stage."""
        counters = self.counters
        if counters.stopped_early and self.settings.checkpoint.best and counters.best_step is not None:
            return counters.best_step
        return counters.step

    def _steps(self) -> Generator[StepData]:
        """The steps that are left; the time spent waiting for them counts as `data`."""
        counters = self.counters
        if counters.step == self.num_steps or counters.stopped_early:
            return
        steps = iter(self.data(counters.step))
        try:
            while counters.step < self.num_steps:
                with self.counters.phase("data"):
                    step = next(steps, None)
                if step is None:
                    raise DataError(f"stage {self.stage!r}: the data ended after {counters.step} of {self.num_steps} steps")
                yield step
        finally:
            if isinstance(steps, Generator):
                steps.close()  # ends the worker processes now and not when somebody tidies up

    def _step(self, step: StepData) -> None:
        counters = self.counters
        if self.quarantine is not None:
            self.quarantine.add(counters.step, step.bad, step.num_seen)
        self._seed_step()
        if step.batches:  # none: all samples of the step are in quarantine
            with self.counters.phase("compute"):
                loss = self._forward_backward(step.batches)
            with self.counters.phase("optimizer"):
                self._norm = self._apply(loss, step.batches)
            self._losses.append(loss)
        counters.add(step)

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
        with self.counters.phase("compute"):  # reading the losses waits for the device: that time is the device's work
            self.watch.settle()
            self._read_losses()
            norm = float(self._norm)
        if self.counters.window:
            record = self.counters.record(self.num_steps)
            metrics.write("train", self.counters.step, {**record, "grad_norm": norm, "lr": self.optimizers.rates()})

    def _look(self, metrics: Metrics, last: bool) -> bool:
        """Validate when it is time; whether the loss is the best so far."""
        counters, block = self.counters, self.settings.validate_on
        if self.validate is None or block is None or not (last or counters.step % block.every == 0):
            return False
        with self.counters.phase("validation"):
            self.watch.settle()
            self.model.eval()
            # Held-out batches have any shape: a step that is compiled whole would be compiled for each.
            with torch.no_grad(), torch.compiler.set_stance("force_eager") if self._whole else nullcontext():
                look = self.validate()
            self.model.train()
            set_modes(self.model, self.components)
        if not np.isfinite(look.loss):
            raise TrainingError(
                f"stage {self.stage!r}, step {counters.step}: found validation loss {look.loss}, expected a finite number; "
                "try `precision: float32` or a lower learning rate; the same command goes on from the last checkpoint"
            )
        better = counters.look(look.loss, block.patience)
        metrics.write("validation", counters.step, {"loss": look.loss, "best": better, "answers": list(look.answers)})
        return better and self.settings.checkpoint.best

    def _checkpoint_due(self) -> bool:
        return self.counters.step % self.settings.checkpoint.every == 0

    def _save(self, metrics: Metrics) -> None:
        counters = self.counters
        if counters.step == self._saved_step:
            return
        with self.counters.phase("checkpoint"):
            self.watch.settle()
            self._read_losses()
            metrics.sync()  # the log must not end before a checkpoint does, whatever happens to the machine
            state = {"stage": self.stage, "num_steps": self.num_steps, "counters": asdict(counters)}
            self.checkpoints.save(counters.step, self._tensors(), self.optimizers.state(), state, counters.best_step)
        self._saved_step = counters.step

    def _read_losses(self) -> None:
        """Read the losses since the last reading from the device."""
        if self._losses:
            self.counters.take_losses(torch.stack(self._losses).tolist())
            self._losses = []

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.optimizers.parameters, **named_buffers(self.model, self.components)}
