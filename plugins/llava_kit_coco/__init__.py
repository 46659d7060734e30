"""Pictures with captions and boxes: COCO, RefCOCO, Visual Genome, caption lists such as CC3M's and LCS's."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from llava_kit import Options, hookimpl

# Stands in the place of a question where a caption is the answer; `data filter-captions` pairs captions with many requests.
REQUEST = "Say in one sentence what this picture shows."
_PICTURE_WORDS = (b'"image"', b'"url"', b'"image_url"', b'"file_name"', b'"filename"', b'"path"', b'"image_path"')
_COCO_KEYS = {"info", "licenses", "images", "annotations", "categories", "type"}


class _Pictures(Options):
    """Where the pictures are, as every source of this plugin is told it."""

    image_root: str | None = Field(None, description="the folder that the pictures' names begin in; default: the file's own")
    image_prefix: str = Field("", description="what stands before the pictures' names under image_root, as train2017")
    without_pictures: bool = Field(
        default=False, description="only words are wanted and the pictures are not here: do not look for them"
    )
    seed: NonNegativeInt = Field(0, description="decides all that is chosen at random")


class CocoOptions(_Pictures):
    """COCO's pictures with their captions, their boxes, or both."""

    path: str | None = Field(None, description="a captions_*.json or an instances_*.json; which it is, is found out")
    captions: str | None = Field(None, description="captions_*.json")
    instances: str | None = Field(None, description="instances_*.json")
    task: Literal["caption", "each_caption", "annotations"] = Field(
        "caption",
        description="caption: a picture is a row, one of its captions the answer; each_caption: a caption is a row; "
        "annotations: a picture is a row with its first caption, for `data generate`",
    )
    request: str = Field(REQUEST, description="what the caption answers")
    crowds: bool = Field(default=False, description="keep boxes of crowds (iscrowd: 1), where one box stands for many things")
    bad_boxes: Literal["error", "drop"] = Field(
        "error", description="error: a box outside of its picture spoils the row; drop: it is left out, and counted in the tags"
    )

    @model_validator(mode="after")
    def _names_a_file(self) -> CocoOptions:
        if not (self.path or self.captions or self.instances):
            raise ValueError("names no file; give captions=captions_*.json, instances=instances_*.json, or both")
        if self.path and self.captions and self.instances:
            raise ValueError("has path, captions and instances; give captions and instances alone")
        return self


class CaptionOptions(_Pictures):
    """Pictures with a caption each, from a table (TSV, CSV) or JSON: CC3M, LCS, BLIP."""

    path: str = Field(description="the .tsv, .csv, .json or .jsonl file")
    caption: str | None = Field(None, description="the column of captions, by name, or by number from 1 where none has a name")
    image: str | None = Field(None, description="the column of pictures' paths or URLs, in the same way")
    delimiter: str | None = Field(None, max_length=1, description="what parts the columns; default: found out")
    header: bool | None = Field(None, description="whether a table's first line names the columns; default: found out")
    quotes: bool | None = Field(
        None, description='whether "..." holds a field together; default: not where tabs part the columns, as in CC3M'
    )
    request: str = Field(REQUEST, description="what the caption answers")


class _Regions(_Pictures):
    """How regions of pictures become turns."""

    task: Literal["both", "describe", "locate"] = Field(
        "both", description="describe: box to words; locate: words to box; both: one of them for each region, by the seed"
    )
    boxes: Literal["picture", "padded"] = Field(
        "padded",
        description="the numbers in the text are shares of the picture, or of the square that it is padded to (LLaVA 1.5)",
    )
    wording: Literal["paper", "released"] = Field(
        "paper", description="the requests as in LLaVA 1.5's paper, or as in the file released with it (Please ...)"
    )


class RefcocoOptions(_Regions):
    """RefCOCO, RefCOCO+ and RefCOCOg: expressions for things in COCO's pictures, asked both ways."""

    path: str = Field(description="refs(unc).p, refs(google).p, refs(umd).p, or the same list as JSON")
    instances: str | None = Field(None, description="instances.json of the same archive; default: beside the refs")
    split: str = Field("train", description="the split to use; all: every one")
    text: Literal["sent", "raw"] = Field(
        "sent", description="sent: the expression as cleaned by its authors; raw: as it was typed"
    )
    max_turns: PositiveInt = Field(
        9, description="requests in a conversation; a picture with more has several (LLaVA 1.5: < 10)"
    )
    bad_boxes: Literal["error", "drop"] = Field("error", description="error: a bad box spoils its row; drop: it is left out")


