"""The marks of all rows, gathered: numbers in memory (some 60 bytes a row and a picture), the pictures' looks in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .likeness import LOOK_SIDE
from .row import Marks

_LOOK_BYTES = 3 * LOOK_SIDE**2


class Pictures(NamedTuple):
    """Every picture that is shown, in order; and the places in there of the first of each content that has a look."""

    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    names: NDArray[np.uint64]
    digests: NDArray[np.uint64]
    firsts: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    looks: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    """The looks of those of `firsts`, by their numbers there."""


class Seen:
    """What was seen of one source's rows. `pictures()` may be called when all is added; `close` gives the file back."""

    def __init__(self):
        self._kept: list[Marks] = []
        self._file = tempfile.TemporaryFile(prefix="llava_kit_check_")  # noqa: SIM115 - closed by `close`
        self._num_looks = 0

    def add(self, marks: Marks) -> None:
        places = marks.shown[:, 2]
        places[places >= 0] += self._num_looks
        self._file.write(np.ascontiguousarray(marks.looks).tobytes())
        self._num_looks += len(marks.looks)
        marks.looks = np.empty((0, _LOOK_BYTES), np.uint8)
        self._kept.append(marks)

    def column(self, name: str) -> NDArray:
        """One field of all marks, in the order of the rows."""
        if not self._kept:
            return np.empty(0, np.int64)
        return np.concatenate([getattr(marks, name) for marks in self._kept])

    def pictures(self) -> Pictures:
        shown = self.column("shown").reshape(-1, 3)
        names, digests, hashes = (self.column(name).astype(np.uint64) for name in ("names", "digests", "hashes"))
        with_look = np.flatnonzero(shown[:, 2] >= 0)
        _, first = np.unique(digests[with_look], return_index=True)
        firsts = with_look[np.sort(first)]
        return Pictures(shown[:, 0], shown[:, 1], names, digests, firsts, hashes[firsts], self._looks(shown[firsts, 2]))

    def _looks(self, places: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
        self._file.flush()
        if not self._num_looks:
            return lambda numbers: np.empty((len(numbers), _LOOK_BYTES), np.uint8)
        every = np.memmap(self._file, np.uint8, "r", shape=(self._num_looks, _LOOK_BYTES))
        return lambda numbers: np.asarray(every[places[numbers]])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
