"""Padded batches as transformers' LLaVA takes them: what the peers of row G4 train on. B samples, S positions, N tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_kit.core.tiles import Grid
from llava_kit.data.example import Example
from llava_kit.splice.build import IMAGE

IGNORED = -100


@dataclass(frozen=True)
class PaddedBatch:
    """ids, mask, labels int64 [B, S]; pixels float32 [N, 3, H, W]."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pixels: Tensor
    num_targets: int
    num_tokens: int

    def to(self, device: torch.device, non_blocking: bool = False) -> PaddedBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PaddedBatch:
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PaddedBatch:
        changed = {name: change(getattr(self, name)) for name in ("ids", "mask", "labels", "pixels")}
        return replace(self, **changed)


def pad_examples(examples: Sequence[Example], side: Grid, image_token: int) -> PaddedBatch:
    """Pixels are still bytes."""
    ids, labels = [], []
    for example in examples:
        seating = example.seating
        tokens, trainable = torch.from_numpy(seating.token_ids), torch.from_numpy(seating.trainable)
        counts = torch.where(tokens == IMAGE, side.area, 1)
        ids.append(torch.where(tokens == IMAGE, image_token, tokens).repeat_interleave(counts))
        labels.append(torch.where(trainable, tokens, IGNORED).repeat_interleave(counts))
    longest = max(map(len, ids))

    def padded(rows: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack([F.pad(row, (0, longest - len(row)), value=fill) for row in rows])

    all_labels = padded(labels, IGNORED)
    return PaddedBatch(
        ids=padded(ids, 0),
        mask=padded([torch.ones_like(row) for row in ids], 0),
        labels=all_labels,
        pixels=torch.cat([torch.from_numpy(example.tiles) for example in examples]),
        num_targets=int((all_labels[:, 1:] != IGNORED).sum()),
        num_tokens=sum(map(len, ids)),
    )
