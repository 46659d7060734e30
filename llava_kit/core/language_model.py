"""LanguageModel: input rows in, hidden states out. B rows of S positions, D width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from .published import Published
from .splice import Sequences


@runtime_checkable
class ReorderableCache(Protocol):
    """What a cache must be able to do for beam search, besides being handed back to `forward`."""

    def reorder(self, rows: Tensor, start: int = 0) -> None:
        """int64 [B']: row `i` goes on from what row `rows[i]` holds, left padding included. B' need not be B.

        `start`: a promise that before this position row `i` holds the same as row `rows[i]` already, as beams of one prompt
        do; then these positions need not be moved. With it, B' is B.
        """
        ...


@runtime_checkable
class ReplayableCache(Protocol):
    """A cache of one shape, whose steps of one position can be recorded (in a CUDA graph) and replayed.

    N rows. First `restart`, then prompts come through `forward` as into any cache. After `freeze`, `forward` takes one position
    a row and does nothing but work on the device, always on the same memory: it writes at `place`, sees what lies up to there,
    and moves `place` on by one. It reads no value on the host and no shape in it depends on the step. Whoever drives the steps
    counts them: past `length` there is no room, and nobody on the host would notice.
    """

    length: int
    """Positions for which there is room."""
    place: Tensor
    """int64 [1], on the device: where the next position goes."""
    left_padding: Tensor
    """int64 [N], on the device."""

    @property
    def num_bytes(self) -> int:
        """What its buffers take."""
        ...

    def restart(self, left_padding: Tensor | None = None) -> None:
        """Forgets everything. `left_padding` int64 [N] as in `new_cache`; the buffers stay where they are."""
        ...

    def freeze(self, visible: int) -> None:
        """From here on steps of one position come, and see no more than the first `visible` places. May be called again."""
        ...


class LanguageModel(nn.Module, ABC):
    """Input rows in, hidden states out. It never sees token ids: text rows are taken from `embedding` by the splicer.

    `tokenizer` is a fast tokenizer (`PreTrainedTokenizerFast`).
    """

    width: int
    tokenizer: Any
    logit_softcap: float | None = None
    """Where set, logits are `cap * tanh(logits / cap)` (Gemma 2)."""

    @property
    def context(self) -> int | None:
        """How many positions it knows, prompt and answer together; None where it sets no limit."""
        return None

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

    @property
    def has_own_logits(self) -> bool:
        """Whether `logits` is overridden, in its class or on it alone: then head, bias and cap may not tell all."""
        return type(self).logits is not LanguageModel.logits or "logits" in vars(self)

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

        A cache that is a `ReorderableCache` can be used for beams; one that is not makes beam search refuse the model.
        """

    def new_replayable_cache(self, batch: int, length: int) -> ReplayableCache | None:
        """A cache of exactly this shape, on the device of the model; None where its steps cannot be replayed."""
        return None

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