class VisualGenomeOptions(_Regions):
    """Visual Genome's regions: phrases for places in a picture, asked both ways."""

    path: str = Field(description="region_descriptions.json")
    image_data: str | None = Field(None, description="image_data.json, which has the pictures' sizes; default: beside path")
    max_regions: PositiveInt = Field(10, description="regions of a picture that are used, chosen by the seed")
    bad_boxes: Literal["error", "drop"] = Field(
        "drop", description="drop: a box outside of its picture is left out and counted in the tags; error: it spoils its row"
    )


class CapsBoxesOptions(_Pictures):
    """Rows of captions and boxes, as in LLaVA's caps_boxes_coco2014_val_80.jsonl: what `data generate` is fed."""

    path: str = Field(description="a .jsonl or .json file of rows with id, image, captions and instances")
    request: str = Field(REQUEST, description="what the first caption answers")
    bad_boxes: Literal["error", "drop"] = Field("error", description="error: a bad box spoils its row; drop: it is left out")


def build_coco(options: CocoOptions):
    """Return a `CocoSource`; its files are indexed now, rows are parsed when asked for."""
    from .coco import CocoSource

    return CocoSource(options)


def build_captions(options: CaptionOptions):
    """Return a `CaptionSource`; its file is indexed now, rows are read when asked for."""
    from .captions import CaptionSource

    return CaptionSource(options)


def build_refcoco(options: RefcocoOptions):
    """Return a `RefcocoSource`; the expressions are read now, boxes when asked for."""
    from .refcoco import RefcocoSource

    return RefcocoSource(options)


def build_visual_genome(options: VisualGenomeOptions):
    """Return a `VisualGenomeSource`; its files are indexed now, rows are parsed when asked for."""
    from .visual_genome import VisualGenomeSource

    return VisualGenomeSource(options)


def build_caps_boxes(options: CapsBoxesOptions):
    """Return a `CapsBoxesSource`; its file is indexed now, rows are parsed when asked for."""
    from .caps_boxes import CapsBoxesSource

    return CapsBoxesSource(options)


def recognise_coco(path: str, head: bytes):
    """One object that begins with COCO's own sections, pictures among them or rows that are about pictures."""
    if not _begins(head, b"{") or b'"question' in head:
        return None
    from llava_kit.core.json_object import section_names

    names = set(section_names(head))
    return {"path": path} if names & {"images", "annotations"} and names <= _COCO_KEYS else None


def recognise_captions(path: str, head: bytes):
    """JSON rows with a caption and a picture, or a table whose first lines have them."""
    if _begins(head, b"[") or _begins(head, b"{"):
        rows = (b'"caption"' in head or b'"blip_caption"' in head) and any(word in head for word in _PICTURE_WORDS)
        others = (b'"conversations"', b'"messages"', b'"images"', b'"annotations"', b'"data"', b'"instances"', b'"question')
        return {"path": path} if rows and not any(word in head for word in others) else None
    from .table_head import looks_like_captions

    return {"path": path} if looks_like_captions(head) else None


def recognise_refcoco(path: str, head: bytes):
    """A pickle or JSON of expressions: rows with `sent_ids` or `ref_id`, and `sentences`."""
    pickled = head[:1] == b"\x80" or head[:2] in (b"(l", b"(d", b"]q")
    if not (pickled or _begins(head, b"[") or _begins(head, b"{")):
        return None
    return {"path": path} if b"sentences" in head and (b"ref_id" in head or b"sent_ids" in head) else None


def recognise_visual_genome(path: str, head: bytes):
    """Rows of `regions` that have a `phrase`."""
    return {"path": path} if _begins(head, b"[") and b'"regions"' in head and b'"phrase"' in head else None


def recognise_caps_boxes(path: str, head: bytes):
    """Rows with `captions` and `instances`, and no conversation yet."""
    rows = (_begins(head, b"[") or _begins(head, b"{")) and b'"captions"' in head and b'"instances"' in head
    return {"path": path} if rows and not re.search(rb'"(conversations|messages)"', head) else None


def _begins(head: bytes, first: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == first


@hookimpl
def register_sources(register):
    register("coco", options=CocoOptions, build=build_coco, recognise=recognise_coco)
    register("captions", options=CaptionOptions, build=build_captions, recognise=recognise_captions)
    register("refcoco", options=RefcocoOptions, build=build_refcoco, recognise=recognise_refcoco)
    register("visual_genome", options=VisualGenomeOptions, build=build_visual_genome, recognise=recognise_visual_genome)
    register("caps_boxes", options=CapsBoxesOptions, build=build_caps_boxes, recognise=recognise_caps_boxes)
