"""The loss: cross-entropy over the supervised positions alone, in chunks, so that no logits of unsupervised rows ever exist.

T positions, M targets, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.language_model import LanguageModel
from ..core.loss import IGNORE

# Logits of one chunk: 2^25 float32 numbers are 128 MiB; with the softmax and its gradient about 400 MiB at the peak.
CHUNK_LOGITS = 1 << 25


class ReferenceLoss:
    """The plain PyTorch loss: the truth that every other loss is held to, and the one that runs where no kernel pays."""

    def __call__(self, hidden: Tensor, positions: Tensor, ids: Tensor, language_model: LanguageModel) -> Tensor:
        """hidden [..., D] (flat: [T, D]), positions int64 [M], ids int64 [M] -> the *sum* of cross-entropies, float32 [].

        The caller divides by the number of targets of the whole global batch, so that accumulation over micro-batches and ranks
        is exact. About a fifth of the positions of a LLaVA batch are supervised: only those rows meet the head.
        """
        rows = hidden.flatten(0, -2).index_select(0, positions)
        chunk = max(1, CHUNK_LOGITS // language_model.head.shape[0])
        if rows.shape[0] <= chunk:
            return _cross_entropy(rows, ids, language_model)
        total = rows.new_zeros((), dtype=torch.float32)
        for part, part_ids in zip(rows.split(chunk), ids.split(chunk), strict=True):
            total = total + checkpoint(_cross_entropy, part, part_ids, language_model, use_reentrant=False)
        return total


def _cross_entropy(rows: Tensor, ids: Tensor, language_model: LanguageModel) -> Tensor:
    return F.cross_entropy(language_model.logits(rows).float(), ids, reduction="sum", ignore_index=IGNORE)
