"""Which samples make up a step: a pure function of seed, epoch and place, so that resuming needs one number.

A shuffled epoch is never written down: the sample at a place is computed by a keyed permutation (a Feistel network with
cycle walking), in memory that does not grow with the data. The arithmetic is our own, so it is the same for every numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import LlavaKitError

# Four rounds make a Feistel network a pseudo-random permutation (Luby and Rackoff); six leave a margin, at no cost that shows.
ROUNDS = 6
# SplitMix64's step: the golden ratio in 64 bits.
GOLDEN = 0x9E3779B97F4A7C15
# Coins are drawn from a seed of their own, so that they have nothing to do with the order ("coin" in ASCII).
COIN = 0x636F696E


class StepSamples(NamedTuple):
    """The samples of one step, by number: int64 [n]."""

    epoch: int
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class DataOrder:
    """The samples of every step.

    `num_samples` in the data, `global_batch_size` in a step; `epochs` or `steps` says how long it goes on. The last step of an
    epoch holds what is left of it, as the original counts: 558,128 samples in steps of 256 are 2,181 steps.
    """

    num_samples: int
    global_batch_size: int
    seed: int = 0
    epochs: float | None = None
    steps: int | None = None
    shuffled: bool = True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise LlavaKitError("the data source is empty; expected at least one sample")
        if (self.epochs is None) == (self.steps is None):
            raise LlavaKitError(f"found epochs={self.epochs} and steps={self.steps}; expected one of them")

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_samples / self.global_batch_size)

    @property
    def num_steps(self) -> int:
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        # Rounded first: 0.1 epochs of 30 steps are 3 steps, not ceil(3.0000000000000004).
        return max(1, math.ceil(round(self.epochs * self.steps_per_epoch, 9)))

    def samples(self, step: int) -> StepSamples:
        """The samples of step number `step`, which counts from 0."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.global_batch_size
        places = np.arange(start, min(start + self.global_batch_size, self.num_samples), dtype=np.int64)
        return StepSamples(epoch, permute(places, self.num_samples, self.seed, epoch) if self.shuffled else places)

    def num_seen(self, steps: int) -> int:
        """How many samples the first `steps` steps hold."""
        epochs, batches = divmod(steps, self.steps_per_epoch)
        return epochs * self.num_samples + min(batches * self.global_batch_size, self.num_samples)


def permute(places: NDArray[np.int64], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where each of `places` goes in the permutation of `range(size)` that `seed` and `epoch` choose: int64, same shape."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _keys(seed, epoch)
    result = places.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):  # the network permutes a power of four, at most four times `size`; who leaves the range goes again
        result[walking] = _feistel(result[walking], half_bits, keys)
        walking = walking[result[walking] >= size]
    return result.astype(np.int64)


def coin(seed: int, epoch: int, number: int) -> bool:
    """A fair coin for sample `number` in an epoch; it does not depend on the order of the samples."""
    key = int(_keys(seed ^ COIN, epoch)[0])
    return bool(_mix(np.array([(key + number * GOLDEN) % 2**64], np.uint64))[0] >> np.uint64(63))


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << bits | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit given."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    base = _mix(np.array([seed % 2**64], np.uint64))[0]
    start = int(_mix(np.array([(int(base) + epoch * GOLDEN) % 2**64], np.uint64))[0])
    return _mix(np.array([(start + round_ * GOLDEN) % 2**64 for round_ in range(1, ROUNDS + 1)], np.uint64))
