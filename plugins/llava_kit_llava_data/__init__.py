"""Conversations with pictures from files: LLaVA's JSON, JSON lines, and OpenAI-style messages, told apart by content."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from llava_kit import Options, hookimpl

# How far into a file its first turns are looked for: a photograph as base64 text is shorter.
_FAR = 1 << 20


class FieldNames(Options):
    """What the keys of a row are called, where a file does not keep to the usual names."""

    id: str = "id"
    image: str = "image"
    video: str = "video"
    conversations: str = Field(default="conversations", description="the turns; `messages` is looked for too")


class LlavaJsonOptions(Options):
    """LLaVA conversations from a JSON array, JSON lines, or OpenAI-style messages."""

    path: str = Field(description="the .json or .jsonl file, or a folder that `data convert` wrote")
    image_root: str | None = Field(None, description="pictures are read from under this folder; default: the file's own")
    frames_per_second: PositiveFloat = Field(
        1.0, description="pictures a second in the folders of frames that rows name as videos; for the times told of them"
    )
    fields: FieldNames = Field(default_factory=FieldNames)  # an instance here would cost every start-up 40 ms
    picture_place: Literal["first", "as_written"] = Field(
        "first", description="first: a turn's only picture goes before its text, as LLaVA trains; as_written: it stays"
    )
    turns: Literal["as_written", "refuse", "cut"] = Field(
        "as_written",
        description="refuse: rows whose turns do not go user, assistant, ... each with a text; cut: keep the pairs before that",
    )
    annotations: bool = Field(True, description="read captions, boxes and box_convention, as `data convert` writes them")
    start: NonNegativeInt = Field(0, description="the first row to use")
    stop: NonNegativeInt | None = Field(None, description="the row before which to end; default: all")


def build_llava_json(options: LlavaJsonOptions):
    """Return a `LlavaJsonSource`; the file is indexed now, rows are parsed when asked for."""
    from .source import LlavaJsonSource

    return LlavaJsonSource(options)


def recognise_llava_json(path: str, head: bytes):
    """Rows of turns: a JSON array of objects, or an object a line, with `conversations` or `messages`; or their folder."""
    if not head and os.path.isdir(path):
        from .folder import rows_file

        return None if rows_file(path) is None else {"path": path}
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"[", b"{"):
        return None
    if not _has_turns(head) and len(head) >= 4096:  # a long system text, or a picture as text, stands before the turns
        with open(path, "rb") as file:
            head = file.read(_FAR)
    return {"path": path} if _has_turns(head) else None


def _has_turns(head: bytes) -> bool:
    return b'"conversations"' in head or b'"messages"' in head


@hookimpl
def register_sources(register):
    register("llava_json", options=LlavaJsonOptions, build=build_llava_json, recognise=recognise_llava_json)
