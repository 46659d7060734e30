"""One row becomes turns and pictures. `<image>` marks a place only in the user's text, and only in a row that has pictures.

Videos are folders with pictures of their frames; `<video>` marks their place, or `<image>` as in LLaVA-NeXT's files.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from llava_kit.core.annotations import CONVENTIONS, Annotations, Box
from llava_kit.core.conversation import ClipFolder, ImageBytes, ImageFile, ImageRef, ImageSlot, Message
from llava_kit.errors import SampleError

from . import LlavaJsonOptions

IMAGE, VIDEO = "<image>", "<video>"
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
    annotations: Annotations


class _Turn(NamedTuple):
    role: Literal["system", "user", "assistant"]
    content: list[str | ImageRef | None]
    """Text, pictures that stand right here, and None for the next picture of the row's list."""


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
    """The turns of a row. Raises SampleError (without the row's name) for one that cannot be used."""
    turns = [_read_turn(entry, number, image_root, options) for number, entry in enumerate(_entries(row, options))]
    listed = _Listed(_listed_images(row, options, image_root), _listed_videos(row, options, image_root))
    system = row.get("system")
    if turns and turns[0].role == "system":
        system = "".join(part for part in turns[0].content if isinstance(part, str))
        turns = turns[1:]
    tags: dict[str, Any] = dict(row["tags"]) if isinstance(row.get("tags"), dict) else {}
    # As the original does: an answer that nobody asked for has nothing to be learnt from.
    if turns and turns[0].role == "assistant":
        turns, tags["skipped_first_turn"] = turns[1:], True
    messages, images = _seat_pictures(turns, listed, options.picture_place == "first")
    if system is not None and not isinstance(system, str):
        raise SampleError("bad_row", f"its system text is a {type(system).__name__}; expected text")
    return Row(messages, system, images, tags, read_annotations(row))


def read_annotations(row: Mapping[str, Any]) -> Annotations:
    """`captions`, `boxes` and `box_convention`, as `data convert` writes them; other programs' keys of these names are left."""
    captions, boxes, convention = row.get("captions"), row.get("boxes"), row.get("box_convention")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        captions = []
    return Annotations(
        captions=tuple(captions),
        boxes=tuple(_read_box(entry) for entry in boxes if _is_box(entry)) if isinstance(boxes, list) else (),
        text_boxes=convention if convention in CONVENTIONS else None,
    )


def _is_box(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        return False
    numbers = entry.get("box")
    return isinstance(numbers, list) and len(numbers) == 4 and all(isinstance(number, int | float) for number in numbers)


def _read_box(entry: Mapping[str, Any]) -> Box:
    return Box(entry["label"], *map(float, entry["box"]))


def _entries(row: Mapping[str, Any], options: LlavaJsonOptions) -> list[Any]:
    name = options.fields.conversations
    entries = row.get(name, row.get("messages"))
    if entries is None:
        raise SampleError("bad_row", f"has the keys {', '.join(map(repr, row)) or 'none'}; expected {name!r} or 'messages'")
    if not isinstance(entries, list):
        raise SampleError("bad_row", f"its turns are a {type(entries).__name__}; expected a list")
    return entries


def _read_turn(entry: Any, number: int, image_root: str, options: LlavaJsonOptions) -> _Turn:
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
    return _Turn(ROLES[role], [_read_part(part, number, image_root, options) for part in content])


def _read_part(part: Any, number: int, image_root: str, options: LlavaJsonOptions) -> str | ImageRef | None:
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
    if kind == "video" and part.get("video") is not None:
        return read_folder(part["video"], image_root, options)
    raise SampleError("bad_row", f"turn {number} has a part of type {kind!r}; expected text, image_url, image or video")


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


def read_folder(reference: Any, image_root: str, options: LlavaJsonOptions) -> ClipFolder:
    """A video by what a row calls it: a folder of frames under `image_root`."""
    if not isinstance(reference, str) or not reference:
        raise SampleError("bad_row", f"a video is called {reference!r}; expected a folder with pictures of its frames")
    if "://" in reference[:16]:
        raise SampleError(
            "url_not_allowed", f"video {reference[:80]!r}: is a URL; expected a folder under image_root, nothing is fetched"
        )
    return ClipFolder(reference, image_root, options.frames_per_second)


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


def _listed_videos(row: Mapping[str, Any], options: LlavaJsonOptions, image_root: str) -> list[ImageRef]:
    """The videos of a row by its key `video` (or `videos`)."""
    value = row.get(options.fields.video, row.get("videos"))
    if value is None or value == "":
        return []
    return [read_folder(reference, image_root, options) for reference in (value if isinstance(value, list) else [value])]


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


def _seat_pictures(turns: list[_Turn], listed: _Listed, move: bool) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """Messages with the places of their pictures and videos, and these in order of their places."""
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
            parts = _picture_first(parts)
        messages.append(Message(turn.role, tuple(part for part in parts if part != "")))
    _check_places(listed, num_places)
    return tuple(messages), tuple(images)


def _check_places(listed: _Listed, num_places: Mapping[str, int]) -> None:
    """As many places as pictures, and as many as videos; where a row has videos alone, both words mean them."""
    counted = [(IMAGE, "pictures", listed.images, num_places[IMAGE])]
    if listed.videos and not listed.images:
        counted = [(f"{IMAGE} or {VIDEO}", "videos", listed.videos, sum(num_places.values()))]
    elif listed.videos:
        counted.append((VIDEO, "videos", listed.videos, num_places[VIDEO]))
    for word, what, refs, places in counted:
        if places != len(refs):
            raise SampleError(
                "image_count",
                f"its text has {places} places for {what} ({word}), and the row has {len(refs)} {what}; expected as many of "
                "one as of the other",
            )


def _picture_first(parts: list[str | ImageSlot]) -> list[str | ImageSlot]:
    """A turn's only picture on a line before its text, and the text without the space around it, as the original has it."""
    slots = [part for part in parts if isinstance(part, ImageSlot)]
    if len(slots) != 1:
        return parts
    text = "".join(part for part in parts if isinstance(part, str)).strip()
    return [slots[0], f"\n{text}"] if text else [slots[0]]
