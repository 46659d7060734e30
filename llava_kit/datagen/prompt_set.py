"""Prompts as files that anybody can edit: for each type of answer a system text and worked examples; and what is told."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..core.annotations import Annotations
from ..core.teacher import RESPONSE_TYPES, ChatMessage, ResponseType
from ..errors import DataError, suggest
from .parse import Rejected, parse

BUILT_IN = Path(__file__).parent / "prompts"
SYSTEM, QUESTIONS = "system.txt", "questions.txt"
MAX_BYTES = 200_000  # of one file: a prompt of 50,000 tokens is a mistake
_EXAMPLE = re.compile(r"(\d+)\.(caps|answer)\.txt")
_BOX_LINE = re.compile(r"[^:\n]+: \[\d\.\d{3}(?:, \d\.\d{3}){3}\]")


@dataclass(frozen=True)
class TypePrompts:
    """The prompt of one type: system text and (what is told, the answer wished for) pairs."""

    system: str
    examples: tuple[tuple[str, str], ...]

    def texts(self) -> Iterable[str]:
        """What must not turn up in an answer."""
        return (self.system, *(answer for _, answer in self.examples))


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a run; `questions` are what a person asks who wants a detailed description."""

    types: Mapping[ResponseType, TypePrompts]
    questions: tuple[str, ...]

    def messages(self, type: ResponseType, annotations: Annotations) -> tuple[ChatMessage, ...]:
        """System text, examples in turn, then the picture, as the teacher reads them."""
        return (*self.heads[type], ChatMessage("user", told_of(annotations)))

    @cached_property
    def heads(self) -> dict[ResponseType, tuple[ChatMessage, ...]]:
        """Type -> the messages before the picture."""
        heads: dict[ResponseType, tuple[ChatMessage, ...]] = {}
        for type, prompt in self.types.items():
            pairs = [(ChatMessage("user", told), ChatMessage("assistant", answer)) for told, answer in prompt.examples]
            heads[type] = (ChatMessage("system", prompt.system), *(message for pair in pairs for message in pair))
        return heads

    @cached_property
    def digests(self) -> dict[ResponseType, str]:
        """Type -> letters that change when its prompt does."""
        return {type: _digest([prompt.system, prompt.examples]) for type, prompt in self.types.items()}


def shown_to(type: ResponseType, annotations: Annotations) -> Annotations:
    """What of a picture is told for this type: of a conversation the captions alone, as in the paper."""
    return Annotations(captions=annotations.captions, boxes=() if type == "conversation" else annotations.boxes)


def told_of(annotations: Annotations) -> str:
    """Captions, one on a line; then, where there are boxes, an empty line and `category: [x1, y1, x2, y2]`, three decimals."""
    lines = [" ".join(caption.split()) for caption in annotations.captions]
    if annotations.boxes:
        lines.append("")
    for box in annotations.boxes:
        if not all(math.isfinite(value) for value in box[1:]):
            raise ValueError(f"the box of {box.label!r} holds a value that is no number")
        lines.append(f"{' '.join(box.label.split())}: [{', '.join(f'{value:.3f}' for value in box[1:])}]")
    return "\n".join(lines)


def load_prompts(folder: str | Path | None = None, types: Iterable[ResponseType] = RESPONSE_TYPES) -> PromptSet:
    """The prompts of a folder (default: the built-in ones) for these types.

    Raises:
        DataError: every mistake of the folder at once.
    """
    root = BUILT_IN if folder is None else Path(folder)
    wanted, problems = tuple(types), []
    if not root.is_dir():
        raise DataError(
            f"prompts: {root} is no folder; expected one with a folder for each of {', '.join(wanted)}; "
            "`llava-kit data generate --copy-prompts FOLDER` writes the built-in ones there to begin with"
        )
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and entry.name not in RESPONSE_TYPES and not entry.name.startswith((".", "_")):
            problems.append(f"{entry}: there is no type {entry.name!r}; {suggest(entry.name, RESPONSE_TYPES)}")
    found: dict[ResponseType, TypePrompts] = {type: _read_type(root / type, type, problems) for type in wanted}
    questions = _questions(root / "detail" / QUESTIONS, problems) if "detail" in wanted else ()
    if problems:
        raise DataError("\n".join([f"prompts: {len(problems)} mistakes in {root}", *(f"  {line}" for line in problems)]))
    return PromptSet(found, questions)


