"""What readers of conversations agree on: who speaks, what marks a picture's place, and where a turn's only picture goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from .conversation import ImageSlot

IMAGE = "<image>"
"""Marks the place of a picture in a user's text."""

Role = Literal["system", "user", "assistant"]
ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    # Whoever answered in collections of shared chats.
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
"""Who is meant by the names that files have for speakers: LLaVA's, OpenAI's, ShareGPT's."""


def picture_first(parts: Sequence[str | ImageSlot]) -> list[str | ImageSlot]:
    """A turn's only picture on a line before its text, and the text without the space around it, as the original has it."""
    slots = [part for part in parts if isinstance(part, ImageSlot)]
    if len(slots) != 1:
        return list(parts)
    text = "".join(part for part in parts if isinstance(part, str)).strip()
    return [slots[0], f"\n{text}"] if text else [slots[0]]
