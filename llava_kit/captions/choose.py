"""The rule by which captions are chosen, on arrays of integers: the filter that made CC-595K (LLaVA, appendix).

1. The frequency of a phrase is the number of captions that contain it; said twice in one caption it counts once.
2. Phrases of fewer than `least` captions are skipped.
3. From the rarest of the phrases that remain upward, the captions that contain the phrase join the pool.
4. Of a phrase in more than `most` captions, `most` by chance join, out of *all* its captions: those that are in the pool
   already count neither for nor against. (So the paper says it. What the pool holds in the end does then not depend on the
   order; which phrase a caption is there for does.)

Chance is a hash of seed, phrase and caption: of a phrase's captions those with the smallest hashes are taken. So the choice
depends on nothing but these three, and on no library's random numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


def key_of(phrase: str) -> int:
    """64 bits that stand for the phrase: of two million phrases some two have the same with a chance of one in ten million."""
    return int.from_bytes(blake2b(phrase.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Postings:
    """Which phrases each caption contains, in twelve bytes for a caption and eight for each of its phrases."""

    def __init__(self) -> None:
        self._keys, self._ends, self._rows = array("Q"), array("Q"), array("I")
        self._known: dict[str, int] = {}

    def add(self, row: int, phrases: Sequence[str]) -> None:
        """The next caption, of source row `row`."""
        self._keys.extend({self._key(phrase): None for phrase in phrases if phrase})
        self._ends.append(len(self._keys))
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The phrases of all captions, one after the other."""
        return np.frombuffer(self._keys, np.uint64) if self._keys else np.zeros(0, np.uint64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many phrases each caption has."""
        ends = np.frombuffer(self._ends, np.uint64).astype(np.int64) if self._ends else np.zeros(0, np.int64)
        return np.diff(ends, prepend=0)

    @property
    def rows(self) -> NDArray[np.uint32]:
        """The source row of each caption, in order."""
        return np.frombuffer(self._rows, np.uint32) if self._rows else np.zeros(0, np.uint32)

    def _key(self, phrase: str) -> int:
        key = self._known.get(phrase)
        if key is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            key = self._known[phrase] = key_of(phrase)
        return key


# Phrases whose key is kept at hand: some 20 MB. A handful of phrases makes up most of what captions say.
_REMEMBERED = 100_000


class Spectrum(NamedTuple):
    """How many different phrases are in so many captions: `frequencies` rising, `phrases` of each."""

    frequencies: list[int]
    phrases: list[int]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    captions   the numbers of the chosen captions, rising
    keys       for each of them the phrase that it was first taken for
    frequency  in how many captions that phrase is
    before     frequencies of all phrases; `after`: among the chosen captions
    num_...    different phrases: all, rarer than `least`, said by a chosen caption, of these in `least` captions or more before
    top        keys of the most frequent phrases with (frequency before, after), the most frequent first
    """

    captions: NDArray[np.int64]
    keys: NDArray[np.uint64]
    frequency: NDArray[np.int64]
    before: Spectrum
    after: Spectrum
    top: list[tuple[int, int, int]]
    num_phrases: int
    num_rare: int
    num_phrases_after: int
    num_frequent_after: int


def choose(postings: Postings, *, least: int, most: int, seed: int, top: int = 30) -> Choice:
    """The captions that the rule chooses; the same for the same captions, phrases and seed."""
    keys, index, frequency = np.unique(postings.keys, return_inverse=True, return_counts=True)
    index = index.astype(np.int32, copy=False)
    caption = np.repeat(np.arange(len(postings), dtype=np.int32), postings.counts)
    remaining = np.flatnonzero(frequency >= least)
    # From the rarest upward; of two that are as rare the smaller key first.
    rank = np.full(len(keys), _NEVER, np.int32)
    rank[remaining[np.argsort(frequency[remaining], kind="stable")]] = np.arange(len(remaining), dtype=np.int32)
    of_posting = rank[index]
    of_posting[_left_out(keys, index, frequency, caption, most, seed)] = _NEVER
    first = np.full(len(postings), _NEVER, np.int32)
    np.minimum.at(first, caption, of_posting)
    chosen = np.flatnonzero(first != _NEVER)
    by_rank = np.empty(len(remaining), np.int64)
    by_rank[rank[remaining]] = remaining
    taker = by_rank[first[chosen]]
    after = np.bincount(index[(first != _NEVER)[caption]], minlength=len(keys))
    most_frequent = np.argsort(-frequency, kind="stable")[:top]
    return Choice(
        captions=chosen,
        keys=keys[taker],
        frequency=frequency[taker],
        before=_spectrum(frequency),
        after=_spectrum(after[after > 0]),
        top=[(int(keys[place]), int(frequency[place]), int(after[place])) for place in most_frequent],
        num_phrases=len(keys),
        num_rare=len(keys) - len(remaining),
        num_phrases_after=int(np.count_nonzero(after)),
        num_frequent_after=int(np.count_nonzero(after[remaining])),
    )


def chance(seed: int, keys: NDArray[np.uint64], captions: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each pair of phrase and caption that looks random: the finaliser of SplitMix64, twice."""
    start = np.array([seed], np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ keys
    return _mix(_mix(start) ^ captions.astype(np.uint64))


_NEVER = np.iinfo(np.int32).max


def _left_out(
    keys: NDArray[np.uint64],
    index: NDArray[np.int32],
    frequency: NDArray[np.int64],
    caption: NDArray[np.int32],
    most: int,
    seed: int,
) -> NDArray[np.int64]:
    """The postings of frequent phrases that chance did not take."""
    places = np.flatnonzero((frequency > most)[index])
    phrase = index[places]
    # By phrase, within it by chance, and where two chances are equal by caption.
    order = np.lexsort((caption[places], chance(seed, keys[phrase], caption[places]), phrase))
    sorted_phrase = phrase[order]
    begins = np.flatnonzero(np.diff(sorted_phrase, prepend=-1))
    lengths = np.diff(begins, append=len(order))
    within = np.arange(len(order)) - np.repeat(begins, lengths)
    return places[order[within >= most]]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _spectrum(frequency: NDArray[np.int64]) -> Spectrum:
    found, phrases = np.unique(frequency, return_counts=True)
    return Spectrum(found.tolist(), phrases.tolist())
