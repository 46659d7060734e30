"""The words that Rosetta read in TextVQA's pictures: a file of their own, found by the picture's id."""

from __future__ import annotations

import json

from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError, SampleError

from .files import row_texts
from .formats import OCR_LINE
from .index import field_pattern


class OcrTokens:
    """`line(image_id)` is the line of the prompt that tells the words; only places of rows are in memory."""

    def __init__(self, path: str, questions: JsonRows):
        self.path = path
        self.rows = JsonRows(path, "data")
        search = field_pattern("image_id").search
        self._row_of: dict[str, int] = {}
        for number, text in enumerate(row_texts(self.rows)):
            found = search(text)
            if found is None or (number == 0 and b'"ocr_tokens"' not in text):
                raise DataError(f"{path}: row {number} has no image_id and ocr_tokens; expected TextVQA_Rosetta_OCR_*.json")
            self._row_of.setdefault(str(json.loads(found[1])), number)
        asked = {str(json.loads(found[1])) for text in row_texts(questions) if (found := search(text)) is not None}
        missing = sorted(asked - self._row_of.keys())
        if missing:
            raise DataError(
                f"{path}: has no words of {len(missing):,} of the {len(asked):,} pictures of {questions.path} "
                f"({', '.join(missing[:3])}, ...); expected the OCR file of the same split"
            )

    def line(self, image_id: str) -> str:
        """`Reference OCR token: ...`; empty for a picture in which nothing was read. Raises SampleError."""
        number = self._row_of.get(image_id)
        if number is None:
            raise SampleError("bad_row", f"there are no OCR tokens of a picture {image_id!r} in {self.path}")
        try:
            tokens = self.rows[number].get("ocr_tokens")
        except DataError as error:
            raise SampleError("bad_row", str(error)) from None
        words = [str(token) for token in tokens] if isinstance(tokens, list) else []
        return OCR_LINE + ", ".join(words) if words else ""
