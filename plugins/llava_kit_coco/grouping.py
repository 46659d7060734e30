"""Which rows of a file belong to which picture, in arrays: some bytes a row, and no parsed row is kept."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError


class Numbers:
    """Where each of some ids stands: `find` is the inverse of `ids`. Ids are unique."""

    def __init__(self, ids: NDArray[np.int64], what: str):
        self.ids = ids
        self._order = np.argsort(ids, kind="stable").astype(np.int32)
        self._sorted = ids[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            raise DataError(f"{what}: found the id {int(self._sorted[twice[0]])} twice; expected each id once")

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the `wanted` ids, -1 for one that is not there."""
        if not len(self.ids):
            return np.full(len(wanted), -1, np.int64)
        near = np.minimum(np.searchsorted(self._sorted, wanted), len(self.ids) - 1)
        return np.where(self._sorted[near] == wanted, self._order[near], -1).astype(np.int64)

    def place(self, wanted: int) -> int:
        """The place of one id, or -1."""
        return int(self.find(np.array([wanted], np.int64))[0])


class Groups:
    """The rows of each of `count` owners, in their own order; `owners[row]` says whose a row is, -1 that it is nobody's."""

    def __init__(self, owners: NDArray[np.integer[Any]], count: int):
        self._order = np.argsort(owners, kind="stable")[int(np.count_nonzero(owners < 0)) :].astype(np.int32)
        sizes = np.bincount(owners[owners >= 0], minlength=count)
        self.bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def rows(self, owner: int) -> list[int]:
        """The rows of `owner`."""
        return self._order[self.bounds[owner] : self.bounds[owner + 1]].tolist()


def whole_numbers(rows: JsonRows, key: str) -> NDArray[np.int64]:
    """What stands under `key` in each row, without parsing rows where the bytes leave no doubt.

    Raises:
        DataError: a row has none there; with the row.
    """
    pattern = re.compile(rb'"' + key.encode() + rb'"\s*:\s*(-?\d{1,18})\s*[,}]')
    numbers = np.empty(len(rows), np.int64)
    for row in range(len(rows)):
        text = rows.text(row)
        found = pattern.search(text)
        # A row with an object in it may have the key there too.
        numbers[row] = int(found[1]) if found and text.find(b"{", 1) < 0 else _parsed(rows, row, key)
    return numbers


def _parsed(rows: JsonRows, row: int, key: str) -> int:
    parsed: Any = rows[row]
    value = parsed.get(key) if isinstance(parsed, dict) else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    found = f"{key!r} is {json.dumps(value)[:60]}" if isinstance(parsed, dict) and key in parsed else f"has no {key!r}"
    raise DataError(f"{rows.path}: row {row} {found}; expected a whole number")
