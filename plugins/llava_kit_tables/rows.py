"""A row of a table becomes a sample: its turns, with the places of its pictures, and what is known beside them.

`<image>` in a user's text is a place where the row has pictures; where no text has one, the pictures stand before the first
question. Pictures come as their bytes, or as names under `image_root`; nothing is opened here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llava_kit.core.annotations import CONVENTIONS, Annotations, Box
from llava_kit.core.conversation import Conversation, ImageBytes, ImageFile, ImageSlot, Message, Picture, Sample
from llava_kit.core.turns import IMAGE, ROLES, Role, picture_first
from llava_kit.errors import SampleError

from . import _TableOptions
from .columns import Columns


class _Turn(NamedTuple):
    role: Role
    content: list[str | None]
    """Text, and None for the next picture."""
    placed: bool = False
    """Its parts name pictures, as `data convert` writes what placeholders cannot say: text is text, nothing is moved."""


class RowReader:
    """Makes samples of rows. `root` is where pictures that have a name alone are, `name` the tag `source` of rows without."""

    def __init__(self, options: _TableOptions, root: str, name: str):
        self.root, self.source = options.image_root or root, options.name or name
        self.move, self.instruction = options.picture_place == "first", options.instruction
        self.caption_at = options.fields.caption_at.split(".") if options.fields.caption_at else []

    def sample(self, row: Mapping[str, Any], columns: Columns, number: int) -> Sample:
        """The sample of row `number`. Raises `SampleError` with its id for one that cannot be used."""
        identity = row.get(columns.id) if columns.id else None
        name = f"row {number}" if identity is None or isinstance(identity, bool) else str(identity)
        try:
            if self.caption_at and columns.caption is not None:
                row = {**row, columns.caption: _within(row.get(columns.caption), self.caption_at)}
            pictures = [picture for column in columns.images for picture in self._pictures(row.get(column))]
            turns = list(self._turns(row, columns))
            system = row.get("system") if isinstance(row.get("system"), str) else None
            if turns and turns[0].role == "system":
                system, turns = "".join(part for part in turns[0].content if part), turns[1:]
            source = self._source(row, columns)
            tags = {**({"source": source} if source else {}), **_tags(row)}
            # An answer that nobody asked for has nothing to be learnt from; the original leaves it out too.
            if turns and turns[0].role == "assistant":
                turns, tags["skipped_first_turn"] = turns[1:], True
            messages = _seat(turns, len(pictures), self.move)
            annotations = _annotations(row, columns)
        except SampleError as error:
            raise SampleError(error.reason, f"row {number}: {error.message}", sample_id=name) from None
        return Sample(name, Conversation(messages, system), tuple(pictures), tags, annotations)

    def _pictures(self, value: Any) -> Iterator[Picture]:
        """The pictures that a cell holds: none, one or several."""
        if isinstance(value, list):
            for one in value:
                yield from self._pictures(one)
        elif isinstance(value, bytes):
            yield ImageBytes(value)
        elif isinstance(value, str) and value:
            yield ImageFile(value, self.root)
        elif isinstance(value, Mapping):
            data, path = value.get("bytes"), value.get("path")
            if isinstance(data, bytes):
                yield ImageBytes(data, str(path or "bytes"))
            elif isinstance(path, str) and path:
                yield ImageFile(path, self.root)
            elif path is not None or data is not None:
                raise SampleError("bad_row", "a picture has neither bytes nor a path")
        elif value is not None and value != "":
            raise SampleError("bad_row", f"a picture is a {type(value).__name__}; expected bytes, or a path")

    def _turns(self, row: Mapping[str, Any], columns: Columns) -> Iterator[_Turn]:
        if columns.turns is not None:
            turns = row.get(columns.turns)
            # `data convert` puts there what `conversations` cannot say.
            yield from _listed_turns(row.get("messages") if turns is None else turns)
            return
        if columns.question is not None and columns.answer is not None:
            question, answer = _said(row.get(columns.question)), _said(row.get(columns.answer))
        else:
            question, answer = self.instruction, _first(row.get(columns.caption or ""))
        yield _Turn("user", [question])
        yield _Turn("assistant", [answer])

    def _source(self, row: Mapping[str, Any], columns: Columns) -> str:
        """Of the row, of its first pair of turns (as the Cauldron has it), or of all."""
        if columns.source and isinstance(row.get(columns.source), str) and row[columns.source]:
            return row[columns.source]
        turns = row.get(columns.turns) if columns.turns else None
        first = turns[0] if isinstance(turns, list) and turns else None
        told = first.get("source") if isinstance(first, Mapping) else None
        return told if isinstance(told, str) and told else self.source


def _listed_turns(entries: Any) -> Iterator[_Turn]:
    if isinstance(entries, str):
        entries = _from_json(entries)
    if not isinstance(entries, list):
        found = "nothing" if entries is None else f"a {type(entries).__name__}"
        raise SampleError("bad_row", f"its turns are {found}; expected a list")
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise SampleError("bad_row", f"turn {number} is a {type(entry).__name__}; expected from/value or role/content")
        if "user" in entry and "assistant" in entry:
            yield _Turn("user", [_said(entry["user"])])
            yield _Turn("assistant", [_said(entry["assistant"])])
            continue
        role = entry.get("from") or entry.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise SampleError("bad_turns", f"turn {number} is by {role!r}; expected one of {', '.join(ROLES)}")
        content = entry["value"] if entry.get("value") is not None else entry.get("content")
        if isinstance(content, str):
            yield _Turn(ROLES[role], [content])
        elif isinstance(content, list):
            placed = any(isinstance(part, Mapping) and isinstance(part.get("image"), str) for part in content)
            yield _Turn(ROLES[role], [_part(part, number) for part in content], placed)
        else:
            found = "nothing" if content is None else f"a {type(content).__name__}"
            raise SampleError("bad_row", f"turn {number} says {found}; expected text, or a list of parts")


def _part(part: Any, number: int) -> str | None:
    """A part of OpenAI-style content; what it shows stands in the row's own column of pictures."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "image_url", "input_image"):
        return None
    raise SampleError("bad_row", f"turn {number} has a part of type {kind!r}; expected text or image")


