"""Rows of captions and boxes, the form in which LLaVA keeps what a text-only teacher is told of a picture."""

from __future__ import annotations

from functools import partial
from typing import Any

from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from .boxes import keep_good, picture_size, pixel_box, share_box
from .options import CapsBoxesOptions
from .pictures import PictureFolder
from .talk import caption_text, conversation, first_rows, json_row, named

_PLACES = {"path", "image_root", "without_pictures"}


class CapsBoxesSource(DataSource):
    """Rows `{id, image?, captions, instances: [{category, bbox}]}`.

    A row with `width` and `height` has its boxes in pixels `[x, y, width, height]`, as COCO; one without has shares of the
    picture, `[left, top, right, bottom]`, as LLaVA. A row without `image` is words alone.
    """

    def __init__(self, options: CapsBoxesOptions):
        self.options, self.path = options, options.path
        self._rows = JsonRows(self.path)
        if not len(self._rows):
            raise DataError(f"{self.path}: found 0 rows; expected at least one of captions and instances")
        self._folder = PictureFolder(options, self.path)
        if not options.without_pictures:
            self._folder.look_for((row["image"] for row in first_rows(self._rows) if row.get("image")), self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self._rows))[index]
        with named(f"row {number}"):
            row = json_row(self._rows, number)
            name = str(row["id"]) if isinstance(row.get("id"), str | int) else str(number)
            with named(name):
                return self._sample(name, row)

    def fingerprint(self) -> str:
        return f"caps_boxes-1 {fingerprint(self.path)} {self.options.model_dump_json(exclude=_PLACES)}"

    def _sample(self, name: str, row: dict[str, Any]) -> Sample:
        captions = [caption_text(each) for each in _list(row, "captions")]
        size = picture_size(row, name) if "width" in row or "height" in row else None
        boxes = keep_good([partial(_box, entry, size) for entry in _list(row, "instances")], self.options.bad_boxes == "drop")
        tags: dict[str, Any] = {"source": "caps_boxes"}
        if boxes.num_dropped:
            tags["boxes_left_out"] = boxes.num_dropped
        images = (self._folder.picture(row["image"]),) if row.get("image") else ()
        turns = [(self.options.request, captions[0] if captions else None)]
        return Sample(
            name, conversation(turns, picture=bool(images)), images, tags, Annotations(tuple(captions), tuple(boxes.boxes))
        )


def _list(row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key, [])
    if not isinstance(value, list):
        raise SampleError("bad_row", f"its {key} are {str(value)[:60]!r}; expected a list")
    return value


def _box(entry: Any, size: tuple[int, int] | None):
    if not isinstance(entry, dict) or not isinstance(entry.get("category"), str):
        raise SampleError("bad_row", f"an instance is {str(entry)[:60]!r}; expected an object with `category` and `bbox`")
    if size is None:
        return share_box(entry["category"], entry.get("bbox"))
    return pixel_box(entry["category"], entry.get("bbox"), size)
