"""Answers of any `LanguageModel`: input rows in, token ids out. Beams by transformers' `generate`.

B prompts, N rows of the cache (B, or B times the beams), S positions, D width. Rows come in as the splicer made them (padded on
the right) and are moved to end together, so that every prompt's newest token sits in the last column and a batch of unequal
prompts gives the same tokens as each prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedConfig,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..core.language_model import LanguageModel, ReorderableCache
from ..errors import LlavaKitError
from .replay import ReplayPool
from .sampling import End, Sampling
from .steps import EagerSteps, decode

# The first token comes from the prompt; a first step is watched, a second one warms up, a third is recorded and replayed.
_FEW = 4


class Generator:
    """Gives the answers of a language model.

    `replay`: with `auto` the steps of decoding are recorded in CUDA graphs and replayed, where that is possible and no beams
    are asked for (`model/replay.py` says what it costs); tokens are the same with `off`.
    """

    def __init__(self, language_model: LanguageModel, *, replay: Literal["auto", "off"] = "auto"):
        self._model = language_model
        self._pool = ReplayPool(language_model) if replay == "auto" else None
        adapter: Any = _Adapter(language_model)
        self._generate = adapter.generate

    @torch.inference_mode()
    def generate(self, rows: Tensor, lengths: Sequence[int], sampling: Sampling, end: End) -> list[list[int]]:
        """rows [B, S, D] padded on the right to S >= max(lengths) -> the token ids of each answer.

        An answer goes up to the first token of `end`, which is left out. What it holds behind the place where it was over by
        its text is meaningless.
        """
        if sampling.num_beams > 1:
            return self._search(rows, lengths, sampling, end)
        answers: list[list[int]] = [[] for _ in lengths]
        growing = list(answers)
        for tokens in self._tokens(rows, lengths, sampling, end):
            for answer, token in zip(answers, tokens, strict=True):
                answer.append(token)
            growing = [answer for answer in growing if answer[-1] not in end.ids]
            if growing and end.is_over is not None:
                over = end.is_over([answer[-end.tail :] for answer in growing])
                growing = [answer for answer, is_over in zip(growing, over, strict=True) if not is_over]
            if not growing:
                break
        return [end.trim(answer) for answer in answers]

    def stream(self, rows: Tensor, sampling: Sampling, end: End) -> Iterator[int]:
        """rows [1, S, D] -> the tokens of one answer, each as soon as it is known. No beams.

        Unlike `generate` it leaves it to the caller to stop where the answer is over by its text.
        """
        assert (len(rows), sampling.num_beams) == (1, 1)
        for (token,) in self._tokens(rows, [rows.shape[1]], sampling, end):
            if token in end.ids:
                return
            yield token

    @torch.inference_mode()
    def _tokens(self, rows: Tensor, lengths: Sequence[int], sampling: Sampling, end: End) -> Iterator[list[int]]:
        """The tokens of each step, also of answers that are over. No beams."""
        rows, padding = _align_right(rows[:, : max(lengths)], lengths)
        new, unequal = sampling.max_new_tokens, min(lengths) < max(lengths)
        eager = partial(EagerSteps, self._model, lengths, padding, new)
        # A few steps would be over before anything is replayed.
        lent = (
            nullcontext(eager())
            if self._pool is None or new <= _FEW
            else self._pool.lend(len(lengths), max(lengths) + new, padding if unequal else None, eager)
        )
        processors: Any = _processors(sampling, rows.device, len(end.ids))
        with lent as steps:
            yield from decode(steps, rows, processors, new)

    def _search(self, rows: Tensor, lengths: Sequence[int], sampling: Sampling, end: End) -> list[list[int]]:
        """The answers by beam search of transformers."""
        rows, padding = _align_right(rows[:, : max(lengths)], lengths)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=list(end.ids) or None,
            # What finished answers are filled with. transformers would warn of one that is an end.
            pad_token_id=next(token for token in range(len(end.ids) + 1) if token not in end.ids),
        )
        config.num_beams, config.length_penalty = sampling.num_beams, float(sampling.length_penalty)
        if sampling.temperature > 0:
            # Beams are drawn by transformers. What may be drawn is decided by processors alone: the defaults of `generate`
            # would narrow it once more.
            config.do_sample, config.temperature, config.top_k, config.top_p = True, 1.0, 0, 1.0
        with _lent_seed(sampling.seed, rows.device) if sampling.temperature > 0 else nullcontext():
            tokens: Any = self._generate(
                inputs_embeds=rows,
                past_key_values=_Past(EagerSteps(self._model, lengths, padding, sampling.max_new_tokens), sampling.num_beams),
                generation_config=config,
                logits_processor=_processors(sampling, rows.device, len(end.ids)),
                stopping_criteria=StoppingCriteriaList([] if end.is_over is None else [_Over(end.is_over, end.tail)]),
            )
        return [end.trim(answer) for answer in tokens.tolist()]


class _Adapter(PreTrainedModel, GenerationMixin):
    """A `LanguageModel` as transformers wants models: token ids in, logits out."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self, language_model: LanguageModel):
        config: Any = PreTrainedConfig()
        config.vocab_size = language_model.embedding.shape[0]  # beams are told apart by it
        super().__init__(config)
        self.language_model = language_model

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: _Past | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if is_first_iteration:
            return {"inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
        return {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values}

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: _Past | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The prompt as rows [N, S, D], later the newest tokens int64 [N, 1] -> logits [N, 1, vocab] of the last position."""
        past = past_key_values
        assert past is not None
        if input_ids is not None:
            logits = past.steps.next(input_ids[:, -1])
        else:
            assert inputs_embeds is not None
            # The beams of a prompt are still the same: it is read once.
            logits = past.spread(past.steps.read(inputs_embeds[:: past.num_beams]))
        # transformers' type of a cache is a class of its own; ours says all that `generate` asks of it.
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=past)  # pyright: ignore[reportArgumentType]


class _Past(Cache):
    """A language model's own cache for `generate`, with the positions of what comes next."""

    def __init__(self, steps: EagerSteps, num_beams: int):
        super().__init__(layers=[])
        self.steps, self.num_beams = steps, num_beams
        self.prompt = 0
        if not isinstance(steps.cache, ReorderableCache):
            raise LlavaKitError(
                f"num_beams: found {num_beams}, but the cache of {type(steps.model).__name__} cannot reorder its rows "
                "(`ReorderableCache`); use num_beams 1"
            )

    def spread(self, logits: Tensor) -> Tensor:
        """The state after the prompt, for each beam: logits [B, vocab] -> [N, vocab]."""
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self.num_beams)
        self.prompt = self.steps.filled
        self.steps.cache.reorder(rows)
        self.steps.padding = self.steps.padding[rows]
        return logits[rows]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.steps.filled

    def reorder_cache(self, beam_idx: Tensor) -> None:
        # Beams change places with those of their own prompt only.
        self.steps.cache.reorder(beam_idx, start=self.prompt)


