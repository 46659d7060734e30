"""Captions of pictures from tables and JSON rows (CC3M, LCS-558K, BLIP) as samples of one request and one answer."""

from __future__ import annotations

from typing import Any

from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import Sample
from llava_kit.core.json_rows import fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError, suggest

from .caption_rows import CaptionRows, open_rows
from .chance import chance
from .options import CaptionOptions
from .pictures import PictureFolder
from .table_head import CAPTION_NAMES, ID_NAMES, IMAGE_NAMES, find_named, picture_column
from .talk import caption_text, conversation, named

_PLACES = {"path", "image_root", "without_pictures"}


class CaptionSource(DataSource):
    """Samples by number from one file; only the places of the rows are in memory."""

    def __init__(self, options: CaptionOptions):
        self.options, self.path = options, options.path
        self._rows = open_rows(options)
        if not len(self._rows):
            raise DataError(f"{self.path}: found 0 rows; expected at least one caption")
        self.caption, self.image = _columns(self._rows, options)
        self._urls = [name for name in self._rows.names if "url" in name.lower() and name not in (self.image, self.caption)]
        self._id = find_named(self._rows.names, ID_NAMES)
        self._folder = PictureFolder(options, self.path)
        if not options.without_pictures:
            self._folder.look_for((row.get(self.image, "") for row in self._rows.shown), self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self._rows))[index]
        with named(f"row {number}"):
            row = self._rows[number]
            name = str(row[self._id]) if self._id and isinstance(row.get(self._id), str | int) else str(number)
            with named(name):
                captions = _captions_of(row.get(self.caption))
                answer = captions[0] if len(captions) == 1 else chance(self.options.seed, "caption", number).choice(captions)
                return Sample(
                    name,
                    conversation([(self.options.request, answer)]),
                    (self._folder.picture(self._picture_name(row)),),
                    {"source": "captions"},
                    Annotations(tuple(captions)),
                )

    def fingerprint(self) -> str:
        return f"captions-1 {fingerprint(self.path)} {self.options.model_dump_json(exclude=_PLACES)}"

    def _picture_name(self, row: Any) -> Any:
        """What the row calls its picture; its URL where it has no other name for it."""
        name = row.get(self.image)
        if name:
            return name
        return next((row[column] for column in self._urls if row.get(column)), name)


def _captions_of(value: Any) -> list[str]:
    """One caption, or the several that a row may list for its picture."""
    if not isinstance(value, list):
        return [caption_text(value)]
    if not value:
        raise SampleError("empty_caption", "its list of captions is empty")
    return [caption_text(each) for each in value]


def _columns(rows: CaptionRows, options: CaptionOptions) -> tuple[str, str]:
    """The columns of captions and of pictures: as the user says, by their names, or by what is in them."""
    for option in ("caption", "image"):
        wanted = getattr(options, option)
        if wanted is not None and wanted not in rows.names:
            raise DataError(
                f"{option}={wanted}: {options.path} has the columns {_listed(rows.names)}; {suggest(wanted, rows.names)}"
            )
    image = options.image or find_named([name for name in rows.names if name != options.caption], IMAGE_NAMES)
    if image is None:
        texts = [[str(row.get(name, "")) for name in rows.names] for row in rows.shown]
        place = picture_column(texts, len(rows.names))
        image = None if place is None else rows.names[place]
    others = [name for name in rows.names if name != image]
    caption = options.caption or find_named(others, CAPTION_NAMES) or (others[0] if len(others) == 1 and image else None)
    if image is None or caption is None:
        missing = " and ".join(name for name, found in (("caption", caption), ("image", image)) if found is None)
        example = dict(rows.shown[0]) if rows.shown else {}
        raise DataError(
            f"{options.path}: which column is the {missing} cannot be told; its columns are {_listed(rows.names)}, the first "
            f"row is {str(example)[:160]}; say caption=COLUMN image=COLUMN (by name, or by number from 1 where none has a name)"
        )
    return caption, image


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"
