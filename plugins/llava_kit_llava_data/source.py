"""The rows of a conversation file as samples: who says what, and where the pictures stand."""

from __future__ import annotations

from llava_kit.core.conversation import Conversation, Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from . import LlavaJsonOptions
from .folder import locate
from .parse import parse_row
from .rows import read_row


class LlavaJsonSource(DataSource):
    """Samples by number from one file; only the places of the rows are in memory."""

    def __init__(self, options: LlavaJsonOptions):
        self.options = options
        self.path, self.image_root = locate(options.path, options.image_root)
        self._file = JsonRows(self.path)
        self._rows = range(len(self._file))[options.start : options.stop]
        if not self._rows:
            till = "the end" if options.stop is None else options.stop
            found = f"{len(self._file)} rows" + (f", none from {options.start} to {till}" if len(self._file) else "")
            raise DataError(f"{self.path}: found {found}; expected at least one conversation")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number = self._rows[index]
        name = f"row {number}"
        try:
            row = parse_row(self._file.text(number), number)
        except SampleError as error:
            raise SampleError(error.reason, f"{self.path}: {error.message}", sample_id=name) from None
        identity = row.get(self.options.fields.id)
        if isinstance(identity, (str, int)) and not isinstance(identity, bool):
            name = str(identity)
        try:
            parsed = read_row(row, self.options, self.image_root)
        except SampleError as error:
            rest = None
            if error.readable is not None:
                messages, images = error.readable
                rest = Sample(name, Conversation(messages), images)
            raise SampleError(error.reason, f"row {number}: {error.message}", sample_id=name, readable=rest) from None
        return Sample(name, Conversation(parsed.messages, parsed.system), parsed.images, parsed.tags, parsed.annotations)

    def fingerprint(self) -> str:
        options = self.options
        text = f"{fingerprint(self.path)}:{self._rows.start}:{self._rows.stop}:{options.picture_place}"
        # Only what differs from the options that there always were: runs of before can be resumed.
        added = {"turns": options.turns != "as_written", "annotations": not options.annotations}
        return text + "".join(f":{name}={getattr(options, name)}" for name, changed in added.items() if changed)
