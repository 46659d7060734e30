"""Which column of a table is what, by its name and what it holds; the user's word goes before every guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llava_kit.errors import DataError, suggest

from . import Fields

Kind = Literal["text", "texts", "number", "picture", "bytes", "turns", "other"]

# Names by which published tables call these things, the surest first.
_IDS = ("id", "question_id", "questionId", "sample_id", "__key__")
_PICTURES = ("images", "image", "img", "pictures", "picture", "decoded_image")
_PICTURE_BYTES = (*_PICTURES, "image_bytes", "img_bytes", "bytes", "jpg", "jpeg", "png", "webp")
_PICTURE_PATHS = ("images", "image", "image_path", "file_name", "img_path")
_TURNS = ("conversations", "conversation", "messages", "texts")
_QUESTIONS = ("question", "query", "instruction", "prompt", "problem")
_ANSWERS = ("answer", "multiple_choice_answer", "answers", "response", "output", "label")
_CAPTIONS = ("caption", "captions", "text", "txt", "description")
_NUMBERED = re.compile(r"image_?\d+$")
_SAYABLE = ("text", "texts", "number")


class Columns(NamedTuple):
    """The names of the columns that are used; None for what a table does not have."""

    id: str | None
    images: tuple[str, ...]
    turns: str | None
    question: str | None
    answer: str | None
    caption: str | None
    source: str | None
    beside: tuple[str, ...]
    """Of `system`, `messages`, `captions`, `boxes`, `box_convention`, `tags`, which `data convert` writes."""

    def used(self) -> list[str]:
        named = (self.id, *self.images, self.turns, self.question, self.answer, self.caption, self.source, *self.beside)
        return list(dict.fromkeys(name for name in named if name is not None))


def choose_columns(kinds: Mapping[str, Kind], fields: Fields, where: str) -> Columns:
    """What is what among columns of these kinds.

    Raises `DataError` (all of it at once) for a named column that there is none of or that cannot be it, and for a table that
    says nothing: with the columns that were found.
    """
    chosen = _Chooser(kinds, where)
    images = chosen.images(fields.image)
    turns = question = answer = caption = None
    if fields.turns or not (fields.question or fields.answer or fields.caption):
        turns = chosen.one("turns", fields.turns, _TURNS, ("turns", "text"))
    if turns is None and not fields.caption:
        question = chosen.one("question", fields.question, _QUESTIONS, _SAYABLE)
        answer = chosen.one("answer", fields.answer, _ANSWERS, _SAYABLE)
        if question is None or answer is None:
            if fields.question or fields.answer:
                chosen.problems.append(f"found no {'question' if question is None else 'answer'}; name both columns")
            question = answer = None
    if turns is None and question is None:
        caption = chosen.one("caption", fields.caption, _CAPTIONS, ("text", "texts"))
    if turns is None and question is None and caption is None and not chosen.problems:
        chosen.problems.append(
            "found no conversation, no question with an answer, and no caption; name them as in fields.question=... "
            "fields.answer=..., fields.caption=... or fields.turns=..."
        )
    identity = chosen.one("id", fields.id, _IDS, ("text", "number"))
    source = chosen.one("source", fields.source, ("source", "data_source"), ("text",))
    chosen.check()
    beside = tuple(name for name in ("system", "messages", "captions", "boxes", "box_convention", "tags") if name in kinds)
    return Columns(identity, images, turns, question, answer, caption, source, beside)


def listed(kinds: Mapping[str, Kind], limit: int = 40) -> str:
    """The columns with what they hold, for messages."""
    named = [f"{name} ({kind})" for name, kind in kinds.items()]
    return ", ".join(named[:limit]) + (f" and {len(named) - limit} more" if len(named) > limit else "")


def kind_of_value(value: Any) -> Kind:
    """What a value out of JSON holds."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | int | float):
        return "number"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, Mapping):
        return "picture" if "bytes" in value else "other"
    if isinstance(value, Sequence) and value:
        first = value[0]
        if isinstance(first, Mapping) and is_turn(first):
            return "turns"
        inner = kind_of_value(first)
        return "texts" if inner == "text" else inner if inner in ("picture", "bytes") else "other"
    return "other"


def is_turn(keys: Any) -> bool:
    """Whether something with these keys is a turn, or a question with its answer."""
    return any(pair <= set(keys) for pair in ({"from", "value"}, {"role", "content"}, {"user", "assistant"}))


class _Chooser:
    def __init__(self, kinds: Mapping[str, Kind], where: str):
        self.kinds, self.where = kinds, where
        self.problems: list[str] = []

    def one(self, what: str, named: str | None, usual: Sequence[str], fitting: Sequence[Kind]) -> str | None:
        """The column named by the user, or the first of the usual names that holds what fits."""
        if named is None:
            return next((name for name in usual if self.kinds.get(name) in fitting), None)
        if named not in self.kinds:
            self.problems.append(f"fields.{what}: there is no column {named!r}; {suggest(named, self.kinds)}")
        elif self.kinds[named] not in fitting:
            self.problems.append(f"fields.{what}: column {named!r} holds {self.kinds[named]}; expected {' or '.join(fitting)}")
        return named

    def images(self, named: str | Sequence[str] | None) -> tuple[str, ...]:
        if named is not None:
            names = [named] if isinstance(named, str) else list(named)
            fitting: tuple[Kind, ...] = ("picture", "bytes", "text", "texts")
            return tuple(name for name in names if self.one("image", name, (), fitting))
        for usual, kinds in ((_PICTURES, ("picture",)), (_PICTURE_BYTES, ("bytes",)), (_PICTURE_PATHS, ("text", "texts"))):
            for name in usual:
                if self.kinds.get(name) in kinds:
                    return (name,)
        pictures = [name for name, kind in self.kinds.items() if kind == "picture"]
        numbered = sorted((name for name in pictures if _NUMBERED.match(name)), key=lambda name: (len(name), name))
        if numbered or len(pictures) < 2:
            return tuple(numbered or pictures)
        self.problems.append(
            f"found pictures in the columns {', '.join(pictures)}; say which, as in fields.image={pictures[0]}"
        )
        return ()

    def check(self) -> None:
        if self.problems:
            raise DataError(f"{self.where}: {'; '.join(self.problems)}; its columns are {listed(self.kinds) or 'none'}")
