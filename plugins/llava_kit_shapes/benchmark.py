"""The held-out questions of the picture world, asked one by one and told apart by type."""

from __future__ import annotations

from collections.abc import Sequence

from llava_kit import Benchmark, Sample

from . import ShapesOptions, ShapesQuestionsOptions
from .source import ShapesSource


class ShapesQuestions(Benchmark):
    """Questions of six types in turn. A second row of the table holds those that rest on a combination set aside."""

    def __init__(self, options: ShapesQuestionsOptions):
        self._source = ShapesSource(
            ShapesOptions(task="questions", split=options.split, seed=options.seed, size=options.size, detail=options.detail)
        )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        return self._source[index]

    def groups(self, sample: Sample) -> Sequence[str]:
        """The question's type; then `unseen` or `seen`."""
        return (sample.tags["type"], "unseen" if sample.tags["unseen"] else "seen")
