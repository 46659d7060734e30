"""LanguageModel: input rows in, hidden states out. B rows of S positions, D width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .published import Published
from .splice import Sequences


class LanguageModel(nn.Module, ABC):
    """Input rows in, hidden states out. It never sees token ids: text rows are taken from `embedding` by the splicer.

    `tokenizer` is a fast tokenizer (`PreTrainedTokenizerFast`).
    """

    width: int
    tokenizer: Any
    logit_softcap: float | None = None
    """Where set, logits are `cap * tanh(logits / cap)` (Gemma 2)."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Parameter:
        """[vocab, D], the token embedding."""

    @property
    @abstractmethod
    def head(self) -> nn.Parameter:
        """[vocab, D], the output projection; the same tensor as `embedding` where they are tied."""

    @property
    def head_bias(self) -> Tensor | None:
        """[vocab], where the output projection has one."""
        return None

    @abstractmethod
    def forward(self, rows: Tensor, position_ids: Tensor, *, sequences: Sequences | None = None, cache: Any = None) -> Tensor:
        """[B, S, D], int64 [B, S] -> hidden states [B, S, D] after the final norm; attention is causal.

        `sequences`: where the sequences lie when a row of the batch holds several (packing) or ends in padding; no position
        sees another sequence. None: each row is one sequence. `cache` (from `new_cache`) holds the positions before `rows`.
        """

    @abstractmethod
    def new_cache(self, batch: int, length: int, left_padding: Tensor | None = None) -> Any:
        """An empty cache for `batch` rows of at most `length` positions.

        `left_padding` int64 [batch]: how many positions at the beginning of each row are padding and must not be seen.
        """

    def blocks(self) -> Sequence[nn.Module]:
        """The units for sharding, recompute and compile."""
        return ()

    def published(self) -> Published | None:
        """How the language model looks in the words of transformers; None where transformers has no such model."""
        return None

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., vocab]."""
        logits = F.linear(hidden, self.head, self.head_bias)
        if self.logit_softcap is not None:
            logits = self.logit_softcap * (logits / self.logit_softcap).tanh()
        return logits
