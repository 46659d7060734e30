"""COCO's captions and boxes as samples: a picture or a caption is a row, and all that is known of the picture goes with it."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Literal

import numpy as np

from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import Sample
from llava_kit.core.json_rows import JsonRows, fingerprint
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError

from .boxes import Checked, keep_good, picture_size, pixel_box
from .chance import chance
from .grouping import Groups, Numbers, whole_numbers
from .options import CocoOptions
from .pictures import PictureFolder
from .talk import caption_text, conversation, first_rows, json_row, named

# What a file of each kind has in its annotations.
_MARKS = {"captions": "caption", "instances": "bbox"}
# What decides where a sample is read from, and not what it is.
_PLACES = {"path", "captions", "instances", "image_root", "without_pictures"}


class CocoSource(DataSource):
    """Samples by number; in memory are the places of the rows and whose they are, some 30 bytes for each object."""

    def __init__(self, options: CocoOptions):
        self.options = options
        paths = {kind: path for kind in _MARKS if (path := getattr(options, kind))}
        if options.path:
            kind = _kind(options.path)
            if kind in paths:
                raise DataError(
                    f"path {options.path!r} holds {kind}, and {kind}={paths[kind]!r} is given too; give one of them"
                )
            paths[kind] = options.path
        self._files = {kind: CocoFile(path, kind) for kind, path in paths.items()}
        self._captions, self._instances = self._files.get("captions"), self._files.get("instances")
        if self._captions is None and options.task != "annotations":
            raise DataError(
                f"{paths['instances']}: holds objects and no captions, which task {options.task!r} needs; give "
                "captions=captions_*.json of the same pictures too, or task=annotations"
            )
        self._categories = {} if self._instances is None else _categories(self._instances.path)
        self._ids = self._picture_ids(paths)
        main = self._captions or self._instances
        assert main is not None
        self._folder = PictureFolder(options, main.path)
        if not options.without_pictures:
            self._folder.look_for((row.get("file_name", "") for row in first_rows(main.images)), main.path)

    def __len__(self) -> int:
        if self.options.task == "each_caption":
            assert self._captions is not None
            return len(self._captions.annotations)
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        with named(f"row {index}"):
            if self.options.task == "each_caption":
                return self._of_caption(index)
            return self._sample(index, None)

    def fingerprint(self) -> str:
        files = " ".join(f"{kind} {fingerprint(file.path)}" for kind, file in sorted(self._files.items()))
        return f"coco-1 {files} {self.options.model_dump_json(exclude=_PLACES)}"

    def _of_caption(self, number: int) -> Sample:
        assert self._captions is not None
        row = json_row(self._captions.annotations, number)
        return self._sample(int(self._captions.owners[number]), row)

    def _sample(self, place: int, caption_row: dict[str, Any] | None) -> Sample:
        """The sample of the picture at `place` of `self._ids`, about one caption where `caption_row` is given."""
        image, identity = self._image(place), int(self._ids[place])
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise SampleError("bad_row", f"picture {identity} has the file_name {file_name!r}; expected text")
        name = os.path.splitext(os.path.basename(file_name))[0]
        with named(name):
            captions = self._captions_of(identity)
            tags: dict[str, Any] = {"source": "coco", "image_id": identity}
            boxes = self._boxes_of(identity, image, tags)
            if caption_row is not None:
                answer, name = caption_text(caption_row.get("caption")), f"{name}-{caption_row.get('id')}"
            elif self.options.task == "annotations":
                answer = captions[0] if captions else None
            else:
                if not captions:
                    raise SampleError("no_caption", f"the captions have none of picture {file_name!r}")
                answer = chance(self.options.seed, "caption", identity).choice(captions)
            return Sample(
                name,
                conversation([(self.options.request, answer)]),
                (self._folder.picture(file_name),),
                tags,
                Annotations(tuple(captions), tuple(boxes.boxes)),
            )

    def _captions_of(self, identity: int) -> list[str]:
        if self._captions is None:
            return []
        return [caption_text(row.get("caption")) for row in self._captions.rows_of(identity)]

    def _boxes_of(self, identity: int, image: dict[str, Any], tags: dict[str, Any]) -> Checked:
        """The picture's boxes; what is left out is counted in `tags`."""
        rows = [] if self._instances is None else self._instances.rows_of(identity)
        if not rows:
            return Checked([], 0)
        single = rows if self.options.crowds else [row for row in rows if not row.get("iscrowd")]
        size = picture_size(image, str(identity))
        makers = [partial(self._box, row, size) for row in single]
        found = keep_good(makers, self.options.bad_boxes == "drop")
        if len(single) < len(rows):
            tags["crowds_left_out"] = len(rows) - len(single)
        if found.num_dropped:
            tags["boxes_left_out"] = found.num_dropped
        return found

    def _box(self, row: dict[str, Any], size: tuple[int, int]):
        category = row.get("category_id")
        if category not in self._categories:
            raise SampleError("unknown_category", f"an object is of category {category!r}; `categories` has no such id")
        return pixel_box(self._categories[category], row.get("bbox"), size)

    def _image(self, place: int) -> dict[str, Any]:
        """The row about the picture at `place`; of two files the one that has it, captions first."""
        identity = int(self._ids[place])
        for file in (self._captions, self._instances):
            if file is not None and (row := file.numbers.place(identity)) >= 0:
                return json_row(file.images, row)
        raise AssertionError("an id of a picture that no file has")

    def _picture_ids(self, paths: dict[str, str]):
        """The ids of all pictures: those of the captions in their order, then what the objects alone have."""
        if self._captions is None or self._instances is None:
            return next(iter(self._files.values())).numbers.ids
        first, second = self._captions.numbers.ids, self._instances.numbers.ids
        more = second[self._captions.numbers.find(second) < 0]
        if len(second) and len(more) == len(second):
            raise DataError(
                f"{paths['captions']} and {paths['instances']} have no picture in common (the first ids are "
                f"{first[:1].tolist()} and {second[:1].tolist()}); expected captions and instances of the same split"
            )
        return np.concatenate([first, more])


