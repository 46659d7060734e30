"""One row becomes turns and pictures. `<image>` marks a place only in the user's text, and only in a row that has pictures.

Videos are folders with pictures of their frames; `<video>` marks their place, or `<image>` as in LLaVA-NeXT's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import ImageRef, ImageSlot, Message
from llava_kit.core.turns import IMAGE, ROLES, Role, picture_first
from llava_kit.errors import SampleError

from . import LlavaJsonOptions
from .notes import read_annotations
from .references import read_folder, read_reference

VIDEO = "<video>"
# Calls of tools are said by the model, and what they give is told to it (ShareGPT with tools, OpenAI's role `tool`).
TOOLS: Mapping[str, Role] = {
    "function_call": "assistant",
    "observation": "user",
    "tool": "user",
    "function": "user",
    "function_response": "user",
}
_SPEAKERS: Mapping[str, Role] = {**ROLES, **TOOLS}


class Row(NamedTuple):
    messages: tuple[Message, ...]
    system: str | None
    images: tuple[ImageRef, ...]
    tags: dict[str, Any]
    annotations: Annotations


class _Turn(NamedTuple):
    role: Role
    content: list[str | ImageRef | None]
    """Text, pictures that stand right here, and None for the next picture of the row's list."""
    tool: bool = False
    """A call of a tool, or what one gave."""


class _Listed(NamedTuple):
    """What a row lists beside its turns, by the placeholder that marks its place."""

    images: list[ImageRef]
    videos: list[ImageRef]

    def by_placeholder(self) -> dict[str, list[ImageRef]]:
        """LLaVA-NeXT's files mark videos by `<image>` too; where a row has both, each has its own word."""
        if not self.videos:
            return {IMAGE: self.images}
        return {IMAGE: self.images, VIDEO: self.videos} if self.images else {IMAGE: self.videos, VIDEO: self.videos}


def read_row(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str) -> Row:
    """The turns of a row. Raises SampleError (without the row's name) for one that cannot be used.

    Where a turn or the number of pictures is wrong, `readable` of the error is (messages, pictures): all the rest of the row.
    """
    rate = _frames_per_second(row, options)
    turns, wrong = _read_turns(_entries(row, options), image_root, rate)
    listed = _Listed(_listed_images(row, options, image_root), _listed_videos(row, options, image_root, rate))
    system = row.get("system")
    if turns and turns[0].role == "system":
        system = "".join(part for part in turns[0].content if isinstance(part, str))
        turns = turns[1:]
    tags: dict[str, Any] = dict(row["tags"]) if isinstance(row.get("tags"), dict) else {}
    if any(turn.tool for turn in turns):
        tags["tools"] = True
    # As the original does: an answer that nobody asked for has nothing to be learnt from.
    if turns and turns[0].role == "assistant":
        turns, tags["skipped_first_turn"] = turns[1:], True
    messages, images = _seat_pictures(turns, listed, options.picture_place == "first", wrong)
    if system is not None and not isinstance(system, str):
        raise SampleError("bad_row", f"its system text is a {type(system).__name__}; expected text")
    if options.turns != "as_written":
        messages, images = _valid(messages, images, tags, cut=options.turns == "cut")
    return Row(messages, system, images, tags, read_annotations(row) if options.annotations else Annotations())


def _valid(
    messages: tuple[Message, ...], images: tuple[ImageRef, ...], tags: dict[str, Any], *, cut: bool
) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """Turns that go user, assistant, ..., each with something said; with `cut` the pairs before the first that does not."""
    fault = None
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            fault = number, "bad_turns", f"is by {message.role}; expected {expected}"
        elif not any(isinstance(part, ImageSlot) or part.strip() for part in message.parts):
            fault = number, "empty_answer" if number % 2 else "empty_question", "says nothing"
        if fault is not None:
            break
    if fault is None and len(messages) % 2:
        fault = len(messages), "bad_turns", "is not there; expected an answer"
    if fault is None and messages:
        return messages, images
    number, reason, told = fault or (0, "bad_turns", "is not there; expected a question")
    kept = messages[: number - number % 2]
    if not cut or not kept:
        raise SampleError(reason, f"turn {number} {told}")
    tags["cut_turns"] = len(messages) - len(kept)
    # Pictures are in the order of their places, so those of the kept turns are the first.
    shown = sum(isinstance(part, ImageSlot) for message in kept for part in message.parts)
    return kept, images[:shown]


def _frames_per_second(row: Mapping[str, Any], options: LlavaJsonOptions) -> float:
    rate = row.get("frames_per_second")
    if rate is None:
        return options.frames_per_second
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < 1e6:
        raise SampleError("bad_row", f"its frames_per_second is {str(rate)[:40]!r}; expected a number above 0")
    return float(rate)


def _entries(row: Mapping[str, Any], options: LlavaJsonOptions) -> list[Any]:
    name = options.fields.conversations
    entries = _first(row, name, "messages")
    if entries is None:
        raise SampleError("bad_row", f"has the keys {', '.join(map(repr, row)) or 'none'}; expected {name!r} or 'messages'")
    if not isinstance(entries, list):
        raise SampleError("bad_row", f"its turns are a {type(entries).__name__}; expected a list")
    return entries


