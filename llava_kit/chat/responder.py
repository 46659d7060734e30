"""Samples in, answers out: the prompt is made by the very code that makes training examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..core.conversation import Sample
from ..data.collate import collate
from ..data.example import ExampleMaker
from ..model.decode import Sampling, decode
from ..model.vlm import VisionLanguageModel


class Responder:
    """Answers the last user turn of each sample."""

    def __init__(self, model: VisionLanguageModel, maker: ExampleMaker):
        self.model = model
        self.maker = maker

    def reply(self, samples: Sequence[Sample], sampling: Sampling) -> list[str]:
        """The answers to a batch of samples; each equals the answer to that sample alone (greedy)."""
        writers: list[_Writer] = []
        if samples:
            for state in self._writers(samples, sampling):
                writers = state
        return [writer.text for writer in writers]

    def stream(self, sample: Sample, sampling: Sampling) -> Iterator[str]:
        """The answer to one sample, piece by piece."""
        written = 0
        for (writer,) in self._writers([sample], sampling):
            ready = writer.ready
            if len(ready) > written:
                yield ready[written:]
                written = len(ready)

    def _writers(self, samples: Sequence[Sample], sampling: Sampling) -> Iterator[list[_Writer]]:
        """The state of every answer after each token; the last state is complete."""
        examples = [self.maker.make(sample, reply=True) for sample in samples]
        model, tokenizer = self.model, self.maker.tokenizer
        batch = collate(examples, side=self.maker.side, vocab=model.language_model.embedding.shape[0]).to(model.device)
        was_training = model.training
        model.eval()
        writers = [_Writer(tokenizer, self.maker.template.stop) for _ in samples]
        finished = [False] * len(samples)
        try:
            with torch.inference_mode():
                rows = model.embed(batch.tiles, batch.plan)
            for tokens in decode(model, rows, [example.length for example in examples], sampling, finished):
                for index, (writer, token) in enumerate(zip(writers, tokens)):
                    if not finished[index]:
                        finished[index] = writer.add(token)
                yield writers
            for writer in writers:
                writer.close()
            yield writers
        finally:
            model.train(was_training)


class _Writer:
    """The text of one growing answer, cut at the first stop string or at the end-of-sequence token."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        self.tokenizer = tokenizer
        self.stop = stop
        self.ids: list[int] = []
        self.text = ""
        self.done = False

    def add(self, token: int) -> bool:
        """True when the answer has ended."""
        if token == self.tokenizer.eos_token_id:
            return self.close()
        self.ids.append(token)
        # Decoded whole each time: pieces of a multi-byte letter or of a word with a leading space only make sense together.
        self.text = self.tokenizer.decode(self.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for stop in self.stop:
            at = self.text.find(stop)
            if at >= 0:
                self.text = self.text[:at]
                return self.close()
        return False

    def close(self) -> bool:
        self.text = self.text.strip()
        self.done = True
        return True

    @property
    def ready(self) -> str:
        """The text that can be shown now: nothing that may yet become a stop string, no half letter."""
        if self.done:
            return self.text
        text = self.text.lstrip()
        held = max((n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        text = text[: len(text) - held]
        # Spaces at the end wait too: the finished answer is stripped.
        return text.rstrip("�").rstrip()
