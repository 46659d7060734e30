"""Visual Genome's regions as LLaVA 1.5 trains on them: up to ten of a picture, each to be described or to be found."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from llava_kit.core.annotations import Box
from llava_kit.core.conversation import Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from .boxes import keep_good, picture_size, pixel_box
from .chance import chance
from .grouping import Numbers, whole_numbers
from .options import VisualGenomeOptions
from .pictures import PictureFolder
from .regions import Place, region_sample
from .talk import first_rows, json_row, named

_PLACES = {"path", "image_data", "image_root", "without_pictures"}


class VisualGenomeSource(DataSource):
    """Samples by number, one for each picture of region_descriptions.json; sizes and folders are those of image_data.json."""

    def __init__(self, options: VisualGenomeOptions):
        self.options, self.path = options, options.path
        self.image_data = options.image_data or os.path.join(os.path.dirname(options.path), "image_data.json")
        if not os.path.isfile(self.image_data):
            raise DataError(
                f"{self.path}: sizes of its pictures are looked for in {self.image_data!r}, and there is no such file; give "
                "image_data=image_data.json"
            )
        self._rows, self._images = JsonRows(self.path), JsonRows(self.image_data)
        _check(self._rows, "regions", "region_descriptions.json")
        _check(self._images, "url", "image_data.json")
        self._numbers = Numbers(whole_numbers(self._images, _id_key(self._images)), self.image_data)
        self._folder = PictureFolder(options, self.path)
        if not options.without_pictures:
            self._folder.look_for((name for row in first_rows(self._images) if (name := _tail(row))), self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        with named(f"row {index}"):
            row = json_row(self._rows, index)
            identity = row.get("id", row.get("image_id"))
            with named(str(identity)):
                return self._sample(row, identity)

    def fingerprint(self) -> str:
        files = f"{fingerprint(self.path)} {fingerprint(self.image_data)}"
        return f"visual_genome-1 {files} {self.options.model_dump_json(exclude=_PLACES)}"

    def _sample(self, row: dict[str, Any], identity: Any) -> Sample:
        if not isinstance(identity, int) or isinstance(identity, bool):
            raise SampleError("bad_row", f"its id is {str(identity)[:60]!r}; expected a whole number")
        place = self._numbers.place(identity)
        if place < 0:
            raise SampleError("bad_row", f"{self.image_data} has no picture {identity}")
        regions = row.get("regions")
        if not isinstance(regions, list):
            raise SampleError("bad_row", f"its regions are {str(regions)[:60]!r}; expected a list")
        image = json_row(self._images, place)
        size = picture_size(image, str(identity))
        found = keep_good([partial(_box, region, size) for region in regions], self.options.bad_boxes == "drop")
        tags = {"source": "visual_genome", "image_id": identity}
        if found.num_dropped:
            tags["boxes_left_out"] = found.num_dropped
        boxes = found.boxes
        if len(boxes) > self.options.max_regions:
            boxes = chance(self.options.seed, "regions", identity).sample(boxes, self.options.max_regions)
        return region_sample(Place(str(identity), self._folder.picture(_file_of(image)), size, tags), boxes, self.options)


def _box(region: Any, size: tuple[int, int]) -> Box:
    """The box of a region, labelled with its phrase. An empty phrase is as useless as a bad box, and told as one."""
    if not isinstance(region, dict):
        raise SampleError("bad_row", f"a region is {str(region)[:60]!r}; expected an object")
    phrase = region.get("phrase")
    text = " ".join(phrase.split()) if isinstance(phrase, str) else ""
    if not text:
        raise SampleError(
            "bad_box", f"region {region.get('region_id', region.get('id'))} has the phrase {phrase!r}; expected words"
        )
    return pixel_box(text, [region.get(key) for key in ("x", "y", "width", "height")], size)


def _file_of(image: dict[str, Any]) -> str:
    """`VG_100K_2/1.jpg` of a URL that ends so: the folder and the file, as the archives have them."""
    name = _tail(image)
    if name is None:
        url = image.get("url")
        raise SampleError("bad_row", f"its url is {url!r}; expected one that ends in folder and file, as .../VG_100K_2/1.jpg")
    return name


def _tail(image: dict[str, Any]) -> str | None:
    url = image.get("url")
    parts = url.partition("?")[0].split("/") if isinstance(url, str) else []
    return "/".join(parts[-2:]) if len(parts) > 1 and parts[-2] and parts[-1] else None


def _id_key(images: JsonRows) -> str:
    """`image_id`, or `id` as the first version of Visual Genome has it."""
    return "image_id" if any("image_id" in row for row in first_rows(images)) else "id"


def _check(rows: JsonRows, key: str, meant: str) -> None:
    if not len(rows):
        raise DataError(f"{rows.path}: found 0 rows; expected {meant}")
    first = first_rows(rows)
    if not any(key in row for row in first):
        keys = ", ".join(map(repr, first[0])) if first else "of no object"
        raise DataError(f"{rows.path}: its rows have the keys {keys}; expected {key!r} among them, as {meant}")