def _read_turn(entry: Any, number: int, image_root: str, rate: float) -> _Turn:
    if not isinstance(entry, dict):
        raise SampleError("bad_row", f"turn {number} is a {type(entry).__name__}; expected an object")
    role = entry.get("from", entry.get("role"))
    content = entry["value"] if "value" in entry else entry.get("content")
    tool = isinstance(role, str) and role in TOOLS
    if not isinstance(role, str) or role not in _SPEAKERS:
        raise SampleError("bad_turns", f"turn {number} is by {role!r}; expected one of {', '.join(_SPEAKERS)}")
    if entry.get("tool_calls"):
        content, tool = _calls(entry["tool_calls"], content, number), True
    if isinstance(content, str):
        return _Turn(_SPEAKERS[role], [content], tool)
    if not isinstance(content, list):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise SampleError("bad_row", f"turn {number} says {found}; expected text, or a list of parts")
    return _Turn(_SPEAKERS[role], [_read_part(part, number, image_root, rate) for part in content], tool)


def _calls(calls: Any, content: Any, number: int) -> str:
    """OpenAI's calls of tools as ShareGPT has them: a JSON object a line, under what else was said."""
    if not isinstance(calls, list):
        raise SampleError("bad_row", f"turn {number} has a {type(calls).__name__} as its tool_calls; expected a list")
    functions = [call.get("function", call) if isinstance(call, dict) else call for call in calls]
    lines = [json.dumps(function, ensure_ascii=False) for function in functions]
    return "\n".join([*([content] if isinstance(content, str) and content else []), *lines])


def _read_part(part: Any, number: int, image_root: str, rate: float) -> str | ImageRef | None:
    """A part of OpenAI-style content."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image_url", "image", "input_image"):
        reference = next((part[key] for key in ("image_url", "image", "path", "url") if part.get(key) is not None), None)
        return None if reference is None else read_reference(reference, image_root)
    if kind == "video" and part.get("video") is not None:
        return read_folder(part["video"], image_root, rate)
    raise SampleError("bad_row", f"turn {number} has a part of type {kind!r}; expected text, image_url, image or video")


def _listed_images(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str) -> list[ImageRef]:
    """The pictures of a row by its key `image` (or `images`): one, several, or none."""
    value = _first(row, options.fields.image, "images")
    if value is None or value == "":
        return []
    return [read_reference(reference, image_root) for reference in (value if isinstance(value, list) else [value])]


def _listed_videos(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str, rate: float) -> list[ImageRef]:
    """The videos of a row by its key `video` (or `videos`)."""
    value = _first(row, options.fields.video, "videos")
    if value is None or value == "":
        return []
    return [read_folder(reference, image_root, rate) for reference in (value if isinstance(value, list) else [value])]


def _first(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these keys that is there and not null."""
    return next((row[name] for name in names if row.get(name) is not None), None)


class _Place(NamedTuple):
    """The place of the next picture, or video, of the row's list."""

    word: str


def _pieces(turn: _Turn, words: re.Pattern[str] | None) -> Iterator[str | ImageRef | _Place]:
    """What a turn says and shows; `words` mark places in the user's text."""
    for content in turn.content:
        if content is None:
            yield _Place(IMAGE)
        elif words is not None and turn.role == "user" and isinstance(content, str):
            end = 0
            for found in words.finditer(content):
                yield content[end : found.start()]
                yield _Place(found.group())
                end = found.end()
            yield content[end:]
        else:
            yield content


def _read_turns(entries: list[Any], image_root: str, rate: float) -> tuple[list[_Turn], SampleError | None]:
    """The turns that can be read, and why the first of the others cannot."""
    turns: list[_Turn] = []
    wrong = None
    for number, entry in enumerate(entries):
        try:
            turns.append(_read_turn(entry, number, image_root, rate))
        except SampleError as error:
            wrong = wrong or error
    return turns, wrong


def _seat_pictures(
    turns: list[_Turn], listed: _Listed, move: bool, wrong: SampleError | None
) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """Messages with the places of their pictures and videos, and these in order of their places; or raises what is `wrong`."""
    images: list[ImageRef] = []
    by_placeholder = listed.by_placeholder()
    # Placeholders that mark the same list share one iterator.
    unseated = {id(refs): iter(refs) for refs in by_placeholder.values()}
    something = bool(listed.images or listed.videos)
    words = re.compile("|".join(by_placeholder))
    num_places = dict.fromkeys(by_placeholder, 0)
    messages = []
    for turn in turns:
        parts: list[str | ImageSlot] = []
        for piece in _pieces(turn, words if something else None):
            if isinstance(piece, str):
                parts.append(piece)
                continue
            if isinstance(piece, _Place):
                num_places[piece.word] += 1
                piece = next(unseated[id(by_placeholder[piece.word])], None)
            if piece is not None:
                parts.append(ImageSlot(len(images)))
                images.append(piece)
        if move and something:
            parts = picture_first(parts)
        messages.append(Message(turn.role, tuple(part for part in parts if part != "")))
    wrong = wrong or _wrong_places(listed, num_places)
    if wrong is not None:
        wrong.readable = tuple(messages), (*images, *(ref for refs in unseated.values() for ref in refs))
        raise wrong
    return tuple(messages), tuple(images)


def _wrong_places(listed: _Listed, num_places: Mapping[str, int]) -> SampleError | None:
    """None where places are as many as pictures, and as many as videos; where a row has videos alone, both words mean them."""
    counted = [(IMAGE, "pictures", listed.images, num_places[IMAGE])]
    if listed.videos and not listed.images:
        counted = [(f"{IMAGE} or {VIDEO}", "videos", listed.videos, sum(num_places.values()))]
    elif listed.videos:
        counted.append((VIDEO, "videos", listed.videos, num_places[VIDEO]))
    for word, what, refs, places in counted:
        if places != len(refs):
            return SampleError(
                "image_count",
                f"its text has {places} places for {what} ({word}), and the row has {len(refs)} {what}; expected as many of "
                "one as of the other",
            )
    return None
