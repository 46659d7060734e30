"""Where the samples of one block go: rows of JSON with picture files beside them, or a shard of its own.

A sink takes a sample whole or raises `SampleError` before it has written anything of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.conversation import Sample
from ..errors import SampleError
from ..store.pictures import PictureFile, PictureStore
from ..store.row import messages_of, row_of

UNFINISHED = ".unfinished"

Shown = PictureFile | list[PictureFile] | str
"""A picture as a file, a clip as its frames, or the name of either where it already lies."""


class Sink(ABC):
    """Takes the samples of a block, in order. `close` gives the text that the block adds to the form's file."""

    @abstractmethod
    def add(self, index: int, sample: Sample, shown: Sequence[Shown]) -> None: ...

    @abstractmethod
    def close(self) -> bytes: ...


class RowSink(Sink):
    """Rows as lines of JSON, their pictures as files."""

    def __init__(self, folder: Path, form: str):
        self._store = PictureStore(folder, folder / UNFINISHED)
        self._row = messages_of if form == "messages" else row_of
        self._separator = b",\n" if form == "llava" else b"\n"
        self._lines: list[bytes] = []

    def add(self, index: int, sample: Sample, shown: Sequence[Shown]) -> None:
        json_text(self._row(sample, ["x"] * len(shown)))  # may refuse it, so it comes first
        names = [self._write(one) for one in shown]
        self._lines.append(json_text(self._row(sample, names)).encode("utf-8", "backslashreplace"))

    def _write(self, shown: Shown) -> str:
        if isinstance(shown, str):
            return shown
        return self._store.add_clip(shown) if isinstance(shown, list) else self._store.add(shown)

    def close(self) -> bytes:
        return self._separator.join(self._lines)


def json_text(value: Any) -> str:
    """The value as JSON. Raises `SampleError` for numbers that JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise SampleError("bad_number", "holds NaN or an infinite number, which JSON does not have") from None


def pictures_only(shown: Sequence[Shown], form: str) -> list[PictureFile]:
    """What is shown, if it is pictures. Raises `SampleError` for a clip."""
    if not all(isinstance(one, PictureFile) for one in shown):
        raise SampleError("video", f"shows a clip; {form} holds pictures, --to llava, jsonl or messages hold folders of frames")
    return [one for one in shown if isinstance(one, PictureFile)]


def make_sink(folder: Path, form: str, shard: str | None) -> Sink:
    """The sink for a block; `shard` is the name of its file, in forms that have one for each block."""
    if shard is None:
        return RowSink(folder, form)
    if form == "parquet":
        from .parquet_shard import ParquetSink

        return ParquetSink(folder, shard)
    from .tar_shard import TarSink

    return TarSink(folder, shard)
