"""Questions about pictures from their publishers' own files: VQAv2, GQA, OKVQA, A-OKVQA, TextVQA, ScienceQA and others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llava_kit import Options, hookimpl


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
    """VQAv2: v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json of visualqa.org; COCO 2014 pictures."""


class OkVqaOptions(AnnotatedOptions):
    """OK-VQA: OpenEnded_mscoco_*_questions.json and mscoco_*_annotations.json of okvqa.allenai.org; COCO 2014 pictures."""


class GqaOptions(QuestionOptions):
    """GQA: train_balanced_questions.json of cs.stanford.edu/people/dorarad/gqa (questions1.2.zip, images.zip)."""

    sentences: bool = Field(False, description="answers are the full sentences (fullAnswer), and no short one is asked for")


class ChoiceOptions(QuestionOptions):
    """Questions with choices."""

    orders: Literal["all", "published"] = Field(
        "all",
        description="all: a row for each turn of the choices, so the right one has each letter once; or as published",
    )


class AOkVqaOptions(ChoiceOptions):
    """A-OKVQA: aokvqa_v1p0_train.json of allenai.org/project/a-okvqa (aokvqa_v1p0.tar.gz); COCO 2017 pictures."""

    direct: bool = Field(False, description="the answer most people gave in their own words instead of a letter")


class OcrVqaOptions(QuestionOptions):
    """OCR-VQA: dataset.json of ocr-vqa.github.io, pictures by its own download script."""

    split: Literal["train", "val", "test", "all"] = Field("train", description="the file holds all three")


class OcrTokenOptions(QuestionOptions):
    """Questions with the text that stands in the picture."""

    ocr: str | None = Field(
        None, description="TextVQA_Rosetta_OCR_v0.2_*.json: its words become a line 'Reference OCR token: ...' of the question"
    )


class TextVqaOptions(OcrTokenOptions):
    """TextVQA: TextVQA_0.5.1_*.json of textvqa.org (pictures: train_val_images.zip, test_images.zip)."""


class TextCapsOptions(OcrTokenOptions):
    """TextCaps: TextCaps_0.1_*.json of textvqa.org/textcaps. Merged, a picture has its first caption; else a row for each."""


class DocVqaOptions(QuestionOptions):
    """DocVQA: train_v1.0_withQT.json of docvqa.org (task 1, by rrc.cvc.uab.es)."""


class ChartQaOptions(QuestionOptions):
    """ChartQA: train_human.json and train_augmented.json of github.com/vis-nlp/ChartQA (ChartQA Dataset/train)."""

    augmented: str | None = Field(
        None, description="the second file: its questions about a chart join those of path; default: path alone"
    )


class DvqaOptions(QuestionOptions):
    """DVQA: train_qa.json of github.com/kushalkafle/DVQA_dataset (qa.tar.gz, images.tar.gz)."""


class Ai2dOptions(ChoiceOptions):
    """AI2D: the folder ai2d/questions of allenai.org/data/diagrams (ai2d-all.zip), or one of its files."""

    orders: Literal["all", "published"] = Field("published", description="all: a row for each turn of the choices")
    lettered: bool = Field(
        True, description="with questions about letters (abcLabel); their pictures, letters drawn over texts, lie in abc_images"
    )
    leave_out: str | None = Field(None, description="a file of picture numbers that are not used: ai2d_test_ids.csv")


class ScienceQaOptions(Options):
    """ScienceQA: problems.json and pid_splits.json of github.com/lupantech/ScienceQA (pictures: images/SPLIT/ID/image.png)."""

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


OPTIONS: dict[str, type[QuestionOptions]] = {
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
}
"""All that are read by one reader and a table (`formats.py`); ScienceQA's text is put together otherwise."""


def _builder(name: str):
    def build(options: QuestionOptions):
        """Return a `QuestionsSource`; the file is gone through once now, rows are parsed when asked for."""
        from .source import QuestionsSource

        return QuestionsSource(name, options)

    return build


def build_scienceqa(options: ScienceQaOptions):
    """Return a `ScienceQaSource`."""
    from .scienceqa import ScienceQaSource

    return ScienceQaSource(options)


def _recogniser(name: str):
    def recognise(path: str, head: bytes):
        from .recognise import kind_of

        found = kind_of(path, head)
        return {"path": found.path} if found is not None and found.name == name else None

    return recognise


@hookimpl
def register_sources(register):
    for name, options in OPTIONS.items():
        register(name, options=options, build=_builder(name), recognise=_recogniser(name))
    register("scienceqa", options=ScienceQaOptions, build=build_scienceqa, recognise=_recogniser("scienceqa"))