class CocoFile:
    """One file of COCO's: its pictures, its annotations, and whose these are (`owners`: places in `images`)."""

    def __init__(self, path: str, kind: Literal["captions", "instances"] | str):
        self.path = path
        try:
            self.images, self.annotations = JsonRows(path, "images"), JsonRows(path, "annotations")
        except DataError as error:
            raise DataError(f"{kind}: {error}; expected COCO's {kind}_*.json, with 'images' and 'annotations'") from None
        if len(self.annotations) and (found := _kind_of(self.annotations)) != kind:
            other = f"give it as {found}=" if found else "it is none of COCO's captions_*.json and instances_*.json"
            raise DataError(
                f"{kind}: {path} has annotations with the keys {_keys(self.annotations)}; expected "
                f"{_MARKS[kind]!r} among them; {other}"
            )
        self.numbers = Numbers(whole_numbers(self.images, "id"), f"{path}: images")
        self.owners = self.numbers.find(whole_numbers(self.annotations, "image_id")).astype(np.int32)
        lost = np.flatnonzero(self.owners < 0)
        if len(lost):
            raise DataError(
                f"{path}: {len(lost)} of {len(self.owners)} annotations are about pictures that `images` does not have, the "
                f"first (row {int(lost[0])}) about {json_row(self.annotations, int(lost[0])).get('image_id')!r}"
            )
        self.groups = Groups(self.owners, len(self.images))

    def rows_of(self, identity: int) -> list[dict[str, Any]]:
        """The annotations of a picture by its id; none where this file does not have it."""
        place = self.numbers.place(identity)
        return [] if place < 0 else [json_row(self.annotations, row) for row in self.groups.rows(place)]


def _kind(path: str) -> str:
    """Whether a file holds captions or instances, by its first annotation."""
    rows = JsonRows(path, "annotations")
    kind = _kind_of(rows) if len(rows) else None
    if kind is None:
        found = f"with the keys {_keys(rows)}" if len(rows) else "of which there is none"
        raise DataError(f"{path}: has annotations {found}; expected 'caption' (captions_*.json) or 'bbox' (instances_*.json)")
    return kind


def _kind_of(rows: JsonRows) -> str | None:
    first = first_rows(rows)
    return next((kind for kind, mark in _MARKS.items() if any(mark in row for row in first)), None)


def _keys(rows: JsonRows) -> str:
    return ", ".join(map(repr, dict.fromkeys(key for row in first_rows(rows) for key in row)))


def _categories(path: str) -> dict[Any, str]:
    """Names of categories by their ids."""
    rows = JsonRows(path, "categories")
    named_rows = [json_row(rows, number) for number in range(len(rows))]
    bad = [row for row in named_rows if not isinstance(row.get("id"), int) or not isinstance(row.get("name"), str)]
    if bad:
        raise DataError(f"{path}: a category is {bad[0]}; expected an object with `id` and `name`")
    return {row["id"]: row["name"] for row in named_rows}
