"""TargetLoss: cross-entropy over the supervised rows alone. M targets, D width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from .language_model import LanguageModel

IGNORE = -100
"""A target id that counts nothing: it fills a list of targets up to a round length. It is what torch ignores by default."""


class TargetLoss(Protocol):
    """The loss of a batch, from its hidden states and the list of what is to be learnt where."""

    def __call__(self, hidden: Tensor, positions: Tensor, ids: Tensor, language_model: LanguageModel) -> Tensor:
        """hidden [..., D] (flat: [T, D]), positions int64 [M], ids int64 [M] -> the *sum* of cross-entropies, float32 [].

        A target whose id is `IGNORE` counts nothing; its position is any row. The position of any other stands there once. The
        loss is `language_model.logits(rows)` in float32, however it is computed; with no targets it is a zero with a gradient.
        """
        ...
