"""Questions about pictures from their publishers' own files: VQAv2, GQA, OKVQA, A-OKVQA, TextVQA, ScienceQA and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_kit import hookimpl

if TYPE_CHECKING:
    from .options import QuestionOptions, ScienceQaOptions

SUMMARIES = {
    "vqav2": "VQAv2: v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json of visualqa.org, COCO 2014",
    "okvqa": "OK-VQA: OpenEnded_mscoco_*_questions.json and mscoco_*_annotations.json of okvqa.allenai.org, COCO 2014",
    "gqa": "GQA: train_balanced_questions.json of cs.stanford.edu/people/dorarad/gqa (questions1.2.zip, images.zip).",
    "aokvqa": "A-OKVQA: aokvqa_v1p0_train.json of allenai.org/project/a-okvqa (aokvqa_v1p0.tar.gz); COCO 2017 pictures.",
    "ocr_vqa": "OCR-VQA: dataset.json of ocr-vqa.github.io, pictures by its own download script.",
    "textvqa": "TextVQA: TextVQA_0.5.1_*.json of textvqa.org (pictures: train_val_images.zip, test_images.zip).",
    "textcaps": "TextCaps: TextCaps_0.1_*.json of textvqa.org/textcaps; a picture has its first caption, unmerged each.",
    "docvqa": "DocVQA: train_v1.0_withQT.json of docvqa.org (task 1, by rrc.cvc.uab.es).",
    "chartqa": "ChartQA: train_human.json and train_augmented.json of github.com/vis-nlp/ChartQA (ChartQA Dataset/train).",
    "dvqa": "DVQA: train_qa.json of github.com/kushalkafle/DVQA_dataset (qa.tar.gz, images.tar.gz).",
    "ai2d": "AI2D: the folder ai2d/questions of allenai.org/data/diagrams (ai2d-all.zip), or one of its files.",
    "scienceqa": "ScienceQA: problems.json and pid_splits.json of github.com/lupantech/ScienceQA.",
}
"""Sources by name. Their options are pydantic classes, which take half a millisecond each: loaded when they are asked for."""


def _loader(name: str):
    def load():
        from .options import OPTIONS

        return OPTIONS[name]

    return load


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
    for name, summary in SUMMARIES.items():
        build = build_scienceqa if name == "scienceqa" else _builder(name)
        register(name, options=_loader(name), build=build, summary=summary, recognise=_recogniser(name))
