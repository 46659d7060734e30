"""The files of a conversion that only grow: rows, rejected samples, and the journal that says how much of them counts."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from ..store.journal import Journal
from .block import Block
from .forms import FORMS

REJECTED = "rejected.jsonl"
_PART = ".part"
# Seconds between two syncs: what a machine that loses its power has to do again.
_SYNC_SECONDS = 10.0


class Files:
    """Adds blocks in order; opened again it stands where the last whole block ended.

    `blocks` are how many are there, `counts` and `bad` what is in them.
    """

    def __init__(self, folder: Path, form: str, journal: Journal):
        self.folder, self.form, self.journal = folder, FORMS[form], journal
        self.array = form == "llava"
        self.counts: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self._path = None if self.form.file is None else folder / self.form.file
        entries = self._entries()
        self.blocks = len(entries)
        for entry in entries:
            self.counts.update(entry["counts"])
            self.bad.update(entry["bad"])
        last = entries[-1] if entries else {"rows": 0, "rejected": 0}
        self._finished = self._path is not None and self._path.exists()
        self._rows = None
        if self._path is not None and not self._finished:
            self._rows = _opened(self._path.with_name(self._path.name + _PART), last["rows"])
        self._rejected = _opened(folder / REJECTED, last["rejected"])
        self._synced = time.monotonic()

    def _entries(self) -> list[dict[str, Any]]:
        """The journal's blocks, as far as what they tell of is there: a machine that lost its power may have lost some."""
        entries: list[dict[str, Any]] = []
        for entry in self.journal.entries():
            if "from" in entry:
                del entries[entry["from"] :]
            else:
                entries.append(entry)
        whole = next((number for number, entry in enumerate(entries) if not self._is_there(entry, number)), len(entries))
        if whole < len(entries):
            self.journal.append({"from": whole})
        return entries[:whole]

    def _is_there(self, entry: dict[str, Any], number: int) -> bool:
        if _size(self.folder / REJECTED) < entry["rejected"]:
            return False
        if self._path is not None:
            return self._path.exists() or _size(self._path.with_name(self._path.name + _PART)) >= entry["rows"]
        assert self.form.shard is not None
        return _size(self.folder / self.form.shard.format(number)) == entry["rows"]

    def add(self, number: int, block: Block) -> None:
        """Adds block `number`; when this returns it survives the end of the program."""
        assert number == self.blocks
        rows = self._add_rows(block.text)
        if self.form.shard is not None:
            rows = _size(self.folder / self.form.shard.format(number))
        lines = "".join(json.dumps(rejected._asdict(), ensure_ascii=True) + "\n" for rejected in block.rejected)
        self._rejected.write(lines.encode())
        self._rejected.flush()
        bad = Counter(rejected.reason for rejected in block.rejected)
        self.journal.append({"rows": rows, "rejected": self._rejected.tell(), "counts": block.counts, "bad": bad})
        self.blocks += 1
        self.counts.update(block.counts)
        self.bad.update(bad)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def _add_rows(self, text: bytes) -> int:
        """Where the file of rows ends now."""
        if self._rows is None:
            return 0
        if text:
            if self.array:
                self._rows.write(b",\n" if self._rows.tell() else b"[\n")
            self._rows.write(text if self.array else text + b"\n")
            self._rows.flush()
        return self._rows.tell()

    def sync(self) -> None:
        """What was added survives a loss of power too. First what the journal tells of, then the journal."""
        for file in (self._rows, self._rejected):
            if file is not None:
                os.fsync(file.fileno())
        self.journal.sync()
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Gives the file of rows its end and its name."""
        if self._rows is not None and self._path is not None:
            if self.array:
                self._rows.write(b"\n]\n" if self._rows.tell() else b"[]\n")
                self._rows.flush()
            self.sync()
            os.replace(self._path.with_name(self._path.name + _PART), self._path)
        if not self._rejected.tell():
            (self.folder / REJECTED).unlink()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._rows, self._rejected):
            if file is not None:
                file.close()


def _opened(path: Path, end: int) -> IO[bytes]:
    """The file, cut to its first `end` bytes and ready for more."""
    file = open(path, "ab")  # noqa: SIM115 - closed by `Files`
    file.truncate(end)
    file.seek(end)
    return file


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
