"""The rows of a conversation file as samples: who says what, and where the pictures stand."""

from __future__ import annotations

import json
import os
from typing import Any

from llava_kit.core.conversation import Conversation, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from . import LlavaJsonOptions
from .index import fingerprint, index_rows
from .rows import read_row


class LlavaJsonSource(DataSource):
    """Samples by number from one file; only the places of the rows are in memory."""

    def __init__(self, options: LlavaJsonOptions):
        self.options = options
        self.path = options.path
        self.image_root = options.image_root or os.path.dirname(os.path.abspath(options.path))
        self._index = index_rows(self.path)
        self._rows = range(len(self._index))[options.start : options.stop]
        self._file: Any = None
        self._owner = 0
        if not self._rows:
            found = f"{len(self._index)} rows" + (f", none from {options.start} to {options.stop}" if len(self._index) else "")
            raise DataError(f"{self.path}: found {found}; expected at least one conversation")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number = self._rows[index]
        name = f"row {number}"
        try:
            row = json.loads(self._read(number))
        except (ValueError, RecursionError) as error:
            raise SampleError("bad_row", f"{self.path}: row {number} is no JSON: {error}", sample_id=name) from None
        if not isinstance(row, dict):
            found = type(row).__name__
            raise SampleError("bad_row", f"{self.path}: row {number} is a {found}; expected an object", sample_id=name)
        identity = row.get(self.options.fields.id)
        if isinstance(identity, (str, int)) and not isinstance(identity, bool):
            name = str(identity)
        try:
            parsed = read_row(row, self.options, self.image_root)
        except SampleError as error:
            raise SampleError(error.reason, f"row {number}: {error.message}", sample_id=name) from None
        return Sample(name, Conversation(parsed.messages, parsed.system), parsed.images, parsed.tags)

    def fingerprint(self) -> str:
        return f"{fingerprint(self.path)}:{self._rows.start}:{self._rows.stop}:{self.options.picture_place}"

    def _read(self, number: int) -> bytes:
        if self._owner != os.getpid():  # a forked worker must not share the place in the file
            self._file, self._owner = open(self.path, "rb"), os.getpid()  # noqa: SIM115 - it stays open
        self._file.seek(int(self._index.starts[number]))
        return self._file.read(int(self._index.lengths[number])).removeprefix(b"\xef\xbb\xbf")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}
