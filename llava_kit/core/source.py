"""DataSource: samples by number, so that the order of a run is a pure function of its seed."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .conversation import Sample


class DataSource(ABC):
    """Samples by number. Memory must not grow with their count: rows are read when asked for. Must be picklable (workers)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, always the same. Raises `SampleError` (with the sample's id) for a row that cannot be used."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the data change: a resumed run compares it."""
