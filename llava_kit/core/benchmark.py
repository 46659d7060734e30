"""Benchmark: questions with pictures, and how an answer is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .conversation import Sample


class Benchmark(ABC):
    """Questions by number. The last message of each sample's conversation is the reference answer."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def groups(self, sample: Sample) -> Sequence[str]:
        """The rows of the table that this question counts in, besides `all`; the first is its type."""
        return ()

    def score(self, sample: Sample, reply: str) -> float:
        """0 (wrong) to 1 (right); by default the reference answer and the reply are compared as words, ignoring case."""
        reference = sample.conversation.messages[-1].text
        return float(_words(reference) == _words(reply))


def _words(text: str) -> list[str]:
    return text.lower().strip().rstrip(".").split()
