"""The options of every source of questions, by its name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llava_kit import Options


class QuestionOptions(Options):
    """Questions about pictures from one file."""

    path: str = Field(description="the publisher's file with the questions")
    image_root: str | None = Field(None, description="pictures are read from under this folder; default: the file's own")
    picture: str | None = Field(
        None, description="a picture's path under image_root, fields of its row in braces: 'train2017/{image_id:012d}.jpg'"
    )
    merge: bool = Field(True, description="all questions about a picture make one conversation, each once, as in LLaVA-1.5")
    prompt: Literal["first", "every", "never"] | None = Field(
        None,
        description="the turns that ask for the answer's form; default as LLaVA-1.5: first, or every where there are choices",
    )
    answers: Literal["capitalised", "as_written"] | None = Field(
        None, description="how a short answer begins; default: capitalised for VQAv2, GQA and OKVQA as in LLaVA-1.5"
    )


class AnnotatedOptions(QuestionOptions):
    """Questions with their answers in a second file."""

    annotations: str | None = Field(None, description="the file with the answers; default: the one that is published with path")


class VqaV2Options(AnnotatedOptions):
    """Options of `vqav2`."""


class OkVqaOptions(AnnotatedOptions):
    """Options of `okvqa`."""


class GqaOptions(QuestionOptions):
    """Options of `gqa`."""

    sentences: bool = Field(False, description="answers are the full sentences (fullAnswer), and no short one is asked for")


class ChoiceOptions(QuestionOptions):
    """Questions with choices."""

    orders: Literal["all", "published"] = Field(
        "all",
        description="all: a row for each turn of the choices, so the right one has each letter once; or as published",
    )


class AOkVqaOptions(ChoiceOptions):
    """Options of `aokvqa`."""

    direct: bool = Field(False, description="the answer most people gave in their own words instead of a letter")


class OcrVqaOptions(QuestionOptions):
    """Options of `ocr_vqa`."""

    split: Literal["train", "val", "test", "all"] = Field("train", description="the file holds all three")


class OcrTokenOptions(QuestionOptions):
    """Questions with the text that stands in the picture."""

    ocr: str | None = Field(
        None, description="TextVQA_Rosetta_OCR_v0.2_*.json: its words become a line 'Reference OCR token: ...' of the question"
    )


class TextVqaOptions(OcrTokenOptions):
    """Options of `textvqa`."""


class TextCapsOptions(OcrTokenOptions):
    """Options of `textcaps`."""


class DocVqaOptions(QuestionOptions):
    """Options of `docvqa`."""


class ChartQaOptions(QuestionOptions):
    """Options of `chartqa`."""

    augmented: str | None = Field(
        None, description="the second file: its questions about a chart join those of path; default: path alone"
    )


class DvqaOptions(QuestionOptions):
    """Options of `dvqa`."""


class Ai2dOptions(ChoiceOptions):
    """Options of `ai2d`."""

    orders: Literal["all", "published"] = Field("published", description="all: a row for each turn of the choices")
    lettered: bool = Field(
        True, description="with questions about letters (abcLabel); their pictures, letters drawn over texts, lie in abc_images"
    )
    leave_out: str | None = Field(None, description="a file of picture numbers that are not used: ai2d_test_ids.csv")


class ScienceQaOptions(Options):
    """Options of `scienceqa`."""

    path: str = Field(description="problems.json")
    splits: str | None = Field(None, description="pid_splits.json; default: beside path")
    split: str = Field("train", description="a list in pid_splits.json: train, val, test, minival, minitest, trainval")
    format: str = Field(
        "QCM-LEA",
        description="what is asked - what is answered: Question, Context, Multiple choice - Lecture, Explanation, Answer; "
        "QCM-LEA reasons first, QCM-ALE answers first, CQM-A is v1.5's, LEPA has headed parts",
    )
    letter: bool = Field(False, description="only the letter is asked for and answered, as v1.5 is evaluated; with a format -A")
    captions: str | None = Field(None, description="captions.json, whose captions are added to the context")
    image_root: str | None = Field(None, description="pictures are read from under this folder; default: the file's own")
    picture: str = Field("images/{split}/{id}/{image}", description="a picture's path under image_root; LLaVA: '{id}/{image}'")


OPTIONS: dict[str, type[Options]] = {
    "vqav2": VqaV2Options,
    "okvqa": OkVqaOptions,
    "gqa": GqaOptions,
    "aokvqa": AOkVqaOptions,
    "ocr_vqa": OcrVqaOptions,
    "textvqa": TextVqaOptions,
    "textcaps": TextCapsOptions,
    "docvqa": DocVqaOptions,
    "chartqa": ChartQaOptions,
    "dvqa": DvqaOptions,
    "ai2d": Ai2dOptions,
    "scienceqa": ScienceQaOptions,
}
"""By source."""