def _processors(sampling: Sampling, device: torch.device, num_end: int) -> LogitsProcessorList:
    """What is done to the scores [N, vocab] of each step, in the order of transformers; at the end a token is drawn."""
    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.temperature > 0:
        # Beams need something to go on with that is not an end.
        keep = num_end + 1 if sampling.num_beams > 1 else 1
        if sampling.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k > 0:
            processors.append(TopKLogitsWarper(sampling.top_k, min_tokens_to_keep=keep))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(float(sampling.top_p), min_tokens_to_keep=keep))
        if sampling.min_p > 0:
            processors.append(MinPLogitsWarper(float(sampling.min_p), min_tokens_to_keep=keep))
        if sampling.num_beams == 1:
            processors.append(_Draw(sampling.seed, device))
    return LogitsProcessorList(processors)


class _Draw(LogitsProcessor):
    """Draws a token as transformers does, but from a generator of its own, and leaves only that token possible."""

    def __init__(self, seed: int | None, device: torch.device):
        self.generator = torch.Generator(device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        # What `torch.multinomial` does for one draw a row, without its look at the scores, for which the host would wait.
        probabilities = scores.softmax(dim=-1)
        drawn = torch.empty_like(probabilities).exponential_(1, generator=self.generator)
        tokens = probabilities.div_(drawn).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens, 0.0)


class _Over(StoppingCriteria):
    """Ends answers by what they say."""

    def __init__(self, is_over: Callable[[list[list[int]]], list[bool]], tail: int):
        self.is_over, self.tail = is_over, tail

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor(self.is_over(input_ids[:, -self.tail :].tolist()), device=input_ids.device)


@contextmanager
def _lent_seed(seed: int | None, device: torch.device) -> Iterator[None]:
    """transformers draws beams from torch's own generators: they are seeded for it, and afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.seed() if seed is None else torch.manual_seed(seed)
        yield


def _align_right(rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """rows [B, S, D] padded on the right -> padded on the left, and the padding of each, int64 [B]."""
    batch, longest, _ = rows.shape
    padding = longest - torch.tensor(lengths, device=rows.device)
    if min(lengths) == longest:
        return rows, padding
    # Column s of the result is column s - padding of the input; where that is negative the row wraps round to its own padding.
    columns = (torch.arange(longest, device=rows.device) - padding[:, None]) % longest
    return rows[torch.arange(batch, device=rows.device)[:, None], columns], padding
