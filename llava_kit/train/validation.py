"""The look at held-out samples: the mean loss of their supervised tokens, and a few answers in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..chat.responder import Responder
from ..core.conversation import Conversation, Sample
from ..core.source import DataSource
from ..data.collate import Batch, collate
from ..data.example import Example, ExampleMaker
from ..data.loader import iterate_examples
from ..errors import DataError, SampleError
from ..model.sampling import Sampling
from ..model.vlm import VisionLanguageModel
from ..recipe.schema import Validation
from .loop import Look

# Sample answers are for people to glance at; long ones would only hold up the training.
ANSWER_TOKENS = 64


class Validator:
    """Called by the loop, with the model in evaluation mode and gradients off.

    The same samples each time: the first `block.samples` of `source`; those that cannot be used are left out.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        maker: ExampleMaker,
        responder: Responder,
        source: DataSource,
        block: Validation,
        *,
        batch_size: int,
        precision: str,
    ):
        self.model = model
        self.maker = maker
        self.responder = responder
        self.source = source
        self.block = block
        self.batch_size = batch_size
        self.precision = precision

    def __call__(self) -> Look:
        total, num_targets = 0.0, 0
        for batch in self._batches():
            there = batch.to(self.model.device)
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                loss = self.model(there.tiles, there.plan, there.position_ids, there.target_positions, there.target_ids)
            total += float(loss)
            num_targets += batch.num_targets
        if not num_targets:
            raise DataError("validate.source: none of its samples could be used; `llava-kit inspect tokens` shows why")
        return Look(total / num_targets, self._answers())

    def _batches(self) -> Iterator[Batch]:
        held: list[Example] = []
        vocab = self.model.language_model.embedding.shape[0]
        for example in iterate_examples(self.maker, self.source, self._indices(self.block.samples)):
            held.append(example)
            if len(held) == self.batch_size:
                yield collate(held, side=self.maker.side, vocab=vocab)
                held = []
        if held:
            yield collate(held, side=self.maker.side, vocab=vocab)

    def _answers(self) -> Sequence[dict[str, Any]]:
        answers = []
        for index in self._indices(self.block.generate):
            try:
                sample = self.source[index]
                answer = self.responder.reply([question(sample)], Sampling(max_new_tokens=ANSWER_TOKENS))[0]
            except SampleError:
                continue
            asked, expected = sample.conversation.messages[-2:]
            told = {"id": sample.id, "question": asked.text.strip(), "expected": expected.text.strip(), "answer": answer}
            answers.append(told)
        return answers

    def _indices(self, count: int) -> range:
        return range(min(count, len(self.source)))


def question(sample: Sample) -> Sample:
    """The sample without its last answer."""
    conversation = sample.conversation
    return replace(sample, conversation=Conversation(conversation.messages[:-1], conversation.system))
