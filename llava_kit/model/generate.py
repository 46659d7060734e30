"""Answers by transformers' own `generate`, for any `LanguageModel`: input rows in, token ids out.

B prompts, N rows of the cache (B, or B times the beams), S positions, D width. Rows come in as the splicer made them (padded on
the right) and are moved to end together, so that every prompt's newest token sits in the last column and a batch of unequal
prompts gives the same tokens as each prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

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
from .sampling import End, Sampling


class Generator:
    """Gives the answers of a language model, by `generate` of transformers."""

    def __init__(self, language_model: LanguageModel):
        self._model = language_model
        adapter: Any = _Adapter(language_model)
        self._generate = adapter.generate

    @torch.inference_mode()
    def generate(self, rows: Tensor, lengths: Sequence[int], sampling: Sampling, end: End) -> list[list[int]]:
        """rows [B, S, D] padded on the right to S >= max(lengths) -> the token ids of each answer.

        An answer goes up to the first token of `end`, which is left out. What it holds behind the place where it was over by
        its text is meaningless.
        """
        drawn_beams = sampling.num_beams > 1 and sampling.temperature > 0
        with _lent_seed(sampling.seed, rows.device) if drawn_beams else nullcontext():
            tokens: Any = self._generate(**self._arguments(rows, lengths, sampling, end))
        return [end.trim(answer) for answer in tokens.tolist()]

    def stream(self, rows: Tensor, sampling: Sampling, end: End) -> Iterator[int]:
        """rows [1, S, D] -> the tokens of one answer, each as soon as it is known. No beams.

        Unlike `generate` it leaves it to the caller to stop where the answer is over by its text.
        """
        assert (len(rows), sampling.num_beams) == (1, 1)
        # `generate` prepares everything and hands over to the loop it is given; ours stops after each token, so that a consumer
        # goes at its own pace, may leave early, and sees every error, without a thread.
        arguments = self._arguments(rows, [rows.shape[1]], sampling, End(end.ids))
        steps: Any = self._generate(**arguments, custom_generate=_steps)
        for token in steps:
            if token in end.ids:
                return
            yield token

    def _arguments(self, rows: Tensor, lengths: Sequence[int], sampling: Sampling, end: End) -> dict[str, Any]:
        """What `generate` is called with."""
        rows, padding = _align_right(rows[:, : max(lengths)], lengths)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=list(end.ids) or None,
            # What finished answers are filled with. transformers would warn of one that is an end.
            pad_token_id=next(token for token in range(len(end.ids) + 1) if token not in end.ids),
        )
        if sampling.num_beams > 1:
            config.num_beams, config.length_penalty = sampling.num_beams, float(sampling.length_penalty)
            if sampling.temperature > 0:
                # Single tokens are drawn by our own processor, from a generator of its own; beams by transformers. What may be
                # drawn is decided by processors alone: the defaults of `generate` would narrow it once more.
                config.do_sample, config.temperature, config.top_k, config.top_p = True, 1.0, 0, 1.0
        return {
            "inputs_embeds": rows,
            "past_key_values": _Past(self._model, lengths, padding, sampling),
            "generation_config": config,
            "logits_processor": _processors(sampling, rows.device, len(end.ids)),
            "stopping_criteria": StoppingCriteriaList([] if end.is_over is None else [_Over(end.is_over, end.tail)]),
        }


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
        past, model = past_key_values, self.language_model
        assert past is not None
        if input_ids is not None:
            logits = model.logits(past.run(model, model.embedding[input_ids]))
        else:
            assert inputs_embeds is not None
            # The beams of a prompt are still the same: it is read once.
            logits = model.logits(past.run(model, inputs_embeds[:: past.num_beams]))
            logits = past.spread(logits)
        # transformers' type of a cache is a class of its own; ours says all that `generate` asks of it.
        return CausalLMOutputWithPast(logits=logits, past_key_values=past)  # pyright: ignore[reportArgumentType]


class _Past(Cache):
    """A language model's own cache for `generate`, with the positions of what comes next."""

    def __init__(self, model: LanguageModel, lengths: Sequence[int], padding: Tensor, sampling: Sampling):
        super().__init__(layers=[])
        self.prompt, self.filled = max(lengths), 0
        self.num_beams = sampling.num_beams
        unequal = min(lengths) < self.prompt
        self.cache = model.new_cache(len(lengths), self.prompt + sampling.max_new_tokens, padding if unequal else None)
        if self.num_beams > 1 and not isinstance(self.cache, ReorderableCache):
            raise LlavaKitError(
                f"num_beams: found {self.num_beams}, but the cache of {type(model).__name__} cannot reorder its rows "
                "(`ReorderableCache`); use num_beams 1"
            )
        self.padding = padding  # [N]

    def run(self, model: LanguageModel, rows: Tensor) -> Tensor:
        """[N, S, D] -> the hidden state of each row's last position [N, 1, D]."""
        start, self.filled = self.filled, self.filled + rows.shape[1]
        positions = torch.arange(start, self.filled, device=rows.device) - self.padding[:, None]
        return model(rows, positions.clamp_(min=0), cache=self.cache)[:, -1:]

    def spread(self, logits: Tensor) -> Tensor:
        """The state after the prompt, for each beam: logits [B, 1, vocab] -> [N, 1, vocab]."""
        if self.num_beams == 1:
            return logits
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self.num_beams)
        self.cache.reorder(rows)
        self.padding = self.padding[rows]
        return logits[rows]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled

    def reorder_cache(self, beam_idx: Tensor) -> None:
        # Beams change places with those of their own prompt only.
        self.cache.reorder(beam_idx, start=self.prompt)


@torch.inference_mode()
def _steps(
    model: _Adapter,
    input_ids: Any,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    **prepared: Any,
) -> Iterator[int]:
    """A decoding loop for `generate(custom_generate=...)` that can be left after each token. One sequence."""
    past = prepared["past_key_values"]
    outputs = model(inputs_embeds=prepared["inputs_embeds"], past_key_values=past)
    while True:
        scores: Any = logits_processor(input_ids, outputs.logits[:, -1].float())
        tokens = scores.argmax(dim=-1, keepdim=True)
        input_ids = torch.cat([input_ids, tokens], dim=-1)
        yield int(tokens)
        if bool(stopping_criteria(input_ids, None).all()):
            return
        outputs = model(input_ids=tokens, past_key_values=past)


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
        tokens = torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator)
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
