"""Questions of one publisher's file as conversations: those about a picture together, in the form that LLaVA-1.5 gave them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llava_kit.core.annotations import Annotations as Known
from llava_kit.core.conversation import Conversation, ImageFile, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError, suggest

from .annotations import Annotations, annotations_path, subset_of
from .files import JoinedRows, fingerprint_of, key_of, open_rows
from .formats import CAPTION, FORMATS, LETTER, SHORT, Context, Format, Pair
from .index import BAD, Index, Place, flat_index, parsed_index
from .ocr import OcrTokens
from .options import Ai2dOptions, AnnotatedOptions, ChartQaOptions, ChoiceOptions, GqaOptions, OcrTokenOptions, QuestionOptions

_FIELD = re.compile(r"\{(\w+)(?::0?(\d+)d)?\}")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class _Asked(NamedTuple):
    """A question with the row that it is from."""

    pair: Pair
    row: Mapping[str, Any]
    key: str


class QuestionsSource(DataSource):
    """Samples by number; of each question only its place is in memory."""

    def __init__(self, name: str, options: QuestionOptions):
        self.name, self.options = name, options
        path = options.path
        self.rows = open_rows(name, self._form, path, _leave_out(options))
        if isinstance(options, ChartQaOptions) and options.augmented is not None:
            self.rows = JoinedRows(self.rows, open_rows(name, self._form, options.augmented))  # type: ignore[arg-type]
        folder = os.path.dirname(os.path.abspath(path))
        if self._form.holds == "folder" and not os.path.isdir(path):
            folder = os.path.dirname(folder)
        self.image_root = options.image_root or folder
        self._pattern = options.picture or self._form.picture
        self._annotations, self._subset, self._ocr = None, "", None
        if isinstance(options, AnnotatedOptions):
            self._annotations = Annotations(self.rows, annotations_path(path, options.annotations))  # type: ignore[arg-type]
            self._subset = subset_of(path)
        if isinstance(options, OcrTokenOptions) and options.ocr is not None:
            self._ocr = OcrTokens(options.ocr, self.rows)  # type: ignore[arg-type]
        self._index = self._make_index()
        self._check_first()

    @property
    def _form(self) -> Format:
        return FORMATS[self.name]

    def _make_index(self) -> Index:
        if self._form.flat:
            return flat_index(self.rows, self._form.keys[0], self.options.merge)  # type: ignore[arg-type]
        orders = isinstance(self.options, ChoiceOptions) and self.options.orders == "all"
        return parsed_index(self.rows, self._form, self._pairs, self.options.merge, orders)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        places, turn = self._index.questions(index)
        name = f"{self.name}/row {places[0].row}"
        try:
            asked = self._without_repeats([self._asked(place) for place in places])
            name = self._sample_name(asked[0], turn)
            picture = self._picture(asked[0])
            messages = self._messages(asked, turn)
        except SampleError as error:
            raise SampleError(error.reason, f"{self.rows.path}: {error.message}", sample_id=name) from None
        tags: dict[str, Any] = {"source": self.name}
        if ids := [one.pair.id for one in asked if one.pair.id is not None]:
            tags["question_ids"] = ids
        image = ImageFile(picture, self.image_root)
        return Sample(name, Conversation(tuple(messages)), (image,), tags, Known(captions=_captions(asked)))

    def fingerprint(self) -> str:
        files = [self.options.path]
        files += [self._annotations.path] if self._annotations is not None else []
        files += [self._ocr.path] if self._ocr is not None else []
        files += [self.options.leave_out] if isinstance(self.options, Ai2dOptions) and self.options.leave_out else []
        files += [self.options.augmented] if isinstance(self.options, ChartQaOptions) and self.options.augmented else []
        chosen = self.options.model_dump_json(exclude={"path", "annotations", "ocr", "augmented", "image_root"})
        return ":".join([self.name, *map(fingerprint_of, files), chosen])

    def _pairs(self, number: int, row: Any) -> list[Pair]:
        """The questions of a row. Raises SampleError."""
        if not isinstance(row, dict):
            found = "no JSON" if row is None else f"a {type(row).__name__}"
            raise SampleError("bad_row", f"row {number} is {found}; expected an object")
        missing = [key for key in self._form.keys if key != "key" and key not in row]
        if missing:
            raise SampleError("bad_row", f"row {number} has no {', '.join(map(repr, missing))}")
        annotation = self._annotations[number] if self._annotations is not None else {}
        return self._form.pairs(row, Context(key_of(self.rows, number), annotation, self.options))

    def _asked(self, place: Place) -> _Asked:
        try:
            row = self.rows[place.row]
        except DataError as error:
            raise SampleError("bad_row", str(error)) from None
        pairs = self._pairs(place.row, row)  # raises for a place that is BAD
        pair = pairs[max(place.which, 0)] if place.which != BAD or pairs else Pair(None, "", None)
        return _Asked(pair, row, key_of(self.rows, place.row))

    @staticmethod
    def _without_repeats(asked: list[_Asked]) -> list[_Asked]:
        """Each question once, with its first answer; so a picture with five captions keeps the first."""
        first: dict[Any, _Asked] = {}
        for one in asked:
            first.setdefault((one.pair.question, one.pair.choices), one)
        return list(first.values())

    def _messages(self, asked: list[_Asked], turn: int) -> list[Message]:
        when = self._prompt_turns()
        messages = []
        for number, one in enumerate(asked):
            with_prompt = when == "every" or (when == "first" and number == 0)
            question, answer = self._said(one, turn, with_prompt)
            parts = (ImageSlot(0), f"\n{question}") if number == 0 else (question,)
            messages += [Message("user", parts), Message("assistant", (answer,))]
        return messages

    def _prompt_turns(self) -> str:
        sentences = isinstance(self.options, GqaOptions) and self.options.sentences
        return self.options.prompt or ("never" if sentences else self._form.prompt_turns)

    def _said(self, one: _Asked, turn: int, with_prompt: bool) -> tuple[str, str]:
        """Question and answer as they stand in the conversation."""
        pair = one.pair
        prompt = SHORT if self._form.prompt == LETTER and not pair.choices else self._form.prompt
        count = len(pair.choices)
        shown = [pair.choices[(place + turn) % count] for place in range(count)]
        lines = [pair.question or prompt, *(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, shown))]
        if self._ocr is not None and (line := self._ocr.line(str(one.row[self._form.keys[0]]))):
            lines.append(line)
        if pair.question and with_prompt:
            lines.append(prompt)
        if not pair.question and self._form.prompt != CAPTION:
            raise SampleError("bad_row", f"question {pair.id!r} is empty")
        if not pair.answer:
            raise SampleError("empty_answer", f"question {pair.id or pair.question!r} has no answer")
        answer = pair.answer if pair.correct is None else _LETTERS[(pair.correct - turn) % count]
        if (self.options.answers or ("capitalised" if self._form.capitalised else "as_written")) == "capitalised":
            answer = answer[:1].upper() + answer[1:]
        return "\n".join(lines), answer

    def _sample_name(self, one: _Asked, turn: int) -> str:
        picture = one.key if self._form.keys[0] == "key" else str(one.row.get(self._form.keys[0]))
        name = self._picture(one) if "folder" in one.pair.fields else picture
        if not self.options.merge:
            name = one.pair.id or f"{name}/{one.key}"
        return f"{self.name}/{name}" + (f"#{turn}" if turn else "")

    def _fields(self, one: _Asked) -> dict[str, Any]:
        # Both test sets of VQAv2 have the pictures of test2015.
        return {**one.row, "key": one.key, "subset": self._subset.replace("test-dev", "test"), **one.pair.fields}

    def _picture(self, one: _Asked) -> str:
        """The path of the picture, its fields filled in."""
        fields = self._fields(one)

        def value(found: re.Match[str]) -> str:
            field, width = found.groups()
            text = str(fields.get(field, ""))
            if not text or not isinstance(fields[field], (str, int)) or (width and not text.isdecimal()):
                expected = "a number" if width else "text or a number"
                raise SampleError("bad_row", f"its {field!r} is {fields.get(field)!r}; expected {expected}, for the picture")
            return text.zfill(int(width)) if width else text

        return _FIELD.sub(value, self._pattern)

    def _check_first(self) -> None:
        """What would be wrong with every sample is told now. Raises DataError."""
        path = self.options.path
        if not len(self):
            raise DataError(f"{path}: has no question that is wanted; look at the options (split, leave_out, ...)")
        try:
            first = self._asked(self._index.questions(0)[0][0])
        except SampleError:
            return  # a row's own fault is told when it is read
        fields = self._fields(first)
        for field, _ in _FIELD.findall(self._pattern):
            if field not in fields:
                raise DataError(f"picture: {self._pattern!r}: a row of {path} has no {field!r}; {suggest(field, fields)}")
        if first.pair.answer is None:
            raise DataError(
                f"{path}: its questions have no answers ({self._form.files} has), as in the test splits that are published "
                "without; name a split with answers"
            )


def _captions(asked: list[_Asked]) -> tuple[str, ...]:
    """All captions of a picture that TextCaps has."""
    references = asked[0].row.get("reference_strs")
    return tuple(text for text in references if isinstance(text, str)) if isinstance(references, list) else ()


def _leave_out(options: QuestionOptions) -> frozenset[str]:
    path = getattr(options, "leave_out", None)
    if path is None:
        return frozenset()
    try:
        with open(path, encoding="utf-8-sig") as file:
            return frozenset(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"leave_out: {path}: cannot be read: {error}") from None
