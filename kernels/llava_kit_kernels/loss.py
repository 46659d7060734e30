"""The Triton loss: head and cross-entropy in one operation over the supervised rows. T positions, M targets, D width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from llava_kit.core.language_model import LanguageModel
from llava_kit.core.loss import IGNORE

from .ops.head_loss import LIMIT, head_loss


class TritonLoss:
    """A `TargetLoss`: logits exist for supervised rows alone, at most `limit` bytes at once, and then their gradient does.

    A language model with `logits` of its own computes them itself, for all supervised rows at once.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit

    def __call__(self, hidden: Tensor, positions: Tensor, ids: Tensor, language_model: LanguageModel) -> Tensor:
        """hidden [..., D] (flat: [T, D]), positions int64 [M], ids int64 [M] -> the sum, float32 []."""
        if language_model.has_own_logits:
            rows = hidden.flatten(0, -2).index_select(0, positions)
            return F.cross_entropy(language_model.logits(rows).float(), ids, reduction="sum", ignore_index=IGNORE)
        head, bias, softcap = language_model.head, language_model.head_bias, language_model.logit_softcap
        return head_loss(hidden, positions, ids, head, bias, softcap=softcap, limit=self.limit)
