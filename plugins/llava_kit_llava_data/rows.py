"""One row becomes turns and pictures. `<image>` marks a place only in the user's text, and only in a row that has pictures."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from llava_kit.core.conversation import ImageBytes, ImageFile, ImageRef, ImageSlot, Message
from llava_kit.errors import SampleError

from . import LlavaJsonOptions

PLACEHOLDER = "<image>"
ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class Row(NamedTuple):
    messages: tuple[Message, ...]
    system: str | None
    images: tuple[ImageRef, ...]
    tags: dict[str, Any]


class _Turn(NamedTuple):
    role: Literal["system", "user", "assistant"]
    content: list[str | ImageRef | None]
    """Text, pictures that stand right here, and None for the next picture of the row's list."""


def read_row(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str) -> Row:
    """The turns of a row. Raises SampleError (without the row's name) for one that cannot be used."""
    turns = [_read_turn(entry, number, image_root) for number, entry in enumerate(_entries(row, options))]
    listed = _listed_images(row, options, image_root)
    if "video" in row:
        raise SampleError("video", "is about a video; this source reads pictures only")
    system = row.get("system")
    if turns and turns[0].role == "system":
        system = "".join(part for part in turns[0].content if isinstance(part, str))
        turns = turns[1:]
    tags: dict[str, Any] = {}
    # As the original does: an answer that nobody asked for has nothing to be learnt from.
    if turns and turns[0].role == "assistant":
        turns, tags["skipped_first_turn"] = turns[1:], True
    messages, images = _seat_pictures(turns, listed, options.picture_place == "first")
    if system is not None and not isinstance(system, str):
        raise SampleError("bad_row", f"its system text is a {type(system).__name__}; expected text")
    return Row(messages, system, images, tags)


def _entries(row: Mapping[str, Any], options: LlavaJsonOptions) -> list[Any]:
    name = options.fields.conversations
    entries = row.get(name, row.get("messages"))
    if entries is None:
        raise SampleError("bad_row", f"has the keys {', '.join(map(repr, row)) or 'none'}; expected {name!r} or 'messages'")
    if not isinstance(entries, list):
        raise SampleError("bad_row", f"its turns are a {type(entries).__name__}; expected a list")
    return entries


def _read_turn(entry: Any, number: int, image_root: str) -> _Turn:
    if not isinstance(entry, dict):
        raise SampleError("bad_row", f"turn {number} is a {type(entry).__name__}; expected an object")
    role = entry.get("from", entry.get("role"))
    content = entry["value"] if "value" in entry else entry.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise SampleError("bad_turns", f"turn {number} is by {role!r}; expected one of {', '.join(ROLES)}")
    if isinstance(content, str):
        return _Turn(ROLES[role], [content])
    if not isinstance(content, list):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise SampleError("bad_row", f"turn {number} says {found}; expected text, or a list of parts")
    return _Turn(ROLES[role], [_read_part(part, number, image_root) for part in content])


def _read_part(part: Any, number: int, image_root: str) -> str | ImageRef | None:
    """A part of OpenAI-style content."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image_url", "image", "input_image"):
        reference = next((part[key] for key in ("image_url", "image", "path", "url") if key in part), None)
        if isinstance(reference, dict):
            reference = reference.get("url")
        if reference is None:
            return None
        return read_reference(reference, image_root)
    raise SampleError("bad_row", f"turn {number} has a part of type {kind!r}; expected text, image_url or image")


def read_reference(reference: Any, image_root: str) -> ImageRef:
    """A picture by what a row calls it: a path under `image_root`, a file: URL, or a data: URI. Nothing is fetched."""
    if not isinstance(reference, str) or not reference:
        raise SampleError("bad_row", f"a picture is called {reference!r}; expected a path or a data: URI")
    scheme = reference[: match.end()].lower() if (match := _SCHEME.match(reference)) else ""
    if scheme == "data:":
        return _read_data_uri(reference)
    if scheme == "file:":
        return ImageFile(unquote(urlsplit(reference).path), image_root)
    if "://" in reference[:16]:
        raise SampleError(
            "url_not_allowed", f"picture {reference[:80]!r}: is a URL; expected a path under image_root, nothing is fetched"
        )
    return ImageFile(reference, image_root)


def _read_data_uri(uri: str) -> ImageBytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise SampleError("unreadable_image", f"picture {head[:60]!r}: expected data:image/...;base64,...")
    try:
        return ImageBytes(base64.b64decode(body, validate=True), head[:60])
    except (binascii.Error, ValueError):
        raise SampleError("unreadable_image", f"picture {head[:60]!r}: its base64 text is damaged") from None


def _listed_images(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str) -> list[ImageRef]:
    """The pictures of a row by its key `image` (or `images`): one, several, or none."""
    value = row.get(options.fields.image, row.get("images"))
    if value is None or value == "":
        return []
    return [read_reference(reference, image_root) for reference in (value if isinstance(value, list) else [value])]


def _seat_pictures(turns: list[_Turn], listed: list[ImageRef], move: bool) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """Messages with the places of their pictures, and the pictures in order of their places."""
    images: list[ImageRef] = []
    unseated = iter(listed)
    num_places = 0
    messages = []
    for turn in turns:
        parts: list[str | ImageSlot] = []
        for content in turn.content:
            pieces = _split(content) if listed and turn.role == "user" and isinstance(content, str) else [content]
            for piece in pieces:
                if isinstance(piece, str):
                    parts.append(piece)
                    continue
                if piece is None:
                    num_places += 1
                    piece = next(unseated, None)
                    if piece is None:
                        continue
                parts.append(ImageSlot(len(images)))
                images.append(piece)
        if move and listed:
            parts = _picture_first(parts)
        messages.append(Message(turn.role, tuple(part for part in parts if part != "")))
    if num_places != len(listed):
        raise SampleError(
            "image_count",
            f"its text has {num_places} places for pictures ({PLACEHOLDER}), and the row has {len(listed)} pictures; expected "
            "as many of one as of the other",
        )
    return tuple(messages), tuple(images)


def _split(text: str) -> Iterator[str | None]:
    first, *rest = text.split(PLACEHOLDER)
    yield first
    for piece in rest:
        yield None
        yield piece


def _picture_first(parts: list[str | ImageSlot]) -> list[str | ImageSlot]:
    """A turn's only picture on a line before its text, and the text without the space around it, as the original has it."""
    slots = [part for part in parts if isinstance(part, ImageSlot)]
    if len(slots) != 1:
        return parts
    text = "".join(part for part in parts if isinstance(part, str)).strip()
    return [slots[0], f"\n{text}"] if text else [slots[0]]
