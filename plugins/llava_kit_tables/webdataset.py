"""Samples out of WebDataset's shards, by number: pictures, and what is said about them in a member of JSON or text."""

from __future__ import annotations

import json
import warnings
from typing import Any

from llava_kit.core.conversation import Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from . import WebdatasetOptions
from .columns import Kind, choose_columns, kind_of_value
from .files import find_files, fingerprint_files, name_of, root_of, source_of
from .rows import RowReader
from .shards import PICKLES, PICTURES, TEXTS, Shards

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
_PICTURE_KEYS = ("image", "images", "jpg", "png")


class WebdatasetSource(DataSource):
    """Samples by number; members that are not read are told once, in a warning, and counted in `ignored`."""

    def __init__(self, options: WebdatasetOptions):
        self.options = options
        self.files = find_files(options.path, ENDINGS, options.split)
        self._shards = Shards(self.files)
        self.ignored = dict(self._shards.ignored)
        self._reader = RowReader(options, root_of(self.files), source_of(options.path, self.files))
        if not len(self._shards):
            held = f" but {_counted(self.ignored)}" if self.ignored else ""
            raise DataError(
                f"{self.files[0]}: holds no samples in {len(self.files)} files: nothing{held}; expected members as 0001.jpg "
                f"with 0001.json or 0001.txt (endings: {', '.join(PICTURES + TEXTS)})"
            )
        if self.ignored:
            pickles = any(ending.lstrip(".") in PICKLES for ending in self.ignored)
            more = "; pickles and arrays are never opened" if pickles else ""
            warnings.warn(f"{name_of(options.path)}: members that are not read: {_counted(self.ignored)}{more}", stacklevel=2)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self))[index]
        try:
            key, members = self._shards.read(number)
        except DataError as error:
            raise SampleError("bad_row", str(error), sample_id=f"row {number}") from None
        try:
            row = _row(key, members)
            kinds: dict[str, Kind] = {name: kind_of_value(value) for name, value in row.items()}
            columns = choose_columns(kinds, self.options.fields, "its members and JSON")
        except SampleError:
            raise
        except DataError as error:
            raise SampleError("bad_row", f"row {number}: {error}", sample_id=key) from None
        return self._reader.sample(row, columns._replace(id=columns.id or "__key__"), number)

    def fingerprint(self) -> str:
        return f"{fingerprint_files(self.files)}:{len(self)}:{self.options.picture_place}"


def _row(key: str, members: list[tuple[str, bytes]]) -> dict[str, Any]:
    """One row of all members: the JSON's own keys, the pictures, and the text as caption where the JSON has none."""
    row: dict[str, Any] = {}
    pictures = []
    for ending, data in members:
        last = ending.rpartition(".")[2]
        if last in PICTURES:
            pictures.append({"bytes": data, "path": f"{key}.{ending}"})
            continue
        try:
            told = data.decode("utf-8-sig")
            found = json.loads(told) if last == "json" else {"caption": told.strip()}
        except (ValueError, RecursionError) as error:
            what = "JSON" if last == "json" else "text in UTF-8"
            raise SampleError("bad_row", f"member {key}.{ending} is no {what}: {error}", sample_id=key) from None
        if not isinstance(found, dict):
            told = f"member {key}.{ending} is a {type(found).__name__}; expected an object"
            raise SampleError("bad_row", told, sample_id=key)
        row = {**found, **row} if last == "txt" else {**row, **found}
    if pictures:
        # The JSON calls its pictures by the names they had before they were packed.
        row = {**{name: value for name, value in row.items() if name not in _PICTURE_KEYS}, "images": pictures}
    return {"__key__": key, **row}


def _counted(ignored: dict[str, int]) -> str:
    return ", ".join(f"{ending} ({count})" for ending, count in sorted(ignored.items(), key=lambda pair: -pair[1])[:8])
