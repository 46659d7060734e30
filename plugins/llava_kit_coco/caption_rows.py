"""The rows of a caption file by number, whatever form it has; memory holds their places alone, 12 bytes a row."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_kit.core.json_rows import JsonRows
from llava_kit.core.json_scan import BLOCK_BYTES, RowIndex
from llava_kit.errors import DataError, SampleError

from .options import CaptionOptions
from .table_head import Head, read_head, split
from .talk import first_rows, json_row

_HEAD_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


class CaptionRows(ABC):
    """Rows as mappings from columns to values; `names` are the columns, `shown` some first rows."""

    names: tuple[str, ...]
    shown: list[Mapping[str, Any]]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Row `number`. Raises SampleError, reason `bad_row`."""


def open_rows(options: CaptionOptions) -> CaptionRows:
    """The rows of the file, as JSON or as a table by its first character.

    Raises:
        DataError: there is no such file, it is empty, no text, or nothing parts its columns.
    """
    path = options.path
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    text = head.removeprefix(_BOM)
    if text.lstrip()[:1] in (b"[", b"{") and options.delimiter is None:
        return _JsonCaptions(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; expected a table or JSON rows of captions and pictures")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
        raise DataError(
            f"{path}: is not UTF-8 text; expected a table (TSV, CSV) or JSON rows of captions and pictures, in UTF-8"
        )
    return _TableCaptions(options, text)


class _JsonCaptions(CaptionRows):
    def __init__(self, path: str):
        self._rows = JsonRows(path)
        self.shown = list(first_rows(self._rows))
        self.names = tuple(dict.fromkeys(name for row in self.shown for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return json_row(self._rows, number)


class _TableCaptions(CaptionRows):
    def __init__(self, options: CaptionOptions, head: bytes):
        self.path = options.path
        whole = head if len(head) < _HEAD_BYTES - len(_BOM) else head[: head.rfind(b"\n") + 1] or head
        found = read_head(whole.decode("utf-8", "replace"), options.delimiter, options.header, options.quotes)
        if found is None:
            first = whole.partition(b"\n")[0][:60].decode("utf-8", "replace")
            raise DataError(
                f"{self.path}: its first line is {first!r}; expected columns parted by a tab, a comma, '|' or ';' "
                "(delimiter=... says which), or JSON rows"
            )
        self.head: Head = found
        self.names = found.names
        self.shown = [dict(zip(found.names, line)) for line in found.lines[:50]]
        self._index = index_lines(self.path, found.quotes, skip=int(found.header))
        self._file: Any = None
        self._owner = 0

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        if self._owner != os.getpid():  # a forked worker must not share the place in the file
            self._file, self._owner = open(self.path, "rb"), os.getpid()  # noqa: SIM115 - it stays open
        self._file.seek(int(self._index.starts[number]))
        data = self._file.read(int(self._index.lengths[number]))
        try:
            rows = split(data.decode("utf-8"), self.head.delimiter, self.head.quotes)
        except UnicodeDecodeError as error:
            raise SampleError("bad_row", f"{self.path}: row {number} is not UTF-8: {error.reason}") from None
        except Exception as error:  # csv.Error has no base class of its own: a field beyond its limit of 128 KiB
            raise SampleError("bad_row", f"{self.path}: row {number} cannot be read: {error}") from None
        if len(rows) != 1 or len(rows[0]) != len(self.names):
            count = len(rows[0]) if rows else 0
            shown = json.dumps(data[:80].decode("utf-8", "replace"))
            raise SampleError(
                "bad_row",
                f"{self.path}: row {number} has {count} columns ({shown}); expected {len(self.names)}, as the first has",
            )
        return dict(zip(self.names, rows[0]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}


def index_lines(path: str, quotes: bool, skip: int = 0) -> RowIndex:
    """The rows of a table, the first `skip` left out; with `quotes` a line end between `"` belongs to its field."""
    ends: list[NDArray[np.int64]] = []
    offset, inside, size = 0, 0, os.path.getsize(path)
    with open(path, "rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(0)
        while data := file.read(BLOCK_BYTES):
            block = np.frombuffer(data, np.uint8)
            found = np.flatnonzero(block == ord("\n"))
            if quotes:
                marks = np.flatnonzero(block == ord('"'))
                found = found[(np.searchsorted(marks, found) + inside) % 2 == 0]
                inside += len(marks)
            ends.append(found + offset)
            offset += len(data)
    if quotes and inside % 2:
        raise DataError(
            f"{path}: has an odd number of '\"', so one is never closed; quotes=false if they are no marks of fields"
        )
    stops = np.concatenate([*ends, np.array([size], np.int64)])
    starts = np.concatenate([[start], stops[:-1] + 1])
    lengths = np.maximum(stops - starts, 0)
    keep = lengths > 0
    with open(path, "rb") as file:
        for number in np.flatnonzero(keep & (lengths < 4)).tolist():  # an empty line is no row, nor is one of spaces
            file.seek(int(starts[number]))
            keep[number] = bool(file.read(int(lengths[number])).strip())
    return RowIndex(starts[keep][skip:], lengths[keep][skip:].astype(np.uint32))
