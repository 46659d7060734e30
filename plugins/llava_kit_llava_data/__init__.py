"""Conversations with pictures from files: LLaVA's JSON, JSON lines, and OpenAI-style messages, told apart by content."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from llava_kit import Options, hookimpl


class FieldNames(Options):
    """What the keys of a row are called, where a file does not keep to the usual names."""

    id: str = "id"
    image: str = "image"
    video: str = "video"
    conversations: str = Field(default="conversations", description="the turns; `messages` is looked for too")


class LlavaJsonOptions(Options):
    """LLaVA conversations from a JSON array, JSON lines, or OpenAI-style messages."""

    path: str = Field(description="the .json or .jsonl file")
    image_root: str | None = Field(None, description="pictures are read from under this folder; default: the file's own")
    frames_per_second: PositiveFloat = Field(
        1.0, description="pictures a second in the folders of frames that rows name as videos; for the times told of them"
    )
    fields: FieldNames = Field(default_factory=FieldNames)  # an instance here would cost every start-up 40 ms
    picture_place: Literal["first", "as_written"] = Field(
        "first", description="first: a turn's only picture goes before its text, as LLaVA trains; as_written: it stays"
    )
    start: NonNegativeInt = Field(0, description="the first row to use")
    stop: NonNegativeInt | None = Field(None, description="the row before which to end; default: all")


def build_llava_json(options: LlavaJsonOptions):
    """Return a `LlavaJsonSource`; the file is indexed now, rows are parsed when asked for."""
    from .source import LlavaJsonSource

    return LlavaJsonSource(options)


def recognise_llava_json(path: str, head: bytes):
    """Rows of turns: a JSON array of objects, or an object a line, with `conversations` or `messages` in it."""
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begins in (b"[", b"{") and (b'"conversations"' in head or b'"messages"' in head):
        return {"path": path}
    return None


@hookimpl
def register_sources(register):
    register("llava_json", options=LlavaJsonOptions, build=build_llava_json, recognise=recognise_llava_json)
