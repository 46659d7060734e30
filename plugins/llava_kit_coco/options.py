"""The options of every source with captions or boxes, by its name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from llava_kit import Options

# Stands in the place of a question where a caption is the answer; `data filter-captions` pairs captions with many requests.
REQUEST = "Say in one sentence what this picture shows."


class PictureOptions(Options):
    """Where the pictures are, as every source of this plugin is told it."""

    image_root: str | None = Field(None, description="the folder that the pictures' names begin in; default: the file's own")
    image_prefix: str = Field("", description="what stands before the pictures' names under image_root, as train2017")
    without_pictures: bool = Field(
        default=False, description="only words are wanted and the pictures are not here: do not look for them"
    )
    seed: NonNegativeInt = Field(0, description="decides all that is chosen at random")


class CocoOptions(PictureOptions):
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


class CaptionOptions(PictureOptions):
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


class RegionOptions(PictureOptions):
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


class RefcocoOptions(RegionOptions):
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


class VisualGenomeOptions(RegionOptions):
    """Visual Genome's regions: phrases for places in a picture, asked both ways."""

    path: str = Field(description="region_descriptions.json")
    image_data: str | None = Field(None, description="image_data.json, which has the pictures' sizes; default: beside path")
    max_regions: PositiveInt = Field(10, description="regions of a picture that are used, chosen by the seed")
    bad_boxes: Literal["error", "drop"] = Field(
        "drop", description="drop: a box outside of its picture is left out and counted in the tags; error: it spoils its row"
    )


class CapsBoxesOptions(PictureOptions):
    """Rows of captions and boxes, as in LLaVA's caps_boxes_coco2014_val_80.jsonl: what `data generate` is fed."""

    path: str = Field(description="a .jsonl or .json file of rows with id, image, captions and instances")
    request: str = Field(REQUEST, description="what the first caption answers")
    bad_boxes: Literal["error", "drop"] = Field("error", description="error: a bad box spoils its row; drop: it is left out")


OPTIONS: dict[str, type[Options]] = {
    "coco": CocoOptions,
    "captions": CaptionOptions,
    "refcoco": RefcocoOptions,
    "visual_genome": VisualGenomeOptions,
    "caps_boxes": CapsBoxesOptions,
}
