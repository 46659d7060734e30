"""Several sources as one: which sample of which ingredient stands at a place is a pure function of the mixture and its seed."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ..core.conversation import Sample
from ..core.source import DataSource
from ..errors import SampleError
from .order import permute


class Share(NamedTuple):
    """How much of an ingredient is in a mixture: `taken` of the `available` samples, each `repeat` times.

    `rule` says which: the `first`, those at the `end`, or `random` ones.
    """

    name: str
    rule: str
    available: int
    taken: int
    repeat: int

    @property
    def num_samples(self) -> int:
        return self.taken * self.repeat

    def __str__(self) -> str:
        times = f", {self.repeat} times" if self.repeat > 1 else ""
        return f"{self.name}: {self.taken:,} of {self.available:,} samples ({self.rule}){times}"


class MixtureSource(DataSource):
    """The samples of all ingredients, one ingredient after the other; `sources` are these by name.

    A sample keeps the tag `source` that its own source gave it, else it gets the ingredient's name; the tag `ingredient` is
    always the name. A repeated sample is called `ID#2`, `ID#3`, ...
    """

    def __init__(self, sources: Mapping[str, DataSource], shares: Sequence[Share], seed: int):
        self.shares, self.seed = tuple(shares), seed
        self._sources = dict(sources)
        self._ends = list(accumulate(share.num_samples for share in shares))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        share = self.shares[number]
        round_, place = divmod(index - (self._ends[number] - share.num_samples), share.taken)
        try:
            sample = self._sources[share.name][self._row(share, place)]
        except SampleError as error:
            name = _again(error.sample_id or f"{share.name}, row {place}", round_)
            raise SampleError(error.reason, error.message, sample_id=name) from error
        tags = {"source": share.name, **sample.tags, "ingredient": share.name}
        return replace(sample, id=_again(sample.id, round_), tags=tags)

    def fingerprint(self) -> str:
        parts = [repr((self.seed, self.shares)), *(self._sources[share.name].fingerprint() for share in self.shares)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def _row(self, share: Share, place: int) -> int:
        """The row of an ingredient that is the `place`-th taken."""
        if share.rule == "end":
            return share.available - share.taken + place
        if share.rule == "random":
            # A stream for each name, so that an ingredient keeps its samples whatever stands beside it.
            stream = int.from_bytes(hashlib.sha256(share.name.encode()).digest()[:4], "big")
            return int(permute(np.array([place]), share.available, self.seed, stream)[0])
        return place


def _again(name: str, round_: int) -> str:
    return name if round_ == 0 else f"{name}#{round_ + 1}"
