"""What the columns of a caption table are: parted by what, named in a first line or not, and which are caption and picture.

Only the standard library is needed, and only the first bytes: every source is asked about a file that a user names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

# Names in use, the likeliest first: CC3M as tools write it, LLaVA's metadata, LAION, Flickr30k.
CAPTION_NAMES = ("caption", "blip_caption", "text", "title", "sentence", "description", "comment", "raw_caption")
IMAGE_NAMES = (
    "image", "image_path", "filepath", "file_path", "path", "file_name", "filename", "image_name", "file", "img", "image_file",
    "image_url", "img_url", "url", "key",
)  # fmt: skip
ID_NAMES = ("id", "uid")
_DELIMITERS = ("\t", ",", "|", ";")
_PICTURE = re.compile(r"^(https?://\S+|\S.*\.(jpe?g|png|webp|gif|bmp|tiff?))$", re.IGNORECASE)


class Head(NamedTuple):
    """How a table is written. `names` are its columns' names, or their numbers from 1."""

    delimiter: str
    quotes: bool
    header: bool
    names: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    """The first rows, the header left out."""


def read_head(text: str, delimiter: str | None = None, header: bool | None = None, quotes: bool | None = None) -> Head | None:
    """How the table is written that begins with `text` (whole lines); None where nothing parts its first line."""
    first = text.partition("\n")[0]
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=lambda each: (each in first, each == "\t", first.count(each)))
    if delimiter not in first:
        return None
    if quotes is None:
        quotes = delimiter != "\t"
    rows = split(text, delimiter, quotes)
    if not rows:
        return None
    if header is None:
        header = any(name.strip().lower() in CAPTION_NAMES + IMAGE_NAMES for name in rows[0])
    names = tuple(name.strip() for name in rows[0]) if header else tuple(str(number + 1) for number in range(len(rows[0])))
    return Head(delimiter, quotes, header, names, tuple(rows[1:] if header else rows))


def split(text: str, delimiter: str, quotes: bool) -> list[tuple[str, ...]]:
    """The fields of each line; with `quotes` a field in "..." may hold delimiters and line ends."""
    if not quotes:
        return [tuple(line.rstrip("\r").split(delimiter)) for line in text.split("\n") if line.strip()]
    return [tuple(fields) for fields in csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter) if fields]


def find_named(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the `known` names that a column has, letter case aside."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in known if name in lowered), None)


def picture_column(lines: Sequence[Sequence[str]], width: int) -> int | None:
    """The one column of `width` in which most `lines` hold a path of a picture or a URL; None for none, or several."""
    votes = [
        sum(column < len(line) and bool(_PICTURE.match(line[column].strip())) for line in lines) for column in range(width)
    ]
    good = [column for column, count in enumerate(votes) if lines and 2 * count > len(lines)]
    return good[0] if len(good) == 1 else None


def looks_like_captions(head: bytes) -> bool:
    """Whether a table of captions begins so: its columns are named, or there are two and one is of pictures."""
    try:
        # The last line may be cut off, and a letter in it.
        text = head.removeprefix(b"\xef\xbb\xbf").rpartition(b"\n")[0].decode("utf-8")
    except UnicodeDecodeError:
        return False
    table = None if "\0" in text else read_head(text)
    if table is None:
        return False
    if table.header:
        return bool(find_named(table.names, CAPTION_NAMES) and find_named(table.names, IMAGE_NAMES))
    return table.delimiter == "\t" and len(table.names) == 2 and picture_column(table.lines, 2) is not None
