"""ScienceQA's problems as text: the parts of a question and of its answer in the order that two halves of a pattern name.

`QCM-LEA` asks Question, Context, Multiple choices and answers Lecture, Explanation, Answer. Texts are those that LLaVA's script
makes, with one exception: there, `AL` gave the explanation and `AE` the lecture; here letters mean what they say, so the other
of the two has the script's text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llava_kit.core.conversation import Conversation, ImageFile, ImageSlot, Message, Sample
from llava_kit.core.json_rows import JsonMembers, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError, suggest

from .files import read_json
from .formats import LETTER, text_of
from .options import ScienceQaOptions
from .recognise import kind_of

_LETTERS = "ABCDEFGHIJ"
_INPUT = re.compile(r"(?=[^Q]*Q[^Q]*$)(?=[^C]*C[^C]*$)(?=[^M]*M[^M]*$)(?!.*L.*L)(?!.*E.*E)[QCMLE]+")
_OUTPUT = re.compile(r"(?=[^A]*A[^A]*$)(?!.*L.*L)(?!.*E.*E)([LE]*A[LE]*|[LE]*PA)")
_KEYS = ("question", "choices", "answer")
_FIELD = re.compile(r"\{(\w+)\}")


class Problem(NamedTuple):
    """The parts of a problem by which patterns name them."""

    question: str
    context: str
    choices: list[str]
    answer: str
    lecture: str
    explanation: str

    def reasons(self, letters: str) -> str:
        """Lecture and explanation in the order of their letters."""
        return " ".join({"L": self.lecture, "E": self.explanation}[letter] for letter in letters)


def check_format(format: str) -> tuple[str, str]:
    """The halves of the pattern. Raises DataError."""
    asked, dash, answered = format.partition("-")
    if not dash or not _INPUT.fullmatch(asked) or not _OUTPUT.fullmatch(answered):
        raise DataError(
            f"format: found {format!r}; expected what is asked, a dash, and what is answered: Q, C and M once each (L and E "
            "may join them), then A with L and E before or after it, or LEPA; as QCM-LEA, QCM-A, QCM-ALE, QCM-LEPA, CQM-A"
        )
    return asked, answered


def question_text(problem: Problem, asked: str) -> str:
    """What is asked, part by part on lines of their own."""
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, problem.choices))
    lines = []
    for part in re.findall(r"[LE]+|.", asked):
        if part == "Q":
            lines.append(f"Question: {problem.question}")
        elif part == "C":
            lines.append(f"Context: {problem.context}")
        elif part == "M":
            lines.append(f"Options: {options}")
        else:
            lines.append(f"BECAUSE: {problem.reasons(part)}")
    text = _tidy("\n".join(lines) + "\n")
    # As the original: where the pattern begins with the question, its heading goes, wherever it stands.
    return text.replace("Question: ", "") if text.startswith("Question: ") else text


def answer_text(problem: Problem, answered: str) -> str:
    """What is answered: reasons before or after, or under headings (P)."""
    before, _, after = answered.partition("A")
    if before.endswith("P"):
        heads = {"L": ("LECTURE", problem.lecture), "E": ("SOLUTION", problem.explanation)}
        parts = [heads[letter] for letter in before[:-1]]
        told = "".join(f"{head}: {text}\n" for head, text in parts if text.strip())
        return _tidy(f"{told}###\nANSWER: {problem.answer}.")
    text = "Answer: " + (f"{problem.reasons(before)} " if before else "") + f"The answer is {problem.answer}."
    if after:
        text += f" BECAUSE: {problem.reasons(after)}"
    return _tidy(text).replace("Answer: ", "")


def _tidy(text: str) -> str:
    """As the original: two spaces become one, once; nothing is left of a heading without its text.

    Where lecture and explanation are empty a space before the answer is left, as in the files that LLaVA was trained with.
    """
    text = text.replace("  ", " ").strip()
    return text.replace("BECAUSE:", "").strip() if text.endswith("BECAUSE:") else text


class ScienceQaSource(DataSource):
    """The problems of a split, in the order of its list."""

    def __init__(self, options: ScienceQaOptions):
        self.options = options
        self.asked, self.answered = check_format(options.format)
        if options.letter and self.answered != "A":
            raise DataError(f"letter: found the format {options.format!r}; expected one that answers no more: {self.asked}-A")
        self._problems = _problems(options.path)
        folder = os.path.dirname(os.path.abspath(options.path))
        self.image_root = options.image_root or folder
        self._splits_path = options.splits or os.path.join(folder, "pid_splits.json")
        self._rows = self._numbers()
        self._captions = _captions(options.captions)

    def _numbers(self) -> list[int]:
        """The rows of the split. Raises DataError for ids that are in no problem."""
        splits = read_json(self._splits_path, "the list of splits")
        names = list(splits) if isinstance(splits, dict) else []
        if self.options.split not in names or not isinstance(splits[self.options.split], list):
            raise DataError(f"{self._splits_path}: has no split {self.options.split!r}; {suggest(self.options.split, names)}")
        ids = [str(id) for id in splits[self.options.split]]
        row_of = {name: number for number, name in enumerate(self._problems.names)}
        missing = [id for id in ids if id not in row_of]
        if missing or not ids:
            found = f"{len(missing):,} of its {len(ids):,} ids ({', '.join(missing[:3])}, ...) are not in {self.options.path}"
            raise DataError(f"{self._splits_path}: {self.options.split!r}: {found if ids else 'is an empty list'}")
        return [row_of[id] for id in ids]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self._rows):
            raise IndexError(f"row {index} of {len(self._rows)}")
        id = self._problems.names[self._rows[index]]
        name = f"scienceqa/{id}"
        try:
            row = self._problems[self._rows[index]]
            problem = read_problem(row, self._captions.get(id, ""))
            picture = self._picture(row, id)
        except SampleError as error:
            raise SampleError(error.reason, f"{self.options.path}: {error.message}", sample_id=name) from None
        except DataError as error:
            raise SampleError("bad_row", str(error), sample_id=name) from None
        question, answer = question_text(problem, self.asked), answer_text(problem, self.answered)
        if self.options.letter:
            question, answer = f"{question}\n{LETTER}", problem.answer
        parts = (question,) if picture is None else (ImageSlot(0), f"\n{question}")
        images = () if picture is None else (ImageFile(picture, self.image_root),)
        kept = {key: row[key] for key in ("subject", "topic", "grade", "skill") if isinstance(row.get(key), str)}
        messages = (Message("user", parts), Message("assistant", (answer,)))
        return Sample(name, Conversation(messages), images, {"source": "scienceqa", "answer": problem.answer, **kept})

    def _picture(self, row: Mapping[str, Any], id: str) -> str | None:
        if not row.get("image"):
            return None
        fields = {"split": self.options.split, **row, "id": id}
        for field in _FIELD.findall(self.options.picture):
            if not isinstance(fields.get(field), (str, int)):
                raise SampleError("bad_row", f"picture: problem {id} has no {field!r}; {suggest(field, fields)}")
        return _FIELD.sub(lambda found: str(fields[found[1]]), self.options.picture)

    def fingerprint(self) -> str:
        files = [self.options.path, self._splits_path, *([self.options.captions] if self.options.captions else [])]
        chosen = self.options.model_dump_json(include={"split", "format", "letter", "picture"})
        return ":".join(["scienceqa", *map(fingerprint, files), chosen])


def read_problem(row: Any, caption: str = "") -> Problem:
    """The parts of a problem's row. Raises SampleError."""
    missing = [key for key in _KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise SampleError("bad_row", f"a problem has no {', '.join(map(repr, missing))}")
    choices, right = row["choices"], row["answer"]
    if not isinstance(choices, list) or not 1 < len(choices) <= len(_LETTERS):
        raise SampleError("bad_row", f"its choices are {choices!r:.60}; expected a list of two to {len(_LETTERS)}")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
        raise SampleError("bad_row", f"its answer is {right!r} of {len(choices)} choices; expected a number from 0")
    return Problem(
        question=_as_written(row["question"], "question"),
        context=f"{row.get('hint') or ''} {caption}".strip() or "N/A",
        choices=[_as_written(choice, "choice") for choice in choices],
        answer=_LETTERS[right],
        lecture=str(row.get("lecture") or ""),
        explanation=str(row.get("solution") or ""),
    )


def _as_written(value: Any, what: str) -> str:
    """The text with the space around it, which the original keeps."""
    text_of(value, what)
    return str(value)


def _problems(path: str) -> JsonMembers:
    """The problems by id. Raises DataError, for another publisher's file with its name."""
    problems = JsonMembers(path)
    with open(path, "rb") as file:
        found = kind_of(path, file.read(4096))
    if found is not None and found.name != "scienceqa":
        raise DataError(f"{path}: looks like a file of the source {found.name!r}; expected problems.json of ScienceQA")
    if not len(problems) or not isinstance(problems[0], dict) or not {"question", "choices"} <= problems[0].keys():
        raise DataError(f"{path}: its members have no question and choices; expected problems.json of ScienceQA")
    return problems


def _captions(path: str | None) -> Mapping[str, str]:
    if path is None:
        return {}
    captions = read_json(path, "the captions")
    found = captions.get("captions") if isinstance(captions, dict) else None
    if not isinstance(found, dict):
        raise DataError(f'{path}: has no object "captions"; expected captions.json of ScienceQA')
    return found
