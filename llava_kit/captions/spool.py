"""The phrases that were found, on disk: which entry holds which captions, so that any of them can be read alone."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

from .choose import Postings
from .find import found


class Spool:
    """A whole `store.journal` of phrases read once: `postings` as numbers; of the text only its places are kept."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.postings = Postings()
        self.roots: set[str] = set()
        """The folders under which the source's picture files are; an empty name stands for pictures that are no files."""
        self.example = ""
        """Why the first of the samples without captions has none."""
        self._places, self._firsts = array("Q"), array("Q")
        with open(self.path, "rb") as file:
            file.readline()  # what the journal is of
            place = file.tell()
            for line in file:
                self._places.append(place)
                self._firsts.append(len(self.postings))
                place += len(line)
                self._read(json.loads(line))

    def __len__(self) -> int:
        return len(self._places)

    def first_caption(self, number: int) -> int:
        """The number of the first caption of entry `number`."""
        return self._firsts[number]

    def entry(self, number: int) -> dict[str, Any]:
        """Entry `number` as it was written."""
        with open(self.path, "rb", buffering=1 << 16) as file:
            file.seek(self._places[number], os.SEEK_SET)
            return json.loads(file.readline())

    def _read(self, entry: dict[str, Any]) -> None:
        self.roots.update(entry["roots"])
        for told in found(entry):
            if told.reason:
                self.example = self.example or f"{told.id}: {told.message}"
            for phrases in told.phrases:
                self.postings.add(told.row, phrases)
