"""A file of JSON lines that only grows: what was written stays, whatever kills the program; a line that was cut short goes."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError

# Journals that are open in this process. A forked worker must not hold them, or their locks would outlive a killed parent.
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _let_go() -> None:
    for journal in list(_open_journals):
        journal._file.close()
    _open_journals.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Journal:
    """Appends entries, each as one line in one write, so that a killed program leaves whole lines and at most one cut one.

    The first line says what the journal is of (`about`). A journal that is there is gone on with: its whole lines are kept, a
    cut one is dropped. Closing syncs it to the disk, and so does `sync`; one process writes at a time.

    Raises:
        DataError: the journal that is there is of something else (the differences are told), in use, or not a journal.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = json.loads(json.dumps(about))
        end = _check(self.path, about)
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by `close`
        _open_journals.add(self)
        _lock(self._file, self.path)
        if end is None:
            self._write({"journal": 1, "about": about})
        elif end < os.path.getsize(self.path):
            os.truncate(self.path, end)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What was written, in order, from the beginning."""
        with open(self.path, "rb") as file:
            file.readline()
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Writes an entry; when this returns it survives the end of the program (of the machine: after `sync`)."""
        self._write(entry)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        # A lone surrogate has no bytes; ASCII escapes say every text.
        self._file.write(json.dumps(entry, ensure_ascii=True).encode("ascii") + b"\n")
        self._file.flush()


def _check(path: Path, about: Mapping[str, Any]) -> int | None:
    """Where the last whole line of the journal ends; None where there is none yet, or not even its first line is whole."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        first = file.readline()
        if not first.endswith(b"\n"):
            file.close()
            os.truncate(path, 0)
            return None
        try:
            found = json.loads(first)["about"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: is no journal of llava-kit; expected a new file, or one that was begun here") from None
        if found != about:
            raise DataError(
                f"{path}: was begun for something else ({differences(found, about)}); name another folder, or remove it"
            )
        end = size = os.path.getsize(path)
        # The last line may be cut; entries are short, so its beginning is near.
        step = 1 << 16
        while end > 0:
            start = max(0, end - step)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return size


def differences(found: Any, expected: Mapping[str, Any]) -> str:
    """What was, and what is wanted now, key by key, for those that differ; empty where none does."""
    if not isinstance(found, dict):
        return f"found {found!r}"
    keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
    return "; ".join(f"{key}: then {_short(found.get(key))}, now {_short(expected.get(key))}" for key in keys)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} letters)"


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody is kept out
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(f"{path}: another program is writing to it; wait for it, or name another folder") from None
