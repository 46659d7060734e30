"""Choices that follow from the seed and from what is chosen for, never from the order in which rows are asked for."""

from __future__ import annotations

import random


def chance(seed: int, *key: object) -> random.Random:
    """A generator of its own for `key`: the same on every machine, whichever rows were read before."""
    return random.Random("/".join(map(str, (seed, *key))))