def copy_prompts(folder: str | Path) -> int:
    """Writes the built-in prompts to a new folder, to be edited; gives the number of files."""
    to = Path(folder)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise DataError(f"{to}: is there already and not empty; expected a new folder")
    files = sorted(BUILT_IN.glob("*/*.txt"))
    try:
        for path in files:
            (to / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / path.parent.name / path.name)
    except OSError as error:
        raise DataError(f"{to}: cannot be written: {error.strerror}") from None
    return len(files)


def _read_type(folder: Path, type: ResponseType, problems: list[str]) -> TypePrompts:
    if not folder.is_dir():
        problems.append(f"{folder}: is missing; expected {SYSTEM} and pairs 1.caps.txt, 1.answer.txt, ...")
        return TypePrompts("", ())
    pairs: dict[int, dict[str, str]] = {}
    system = ""
    for path in sorted(folder.iterdir()):
        match = _EXAMPLE.fullmatch(path.name)
        if path.name == SYSTEM:
            system = _text(path, problems)
        elif match:
            pairs.setdefault(int(match[1]), {})[match[2]] = _text(path, problems)
        elif path.suffix == ".txt" and not (path.name == QUESTIONS and type == "detail"):
            names = [SYSTEM, "1.caps.txt", "1.answer.txt", *([QUESTIONS] if type == "detail" else [])]
            problems.append(f"{path}: is no file of a prompt; {suggest(path.name, names)}")
    if not (folder / SYSTEM).exists():
        problems.append(f"{folder / SYSTEM}: is missing")
    examples = []
    for number, pair in sorted(pairs.items()):
        for part in {"caps", "answer"} - set(pair):
            problems.append(f"{folder}/{number}.{part}.txt: is missing; its other half is there")
        if len(pair) == 2:
            _check_example(folder, number, pair, type, problems)
            examples.append((pair["caps"], pair["answer"]))
    return TypePrompts(system, tuple(examples))


def _check_example(folder: Path, number: int, pair: dict[str, str], type: ResponseType, problems: list[str]) -> None:
    try:
        if pair["answer"]:
            parse(pair["answer"], type)
    except Rejected as error:
        problems.append(f"{folder}/{number}.answer.txt: {error.what}")
    captions, _, boxes = pair["caps"].partition("\n\n")
    path = f"{folder}/{number}.caps.txt"
    if type == "conversation" and (boxes.strip() or _BOX_LINE.search(captions)):
        problems.append(f"{path}: holds boxes; a conversation is written from captions alone")
        return
    if any(_BOX_LINE.fullmatch(line.strip()) for line in captions.splitlines()):
        problems.append(f"{path}: has no empty line between captions and boxes")
    for line in boxes.splitlines():
        if line.strip() and not _BOX_LINE.fullmatch(line.strip()):
            problems.append(f"{path}: found {line.strip()[:60]!r}; expected 'category: [x1, y1, x2, y2]' with three decimals")


def _questions(path: Path, problems: list[str]) -> tuple[str, ...]:
    if not path.exists():
        if path.parent.is_dir():
            problems.append(f"{path}: is missing; expected questions for a detailed description, one on a line")
        return ()
    lines = [line.strip() for line in _text(path, problems).splitlines() if line.strip()]
    for line in sorted({line for line in lines if lines.count(line) > 1}):
        problems.append(f"{path}: {line[:60]!r} stands there twice")
    return tuple(lines)


def _text(path: Path, problems: list[str]) -> str:
    """The file without spaces at its ends, all line ends being newlines."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig").replace("\r\n", "\n").strip()
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return ""
    except UnicodeDecodeError as error:
        problems.append(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8")
        return ""
    if len(data) > MAX_BYTES:
        problems.append(f"{path}: larger than {MAX_BYTES:,} bytes, which no prompt is")
    elif not text:
        problems.append(f"{path}: is empty")
    return text


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
