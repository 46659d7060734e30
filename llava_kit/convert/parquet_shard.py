"""A shard of Parquet: a row for each sample, with the bytes of its pictures.

Columns: `id`; `images`, a list of {bytes, path} as Hugging Face's `datasets` has pictures; `conversations`, a list of
{from, value} with the system text as its first turn; and as JSON text, or null, `captions`, `boxes`, `box_convention`, `tags`.
A conversation that LLaVA's format cannot say exactly stands in `messages` (JSON text, its pictures called by their `path`), and
its `conversations` are null.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.conversation import Sample
from ..errors import PluginError, SampleError
from ..store.row import row_of
from .sinks import UNFINISHED, Shown, Sink, json_text, pictures_only

# Rows that are held in memory and written together: what Hugging Face takes for pictures, some 15 MB of photographs.
GROUP = 100
_NOTES = ("captions", "boxes", "tags")
# What Hugging Face's `datasets` reads beside the schema to see that the bytes are pictures.
_FEATURES = {
    "id": {"dtype": "string", "_type": "Value"},
    "images": {"feature": {"_type": "Image"}, "_type": "List"},
    "conversations": {
        "feature": {"from": {"dtype": "string", "_type": "Value"}, "value": {"dtype": "string", "_type": "Value"}},
        "_type": "List",
    },
    **{name: {"dtype": "string", "_type": "Value"} for name in ("messages", *_NOTES, "box_convention")},
}


def need_pyarrow() -> None:
    """Raises `PluginError` where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise PluginError("--to parquet needs pyarrow: pip install 'llava-kit[data]'") from None


def _schema() -> Any:
    import pyarrow as pa

    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    columns = [
        ("id", pa.string()),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("conversations", pa.list_(turn)),
        *((name, pa.string()) for name in ("messages", *_NOTES, "box_convention")),
    ]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})


class ParquetSink(Sink):
    """Writes samples to a Parquet file that appears under its name when it is whole; none without samples."""

    def __init__(self, folder: Path, shard: str):
        self._path = folder / shard
        self._unfinished = folder / UNFINISHED / f"{os.getpid()}-{shard}"
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, index: int, sample: Sample, shown: Sequence[Shown]) -> None:
        pictures = pictures_only(shown, "parquet")
        names = [f"{index:09}.{number}.{picture.ending}" for number, picture in enumerate(pictures)]
        row = row_of(sample, names)
        images = [{"bytes": picture.data, "path": name} for picture, name in zip(pictures, names, strict=True)]
        self._rows.append({**_columns(row), "images": images})
        if len(self._rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self._unfinished, _schema(), compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, _schema()))
        self._rows = []

    def close(self) -> bytes:
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            os.replace(self._unfinished, self._path)
        return b""


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row, but its pictures. Raises `SampleError` for text that is no Unicode."""
    columns: dict[str, Any] = {name: json_text(row[name]) for name in _NOTES if name in row}
    columns |= {"id": row["id"], "box_convention": row.get("box_convention"), "conversations": None, "messages": None}
    system = row.get("system")
    if "messages" in row:
        first = [] if system is None else [{"role": "system", "content": system}]
        columns["messages"] = json_text([*first, *row["messages"]])
    else:
        first = [] if system is None else [{"from": "system", "value": system}]
        columns["conversations"] = [*first, *row["conversations"]]
    try:
        json_text({"": list(columns.values())}).encode("utf-8")
    except UnicodeEncodeError:
        raise SampleError("bad_text", "holds half of a surrogate pair, which Parquet's text cannot; --to llava can") from None
    return columns
