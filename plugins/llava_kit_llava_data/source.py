"""The rows of a conversation file as samples: who says what, and where the pictures stand."""

from __future__ import annotations

import json
import os

from llava_kit.core.conversation import Conversation, Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from . import LlavaJsonOptions
from .rows import read_row


class LlavaJsonSource(DataSource):
    """Samples by number from one file; only the places of the rows are in memory."""

    def __init__(self, options: LlavaJsonOptions):
        self.options = options
        self.path = options.path
        self.image_root = options.image_root or os.path.dirname(os.path.abspath(options.path))
        self._file = JsonRows(self.path)
        self._rows = range(len(self._file))[options.start : options.stop]
        if not self._rows:
            found = f"{len(self._file)} rows" + (f", none from {options.start} to {options.stop}" if len(self._file) else "")
            raise DataError(f"{self.path}: found {found}; expected at least one conversation")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number = self._rows[index]
        name = f"row {number}"
        try:
            row = json.loads(self._file.text(number))
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
        return Sample(name, Conversation(parsed.messages, parsed.system), parsed.images, parsed.tags, parsed.annotations)

    def fingerprint(self) -> str:
        return f"{fingerprint(self.path)}:{self._rows.start}:{self._rows.stop}:{self.options.picture_place}"
