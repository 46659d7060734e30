"""Samples in, answers out: the prompt is made by the very code that makes training examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..core.conversation import Sample
from ..data.collate import collate
from ..data.example import Example, ExampleMaker
from ..errors import SampleError
from ..model.sampling import Sampling
from ..model.vlm import VisionLanguageModel
from .text import Ending, Writer

if TYPE_CHECKING:
    from ..model.generate import Generator


class Responder:
    """Answers the last user turn of each sample.

    `replay` is that of `model.generate.Generator`: `off` decodes without CUDA graphs and keeps no cache between questions.
    """

    def __init__(self, model: VisionLanguageModel, maker: ExampleMaker, *, replay: Literal["auto", "off"] = "auto"):
        self.model = model
        self.maker = maker
        self.replay: Literal["auto", "off"] = replay

    def reply(self, samples: Sequence[Sample], sampling: Sampling, *, batch_size: int = 32) -> list[str]:
        """The answers to samples, `batch_size` at once; each equals the answer to that sample alone (unless drawn).

        Raises `SampleError` for one that cannot be asked: an unreadable picture, a prompt that is too long.
        """
        answers: list[str] = []
        ending = self._ending(sampling)
        for start in range(0, len(samples), batch_size):
            examples = self._examples(samples[start : start + batch_size], sampling)
            with self._resting():
                lengths = [example.length for example in examples]
                tokens = self._generator.generate(self._rows(examples), lengths, sampling, ending.end)
            answers += [ending.text(answer) for answer in tokens]
        return answers

    def stream(self, sample: Sample, sampling: Sampling) -> Iterator[str]:
        """The answer to one sample, piece by piece. Beams are known at the end only: their answer is one piece."""
        if sampling.num_beams > 1:
            (answer,) = self.reply([sample], sampling)
            if answer:
                yield answer
            return
        ending = self._ending(sampling)
        writer = Writer(ending)
        examples = self._examples([sample], sampling)
        with self._resting():
            for token in self._generator.stream(self._rows(examples), sampling, ending.end):
                if piece := writer.add(token):
                    yield piece
                if writer.done:
                    break
        if piece := writer.close():
            yield piece

    @cached_property
    def _generator(self) -> Generator:
        # Imported with the first question: `generate` of transformers takes a second to load, for which neither a plan nor the
        # start of a training has to wait.
        from ..model.generate import Generator

        return Generator(self.model.language_model, replay=self.replay)

    def _ending(self, sampling: Sampling) -> Ending:
        return Ending(self.maker.tokenizer, (*self.maker.template.stop, *sampling.stop))

    def _examples(self, samples: Sequence[Sample], sampling: Sampling) -> list[Example]:
        examples = [self.maker.make(sample, reply=True) for sample in samples]
        context = self.model.language_model.context
        for example in examples:
            if context is not None and example.length + sampling.max_new_tokens > context:
                left = context - example.length
                advice = f"ask for at most {left} new tokens, or shorten it" if left > 0 else "expected a shorter one"
                raise SampleError(
                    "too_long",
                    f"its prompt takes {example.length} positions and the answer may take {sampling.max_new_tokens} "
                    f"(max_new_tokens), but the language model knows {context}; {advice}",
                    sample_id=example.id,
                )
        return examples

    @torch.inference_mode()
    def _rows(self, examples: Sequence[Example]) -> Tensor:
        """The prompts as input rows [B, S, D], padded on the right."""
        vocab = self.model.language_model.embedding.shape[0]
        batch = collate(examples, side=self.maker.side, vocab=vocab, tile_multiple=1)
        batch = batch.to(self.model.device)
        return self.model.embed(batch.tiles, batch.plan)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """The model in evaluation mode, and afterwards in the mode in which it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)