def _said(value: Any) -> str:
    """A cell as it is said; of several answers the most frequent, the first of equals."""
    if isinstance(value, list):
        texts = [_said(one) for one in value if one is not None]
        return Counter(texts).most_common(1)[0][0] if texts else ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _first(value: Any) -> str:
    texts = _captions(value)
    return texts[0] if texts else ""


def _seat(turns: list[_Turn], num_pictures: int, move: bool) -> tuple[Message, ...]:
    """Messages with the places of the pictures, in the order in which they are shown."""
    placed = any(turn.placed for turn in turns)
    cut = [_cut(turn) if num_pictures and not placed else turn for turn in turns]
    places = sum(part is None for turn in cut for part in turn.content)
    if not places and num_pictures:
        first = next((number for number, turn in enumerate(cut) if turn.role == "user"), None)
        if first is not None:
            text = "".join(part for part in cut[first].content if part).strip()
            cut[first] = _Turn("user", [*[None] * num_pictures, f"\n{text}" if text else ""])
            places = num_pictures
    if places != num_pictures:
        raise SampleError(
            "image_count",
            f"its text has {places} places for pictures ({IMAGE}), and the row has {num_pictures}; expected as many of one "
            "as of the other, or none in the text",
        )
    numbers = iter(range(num_pictures))
    messages = []
    for turn in cut:
        parts = [ImageSlot(next(numbers)) if part is None else part for part in turn.content]
        if move and not placed:
            parts = picture_first(parts)
        messages.append(Message(turn.role, tuple(part for part in parts if part != "")))
    return tuple(messages)


def _cut(turn: _Turn) -> _Turn:
    """A user's text cut at the placeholders."""
    if turn.role != "user":
        return turn
    content: list[str | None] = []
    for part in turn.content:
        pieces = [part] if part is None else part.split(IMAGE)
        for number, piece in enumerate(pieces):
            content += [None, piece] if number else [piece]
    return _Turn(turn.role, content)


def _annotations(row: Mapping[str, Any], columns: Columns) -> Annotations:
    """Captions and boxes as `data convert` writes them (JSON in text), captions as lists too; other things are left."""
    boxes, convention = _from_json(row.get("boxes")), row.get("box_convention")
    captions = _captions(row.get("captions"))
    if not captions and columns.caption is not None:
        captions = _captions(row.get(columns.caption))
    return Annotations(
        captions=tuple(captions),
        boxes=tuple(_box(entry) for entry in boxes if _is_box(entry)) if isinstance(boxes, list) else (),
        text_boxes=convention if convention in CONVENTIONS else None,
    )


def _captions(value: Any) -> list[str]:
    if isinstance(value, str):
        found = _from_json(value) if value.startswith("[") else None
        return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else [value]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    return []


def _is_box(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str):
        return False
    numbers = entry.get("box")
    return isinstance(numbers, list) and len(numbers) == 4 and all(isinstance(number, int | float) for number in numbers)


def _box(entry: Mapping[str, Any]) -> Box:
    try:
        box = Box(entry["label"], *map(float, entry["box"]))
    except OverflowError:  # an int beyond all floats
        box = None
    if box is None or not all(map(math.isfinite, box[1:])):
        told = f"box {entry['label'][:40]!r} is {str(entry['box'])[:80]}; expected numbers that are finite"
        raise SampleError("bad_annotation", told)
    return box


def _tags(row: Mapping[str, Any]) -> dict[str, Any]:
    found = _from_json(row.get("tags"))
    return dict(found) if isinstance(found, Mapping) else {}


def _within(value: Any, keys: Sequence[str]) -> Any:
    """What stands under these keys, one in the other, in JSON or in what was JSON."""
    for key in keys:
        value = _from_json(value)
        if not isinstance(value, Mapping) or key not in value:
            found = ", ".join(map(repr, value)) or "no key" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise SampleError(
                "bad_row", f"its caption has nothing at {'.'.join(keys)!r}; found {found} in the place of {key!r}"
            )
        value = value[key]
    return value


def _from_json(value: Any) -> Any:
    """What a text says in JSON, None where it says nothing in it; all but text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
