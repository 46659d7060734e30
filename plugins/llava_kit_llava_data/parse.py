"""The bytes of a row as an object: what is no UTF-8 or no JSON is named, with the way to mend it."""

from __future__ import annotations

import json
from typing import Any

from llava_kit.errors import SampleError


def parse_row(data: bytes, number: int) -> dict[str, Any]:
    """Row `number` as an object. Raises `SampleError` (`bad_encoding`, `bad_number`, `bad_row`)."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError("bad_encoding", f"row {number} {_told(data, error)}") from None
    try:
        row = _DECODER.decode(text)
    except SampleError as error:
        raise SampleError(error.reason, f"row {number} {error.message}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError("bad_row", f"row {number} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise SampleError("bad_row", f"row {number} is a {type(row).__name__}; expected an object")
    return row


def _refuse(name: str) -> Any:
    told = "which JSON does not have (pandas writes it for what is missing); write null, or leave the key out"
    raise SampleError("bad_number", f"holds {name}, {told}")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _told(data: bytes, error: UnicodeDecodeError) -> str:
    """The byte that is no UTF-8, and the letter that it is in the encoding most likely meant."""
    byte = data[error.start]
    # Windows-1252 is Latin-1 with letters where Latin-1 has controls; five bytes are nothing in it.
    letter = bytes([byte]).decode("windows-1252", "replace")
    return (
        f"is not UTF-8: its byte {error.start} is 0x{byte:02x}, in Windows-1252 (Latin-1) {letter!r}; "
        "convert the file: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )
