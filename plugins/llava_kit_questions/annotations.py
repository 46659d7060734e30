"""The answers of VQAv2 and OK-VQA, which stand in a second file: found by the questions' ids, once, when a source is opened."""

from __future__ import annotations

import os
import re

import numpy as np
from numpy.typing import NDArray

from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError

from .files import row_texts
from .index import field_pattern

_SUBSET = re.compile(rb'"data_subtype"\s*:\s*"([^"]+)"')
_ENDS = 1 << 14


class Annotations:
    """`answers[i]` is the annotation of question row i."""

    def __init__(self, questions: JsonRows, path: str):
        self.path = path
        self.rows = JsonRows(path, "annotations")
        asked, answered = _ids(questions), _ids(self.rows)
        order = np.argsort(answered, kind="stable")
        places = np.searchsorted(answered[order], asked)
        known = places < len(answered)
        known[known] = answered[order[places[known]]] == asked[known]
        if not known.all():
            raise DataError(_told(questions, path, asked[~known], len(asked)))
        self._row_of = order[places].astype(np.int32)

    def __getitem__(self, question_row: int):
        return self.rows[int(self._row_of[question_row])]


def subset_of(path: str) -> str:
    """What the file says it is of (`train2014`); empty where it does not say. It may say so before its rows or after them."""
    with open(path, "rb") as file:
        head = file.read(_ENDS)
        file.seek(max(0, os.path.getsize(path) - _ENDS))
        found = _SUBSET.search(head) or _SUBSET.search(file.read())
    return found[1].decode("utf-8", "replace") if found is not None else ""


def annotations_path(questions: str, named: str | None) -> str:
    """The file with the answers: the one that is named, or the one that the publisher calls alike.

    Raises:
        DataError: there is none; for a test split, that its answers are not published.
    """
    if named is not None:
        return named
    folder, name = os.path.split(questions)
    subset = subset_of(questions)
    if subset.startswith("test"):
        raise DataError(f"{questions}: answers for {subset!r} are not published; name the questions of train2014 or val2014")
    expected = os.path.join(folder, name.replace("OpenEnded_", "").replace("questions", "annotations"))
    if expected == questions or not os.path.isfile(expected):
        beside = expected if expected != questions else "a file whose name is known"
        raise DataError(f"{questions}: has no answers, and {beside} is not beside it; name it with `annotations`")
    return expected


def _ids(rows: JsonRows) -> NDArray[np.int64]:
    """The `question_id` of each row. Raises DataError."""
    search = field_pattern("question_id").search
    ids = np.zeros(len(rows), np.int64)
    for number, text in enumerate(row_texts(rows)):
        found = search(text)
        try:
            ids[number] = int(found[1].strip(b'"'))  # type: ignore[index]
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{rows.path}: row {number} has no `question_id` that is a whole number") from None
    return ids


def _told(questions: JsonRows, path: str, missing: NDArray[np.int64], asked: int) -> str:
    examples = ", ".join(map(str, missing[:3].tolist()))
    told = f"{path}: has no answer to {len(missing):,} of the {asked:,} questions of {questions.path} (ids {examples}, ...)"
    of_questions, of_answers = subset_of(questions.path), subset_of(path)
    if of_questions != of_answers:
        return f"{told}; it is of {of_answers!r}, they are of {of_questions!r}"
    return f"{told}; expected the two files of one release"
