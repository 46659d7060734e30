"""A publisher's file as rows by number, gone through in large stretches where all must be looked at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from llava_kit.core.json_rows import JsonMembers, JsonRows, fingerprint
from llava_kit.errors import DataError, suggest

from .formats import Format
from .recognise import kind_of

# Rows of a question have 100 to 1,500 bytes, so a stretch of them is a few megabytes at most.
STRETCH = 2048


class Rows(Protocol):
    """Rows by number."""

    path: str

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


class JoinedRows:
    """The rows of two files of one format, one after the other."""

    def __init__(self, first: JsonRows, second: JsonRows):
        self.path, self.parts = f"{first.path} and {second.path}", (first, second)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, number: int) -> Any:
        first, second = self.parts
        return first[number] if number < len(first) else second[number - len(first)]


class FolderRows:
    """The files of a folder (AI2D's, one for each picture), in the order of their names; or one such file."""

    def __init__(self, path: str, leave_out: frozenset[str]):
        self.path = path
        if os.path.isdir(path):
            names = [name for name in os.listdir(path) if name.endswith(".json")]
            self.files = [os.path.join(path, name) for name in sorted(names, key=_by_number)]
        else:
            self.files = [path]
        self.files = [file for file in self.files if os.path.basename(file).split(".")[0] not in leave_out]
        if not self.files:
            raise DataError(f"{path}: holds no questions; expected files such as 0.png.json")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        try:
            with open(self.files[number], "rb") as file:
                return json.loads(file.read())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.files[number]}: cannot be read as JSON: {error}") from None


def _by_number(name: str) -> tuple[int, str]:
    stem = name.split(".")[0]
    return (int(stem) if stem.isdecimal() else -1, name)


def open_rows(name: str, form: Format, path: str, leave_out: frozenset[str] = frozenset()) -> Rows:
    """The rows of the file, the first of which was looked at.

    Raises:
        DataError: it cannot be read, or is another file than `name` needs; if it is known, what it is.
    """
    if form.holds == "folder":
        rows: Rows = FolderRows(path, leave_out)
    else:
        _check_kind(name, form, path)
        try:
            rows = _rows_of(form, path)
        except DataError as error:
            raise DataError(f"{error}; expected the file that is published as {form.files}") from None
    if not len(rows):
        raise DataError(f"{path}: holds no questions; expected the file that is published as {form.files}")
    _check_keys(name, form, rows)
    return rows


def _rows_of(form: Format, path: str) -> Rows:
    if form.holds == "members":
        return JsonMembers(path)
    return JsonRows(path, form.section or None)


def _check_kind(name: str, form: Format, path: str) -> None:
    """Raises DataError for a file whose first bytes tell that it is something else. VQAv2 and OK-VQA read each other's."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    if form.annotated and b'"question_type"' in head and b'"questions"' not in head:
        raise DataError(f"{path}: is a file of answers; expected the questions ({form.files}) here, and this as `annotations`")
    if b'"ocr_tokens"' in head and b'"question' not in head and b'"caption_str"' not in head:
        raise DataError(f"{path}: is a file of OCR tokens; expected {form.files} here, and this as `ocr`")
    found = kind_of(path, head)
    if found is not None and found.name != name and {found.name, name} != {"vqav2", "okvqa"}:
        raise DataError(f"{path}: looks like a file of the source {found.name!r}; expected {form.files} of {name!r}")


def _check_keys(name: str, form: Format, rows: Rows) -> None:
    row = rows[0]
    wanted = [key for key in form.keys if key != "key"]
    found = list(row) if isinstance(row, dict) else []
    missing = [key for key in wanted if key not in found]
    if missing:
        keys = ", ".join(map(repr, found)) or "none"
        raise DataError(
            f"{rows.path}: its first row has the keys {keys}; expected {', '.join(map(repr, missing))} too, as {form.files} of "
            f"{name!r} has ({suggest(missing[0], found)})"
        )


def row_texts(rows: JsonRows | JoinedRows) -> Iterator[bytes]:
    """The bytes of each row, in order; the file is read in stretches."""
    if isinstance(rows, JoinedRows):
        for part in rows.parts:
            yield from row_texts(part)
        return
    starts, lengths = rows.places.starts, rows.places.lengths.astype(np.int64)
    with open(rows.path, "rb") as file:
        for first in range(0, len(starts), STRETCH):
            begins = starts[first : first + STRETCH]
            sizes = lengths[first : first + STRETCH]
            origin = int(begins[0])
            file.seek(origin)
            data = file.read(int(begins[-1] + sizes[-1]) - origin)
            for begin, size in zip((begins - origin).tolist(), sizes.tolist()):
                yield data[begin : begin + size]


def key_of(rows: Rows, number: int) -> str:
    """The key of the row in an object of objects; its number elsewhere."""
    return rows.names[number] if isinstance(rows, JsonMembers) else str(number)


def fingerprint_of(path: str) -> str:
    """As `json_rows.fingerprint`; of a folder, its files' names, sizes and times."""
    if not os.path.isdir(path):
        return fingerprint(path)
    with os.scandir(path) as entries:
        stats = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:32]


def read_json(path: str, what: str) -> Any:
    """A small file as a whole. Raises DataError."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: {what} cannot be read: {os.strerror(error.errno or 0)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {what} is no JSON in UTF-8: {error}") from None
