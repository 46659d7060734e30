"""RefCOCO, RefCOCO+ and RefCOCOg as LLaVA 1.5 trains on them: fewer than ten turns at a time about things in pictures."""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from llava_kit.core.annotations import Box
from llava_kit.core.conversation import Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from .boxes import keep_good, picture_size, pixel_box
from .chance import chance
from .expressions import read_expressions
from .grouping import Groups, Numbers, whole_numbers
from .options import RefcocoOptions
from .pictures import PictureFolder
from .regions import Place, region_sample
from .talk import first_rows, json_row, named

_PLACES = {"path", "instances", "image_root", "without_pictures"}


class RefcocoSource(DataSource):
    """Samples by number. A picture's expressions are shuffled by the seed and dealt out evenly to as few rows as hold them."""

    def __init__(self, options: RefcocoOptions):
        self.options, self.path = options, options.path
        self.instances = options.instances or os.path.join(os.path.dirname(options.path), "instances.json")
        if not os.path.isfile(self.instances):
            raise DataError(
                f"{self.path}: its boxes are looked for in {self.instances!r}, and there is no such file; give instances="
                "instances.json of the same archive"
            )
        self._expressions = read_expressions(self.path, options.split, options.text)
        self._images = JsonRows(self.instances, "images")
        self._annotations = JsonRows(self.instances, "annotations")
        if len(self._annotations) and not any("bbox" in row for row in first_rows(self._annotations)):
            raise DataError(f"{self.instances}: its annotations have no 'bbox'; expected instances.json of the same archive")
        pictures = Numbers(whole_numbers(self._images, "id"), f"{self.instances}: images")
        things = Numbers(whole_numbers(self._annotations, "id"), f"{self.instances}: annotations")
        owners = self._found(pictures.find(self._expressions.image_ids), "image_id", self._expressions.image_ids)
        self._rows_of_boxes = self._found(
            things.find(self._expressions.annotation_ids), "ann_id", self._expressions.annotation_ids
        )
        self._groups = Groups(owners, len(self._images))
        self._deal()
        self._folder = PictureFolder(options, self.instances)
        if not options.without_pictures:
            names = (row.get("file_name", "") for row in first_rows(self._images))
            self._folder.look_for(names, self.instances)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        picture, part, parts = int(self._pictures[index]), int(self._parts[index]), int(self._num_parts[index])
        with named(f"row {index}"):
            image = json_row(self._images, picture)
            file_name = str(image.get("file_name"))
            name = f"{os.path.splitext(os.path.basename(file_name))[0]}-{part}"
            with named(name):
                numbers = self._groups.rows(picture)
                chance(self.options.seed, "order", image.get("id")).shuffle(numbers)
                numbers = numbers[part::parts]
                size = picture_size(image, file_name)
                found = keep_good([partial(self._box, number, size) for number in numbers], self.options.bad_boxes == "drop")
                tags = {"source": "refcoco", "image_id": image.get("id")}
                if found.num_dropped:
                    tags["boxes_left_out"] = found.num_dropped
                return region_sample(Place(name, self._folder.picture(file_name), size, tags), found.boxes, self.options)

    def fingerprint(self) -> str:
        files = f"{fingerprint(self.path)} {fingerprint(self.instances)}"
        return f"refcoco-1 {files} {self.options.model_dump_json(exclude=_PLACES)}"

    def _deal(self) -> None:
        """Row i is part `_parts[i]` of `_num_parts[i]` of the expressions of picture `_pictures[i]`."""
        sizes = np.diff(self._groups.bounds)
        num_parts = -(-sizes // self.options.max_turns)
        self._pictures = np.repeat(np.arange(len(sizes), dtype=np.int32), num_parts)
        self._num_parts = num_parts[self._pictures].astype(np.int32)
        starts = np.cumsum(num_parts) - num_parts
        self._parts = (np.arange(len(self._pictures)) - starts[self._pictures]).astype(np.int32)

    def _box(self, number: int, size: tuple[int, int]) -> Box:
        """The box that expression `number` is about, labelled with the expression."""
        text = self._expressions.text(number)
        if not text:
            raise SampleError("empty_caption", "an expression is empty")
        row = json_row(self._annotations, int(self._rows_of_boxes[number]))
        return pixel_box(text, row.get("bbox"), size)

    def _found(self, places: np.ndarray, key: str, wanted: np.ndarray) -> np.ndarray:
        lost = np.flatnonzero(places < 0)
        if len(lost):
            raise DataError(
                f"{self.path}: {len(lost)} of {len(places)} expressions have an {key} that {self.instances} does not have, the "
                f"first is {int(wanted[lost[0]])}; expected instances.json of the same archive"
            )
        return places
