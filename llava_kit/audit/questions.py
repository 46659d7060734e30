"""A benchmark's questions as a source, so that training data can be held against them."""

from __future__ import annotations

from ..core.benchmark import Benchmark
from ..core.conversation import Sample
from ..core.source import DataSource


class BenchmarkSource(DataSource):
    """The questions of `benchmark` by number."""

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark

    def __len__(self) -> int:
        return len(self.benchmark)

    def __getitem__(self, index: int) -> Sample:
        return self.benchmark[index]

    def fingerprint(self) -> str:
        return f"questions:{type(self.benchmark).__name__}:{len(self.benchmark)}"
