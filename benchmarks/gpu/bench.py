"""What row G4 trains with: the model, its peers and their data, and one optimizer step of any of them.

B samples, S positions, T positions of a step, N parameters.
"""

from __future__ import annotations

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
from .common import GIB, Row, free, memory_of
from .lengths import draw_examples, grouped_batches, packed_rows, random_batches
from .models import Sizes, make_model, make_peer


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
        return [step_of([self._collated(row, positions) for row in step]) for step in steps]

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
            steps.append(step_of([self.pad([self.examples[number] for number in piece]) for piece in pieces]))
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

    def runs(self, way: Way, step: Step) -> bool:
        """Whether the step was made; not where memory does not suffice, and then all that it had made is given back."""
        try:
            self.run(way, step)
            return True
        except torch.OutOfMemoryError:
            pass  # out of here the failed step's tensors are gone
        self.optimizers.zero_grad()
        free()
        return False

    def fit(self, name: str, way: Way) -> None:
        """Makes the steps of `way` in as few parts as fit into memory, and tries the largest of them."""
        while True:
            way.steps = way.make(way.parts)
            largest = max(way.steps, key=lambda step: max(map(num_positions, step.parts)))
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


def num_positions(part: Batch | PaddedBatch) -> int:
    """Padding included."""
    return part.ids.numel() if isinstance(part, PaddedBatch) else part.position_ids.numel()


def step_of(parts: list[Any]) -> Step:
    return Step(parts, sum(part.num_tokens for part in parts), sum(part.num_targets for part in parts))
