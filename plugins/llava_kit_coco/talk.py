"""What each source of this plugin makes of a row in the end: a conversation about a picture, or an error that names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from llava_kit.core.conversation import Conversation, ImageSlot, Message
from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError, SampleError

# So many rows show what a file is, and where its pictures are.
_LOOKED_AT = 20


def conversation(turns: Sequence[tuple[str, str | None]], *, picture: bool = True) -> Conversation:
    """Requests and answers, the picture before the first request; a request whose answer is None stays without one."""
    messages = []
    for number, (request, answer) in enumerate(turns):
        parts = (ImageSlot(0), f"\n{request}") if picture and number == 0 else (request,)
        messages.append(Message("user", parts))
        if answer is not None:
            messages.append(Message("assistant", (answer,)))
    return Conversation(tuple(messages))


def caption_text(value: Any) -> str:
    """A caption without the space around it. Raises SampleError: `bad_row` for what is no text, `empty_caption` for none."""
    if not isinstance(value, str):
        raise SampleError("bad_row", f"its caption is {str(value)[:60]!r}; expected text")
    text = " ".join(value.split())
    if not text:
        raise SampleError("empty_caption", "its caption is empty")
    return text


def json_row(rows: JsonRows, number: int) -> dict[str, Any]:
    """Row `number` as an object. Raises SampleError, reason `bad_row`, for another thing or none."""
    try:
        row = rows[number]
    except DataError as error:
        raise SampleError("bad_row", str(error)) from None
    if not isinstance(row, dict):
        raise SampleError("bad_row", f"{rows.path}: row {number} is a {type(row).__name__}; expected an object")
    return row


def first_rows(rows: JsonRows) -> list[dict[str, Any]]:
    """The first rows that are objects, for a look at what a file holds: one that cannot be read spoils nothing but itself."""
    found = []
    for number in range(min(len(rows), _LOOKED_AT)):
        with suppress(SampleError):
            found.append(json_row(rows, number))
    return found


@contextmanager
def named(name: str) -> Iterator[None]:
    """A SampleError that leaves this block bears the sample's `name`."""
    try:
        yield
    except SampleError as error:
        raise SampleError(error.reason, error.message, sample_id=error.sample_id or name) from None
