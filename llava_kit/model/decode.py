"""Decoding: prefill once, then one token at a time. B sequences, S positions, D width.

Rows come in as the splicer made them (padded on the right) and are moved to end together, so that every sequence's newest
token sits in the last column and a batch of unequal prompts gives the same tokens as each prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LlavaKitError
from .vlm import VisionLanguageModel


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self):
        wrong = []
        if self.max_new_tokens < 1:
            wrong.append(f"max_new_tokens: found {self.max_new_tokens}, expected at least 1")
        if not self.temperature >= 0:
            wrong.append(f"temperature: found {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            wrong.append(f"top_p: found {self.top_p}, expected a share above 0 and up to 1")
        if self.top_k < 0:
            wrong.append(f"top_k: found {self.top_k}, expected 0 (all) or more")
        if wrong:
            raise LlavaKitError("\n".join(wrong))


@torch.inference_mode()
def decode(
    model: VisionLanguageModel, rows: Tensor, lengths: Sequence[int], sampling: Sampling, finished: list[bool]
) -> Iterator[list[int]]:
    """rows [B, S, D] padded on the right to S = max(lengths) -> at each step the newest token of every sequence.

    The caller sets `finished[b]` when it has seen enough of sequence `b` (its tokens are meaningless from then on); decoding
    ends when all are finished or after `max_new_tokens`.
    """
    language_model = model.language_model
    batch, longest = len(lengths), max(lengths)
    device = rows.device
    rows, padding = _align_right(rows[:, :longest], lengths)
    cache = language_model.new_cache(batch, longest + sampling.max_new_tokens, padding if min(lengths) < longest else None)
    positions = (torch.arange(longest, device=device) - padding[:, None]).clamp_(min=0)
    generator = None
    if sampling.temperature > 0:
        generator = torch.Generator(device)
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
    for step in range(sampling.max_new_tokens):
        hidden = language_model(rows, positions, cache=cache)[:, -1]
        tokens = _choose(language_model.logits(hidden).float(), sampling, generator)
        yield tokens.tolist()
        if all(finished) or step + 1 == sampling.max_new_tokens:
            return
        rows = language_model.embedding[tokens][:, None]
        positions = positions[:, -1:] + 1


def _align_right(rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """rows [B, S, D] padded on the right -> padded on the left, and the padding of each, int64 [B]."""
    batch, longest, _ = rows.shape
    padding = longest - torch.tensor(lengths, device=rows.device)
    # Column s of the result is column s - padding of the input; where that is negative the row wraps round to its own padding.
    columns = (torch.arange(longest, device=rows.device) - padding[:, None]) % longest
    return rows[torch.arange(batch, device=rows.device)[:, None], columns], padding


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """float32 [B, vocab] -> int64 [B]."""
    if generator is None:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        lowest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p < 1:
        # Keep the smallest set of tokens whose mass reaches top_p: those before which less than top_p has been gathered.
        ordered, order = probabilities.sort(dim=-1, descending=True)
        kept = ordered.cumsum(dim=-1) - ordered < sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * kept)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
