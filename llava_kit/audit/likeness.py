"""Pictures that look alike: a hash of 64 bits that finds candidates among millions, and a second look that judges them.

The hash says which of the 64 lowest frequencies of the picture's light are above their median, as the well-known pHash:
resizing, compressing and brightening change few of them. Pictures with little in them (a shape on a plain ground) share hashes
though they differ, so candidates are held against each other as 16 x 16 colours, up to brightness and contrast, and one place
that differs is enough to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Side of the thumbnail that both are made of."""
LOOK_SIDE = 16

# Bits that may differ. Photographs saved at quality 60, shrunk to a third or dimmed differ by 4 at most.
MAX_BITS = 6
# The most that one of the 16 x 16 x 3 values may differ, in levels of 255, and all of them, relative to their spread. Copies
# at quality 60, at 60 % of the size, dimmed: up to 21 and 0.10 for the most colourful pictures, 4 and 0.02 for photographs.
MAX_LEVELS, MAX_SPREAD = 22.0, 0.10
# Brightness and contrast may change by so much; beyond it both are nearly blank anyway.
MIN_GAIN, MAX_GAIN = 0.5, 2.0

_BANDS, _BAND_BITS = 4, 16
# In a bucket of more pictures each is compared with so many after it, in the order of their whole hashes: a million pictures
# have 15 in a bucket, and only a set of one picture's copies has thousands.
_WINDOW = 512
_PAIRS_AT_ONCE = 1 << 20
_JUDGED_AT_ONCE = 1 << 12

_FREQUENCIES = np.cos(np.pi / SIDE * np.arange(9)[:, None] * (np.arange(SIDE)[None] + 0.5)).astype(np.float32)
_LIGHT = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def hash_of(thumbnail: NDArray[np.uint8]) -> int:
    """The 64 bits of a uint8 [SIDE, SIDE, 3]: which of its lowest frequencies are above their median."""
    light = thumbnail.astype(np.float32) @ _LIGHT
    low = (_FREQUENCIES @ light @ _FREQUENCIES.T).ravel()[1:65]
    ordered = np.sort(low)  # for so few numbers a tenth of the time of numpy's median
    return int.from_bytes(np.packbits(low > (ordered[31] + ordered[32]) / 2).tobytes(), "little")


def look_of(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [3 * LOOK_SIDE²]: the thumbnail at a quarter of its pixels."""
    return np.array(Image.fromarray(thumbnail).reduce(SIDE // LOOK_SIDE)).ravel()


def alike(looks: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [n]: whether looks [n, 3 * LOOK_SIDE²] show the same as the others, but for brightness, contrast and compression."""
    x, y = looks.astype(np.float32), others.astype(np.float32)
    x -= x.mean(1, keepdims=True)
    y -= y.mean(1, keepdims=True)
    own, theirs = (x * x).sum(1), (y * y).sum(1)
    gain = (x * y).sum(1) / np.maximum(own, 1e-6)
    rest = np.abs(x * gain[:, None] - y)
    spread = np.sqrt((rest * rest).sum(1) / np.maximum(theirs, 1e-6))
    return (rest.max(1) <= MAX_LEVELS) & (spread <= MAX_SPREAD) & (gain >= MIN_GAIN) & (gain <= MAX_GAIN)


def alike_pairs(
    hashes: NDArray[np.uint64],
    looks: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    sides: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """int64 [pairs, 2], i < j: the pictures that look alike, each pair once, in order. With `sides`: of different sides alone.

    hashes  uint64 [n]
    looks   numbers [m] -> uint8 [m, 3 * LOOK_SIDE²]; they may lie on disk
    """
    found = [np.empty((0, 2), np.int64)]
    for first, second in _near(hashes, sides):
        for start in range(0, len(first), _JUDGED_AT_ONCE):
            i, j = first[start : start + _JUDGED_AT_ONCE], second[start : start + _JUDGED_AT_ONCE]
            same = alike(looks(i), looks(j))
            found.append(np.stack([i[same], j[same]], 1))
    return np.unique(np.concatenate(found), axis=0)


def _near(hashes: NDArray[np.uint64], sides: NDArray[np.bool_] | None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of numbers i < j whose hashes differ by at most `MAX_BITS` bits; a pair may come several times.

    Two hashes that differ by less than eight bits have one of four bands of 16 bits that differs by one bit at most. So the
    pictures are sorted by each band, and each is compared with those of its own bucket and of the 16 buckets a bit away.
    """
    assert MAX_BITS < 2 * _BANDS
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BAND_BITS) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)
        order = np.lexsort((hashes, keys))
        edges = np.searchsorted(keys[order], np.arange((1 << _BAND_BITS) + 1))
        places = np.arange(len(hashes))
        sorted_keys = keys[order]
        # Within its own bucket: those after it.
        yield from _compared(hashes, sides, order, places, places + 1, edges[sorted_keys + 1])
        for bit in range(_BAND_BITS):
            other = sorted_keys ^ (1 << bit)
            upward = other > sorted_keys
            yield from _compared(hashes, sides, order, places[upward], edges[other[upward]], edges[other[upward] + 1])


def _compared(
    hashes: NDArray[np.uint64],
    sides: NDArray[np.bool_] | None,
    order: NDArray[np.int64],
    places: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each place of the order against those from its start to its stop (but at most a window of them)."""
    counts = np.clip(stops - starts, 0, _WINDOW)
    some = counts > 0
    places, starts, counts = places[some], starts[some], counts[some]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(places):
        end = max(begin + 1, int(np.searchsorted(ends, (ends[begin - 1] if begin else 0) + _PAIRS_AT_ONCE)))
        number = counts[begin:end]
        within = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
        one = order[np.repeat(places[begin:end], number)]
        two = order[np.repeat(starts[begin:end], number) + within]
        near = np.bitwise_count(hashes[one] ^ hashes[two]) <= MAX_BITS
        if sides is not None:
            near &= sides[one] != sides[two]
        one, two = one[near], two[near]
        yield np.minimum(one, two), np.maximum(one, two)
        begin = end
