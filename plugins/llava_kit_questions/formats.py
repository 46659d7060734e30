"""Where each publisher keeps question, answer and picture: one table, and the few ways in which a row holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llava_kit.errors import SampleError

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
"""The response formats of LLaVA-1.5 (table 7 of its paper)."""

OCR_LINE = "Reference OCR token: "

Row = Mapping[str, Any]


class Pair(NamedTuple):
    """A question and its answer (None: the file has none); with choices, `correct` is the place of the right one.

    `fields`: what the picture's path is put together from beside the fields of the row.
    """

    id: str | None
    question: str
    answer: str | None
    choices: tuple[str, ...] = ()
    correct: int | None = None
    fields: Mapping[str, str] = {}


class Context(NamedTuple):
    """What a row does not say itself: its key in an object of objects, the row of its answers, and the source's options."""

    key: str
    annotation: Row
    options: Any


@dataclass(frozen=True)
class Format:
    """How one publisher's file is read.

    `holds`: rows in a named list (`section`), in an object of objects, in an array, or in a folder of files.
    `picture`: a picture's path from fields of its row (and `key`, `subset`, `fields` of its question), as it is published.
    `keys`: what a row must have; the first names the picture (`key`: the row's key in an object of objects).
    `pairs(row, context)` are a row's questions. `flat`: there is one, so only the picture's name must be known beforehand.
    """

    holds: Literal["section", "members", "array", "folder"]
    files: str
    keys: tuple[str, ...]
    picture: str
    pairs: Callable[[Row, Context], list[Pair]]
    section: str = ""
    flat: bool = True
    annotated: bool = False
    ocr: bool = False
    prompt: str = SHORT
    prompt_turns: Literal["first", "every"] = "first"
    # LLaVA-1.5's published file begins these answers with a capital, which the publishers' do not.
    capitalised: bool = False


def text_of(value: Any, what: str) -> str:
    """The value, which must be text or a number. Raises SampleError."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise SampleError("bad_row", f"its {what} is {found}; expected text")
    return str(value).strip()


def _answer(value: Any) -> str | None:
    return None if value is None else text_of(value, "answer")


def most_common(answers: Any) -> str | None:
    """What most of the ten people said; of several the one that was said first. None where there are no answers."""
    if answers is None or answers == []:
        return None
    if not isinstance(answers, list):
        raise SampleError("bad_row", f"its answers are a {type(answers).__name__}; expected a list")
    said = [text_of(entry.get("answer") if isinstance(entry, dict) else entry, "answer") for entry in answers]
    return Counter(said).most_common(1)[0][0]


def _flat(question: str, answer: str, id: str | None) -> Callable[[Row, Context], list[Pair]]:
    """A reader of rows with one question and one answer, by the names of their fields."""

    def read(row: Row, context: Context) -> list[Pair]:
        name = context.key if id is None else row.get(id)
        return [Pair(None if name is None else str(name), text_of(row[question], "question"), _answer(row.get(answer)))]

    return read


def _vqa(row: Row, context: Context) -> list[Pair]:
    annotation = context.annotation
    # OK-VQA's annotations have ten answers and no chosen one.
    answer = annotation.get("multiple_choice_answer") or most_common(annotation.get("answers"))
    return [Pair(str(row["question_id"]), text_of(row["question"], "question"), _answer(answer))]


def _gqa(row: Row, context: Context) -> list[Pair]:
    answer = row.get("fullAnswer" if context.options.sentences else "answer")
    return [Pair(context.key, text_of(row["question"], "question"), _answer(answer))]


def _textvqa(row: Row, _: Context) -> list[Pair]:
    question = text_of(row["question"], "question")
    return [Pair(str(row["question_id"]), question, most_common(row.get("answers")), fields=_open_images(row))]


def _open_images(row: Row) -> dict[str, str]:
    """The publisher's two archives of pictures unpack into these folders; the first holds train and val."""
    return {"folder": "test_images" if row.get("set_name") == "test" else "train_images"}


def _textcaps(row: Row, _: Context) -> list[Pair]:
    """Each row of the train split has a caption of its own; those of the val split stand in `reference_strs`."""
    references = row.get("reference_strs")
    caption = row.get("caption_str") or (references[0] if isinstance(references, list) and references else None)
    if isinstance(caption, list):
        caption = caption[0] if caption else None
    return [Pair(None, "", _answer(caption), fields=_open_images(row))]


def _docvqa(row: Row, _: Context) -> list[Pair]:
    answers = row.get("answers")
    answer = answers[0] if isinstance(answers, list) and answers else None
    return [Pair(str(row.get("questionId")), text_of(row["question"], "question"), _answer(answer))]


def _ocr_vqa(row: Row, context: Context) -> list[Pair]:
    """The splits are numbers (loadDataset.py of the publisher: 1 train, 2 validation, 3 test)."""
    wanted = {"train": 1, "val": 2, "test": 3}.get(context.options.split)
    if wanted is not None and row.get("split") != wanted:
        return []
    questions, answers = row["questions"], row.get("answers")
    if not isinstance(questions, list):
        raise SampleError("bad_row", f"its questions are a {type(questions).__name__}; expected a list")
    if answers is None:
        answers = [None] * len(questions)
    if not isinstance(answers, list) or len(questions) != len(answers):
        found = len(answers) if isinstance(answers, list) else type(answers).__name__
        raise SampleError("bad_row", f"has {len(questions)} questions and {found} answers; expected as many")
    # The publisher's script keeps the ending of the URL; LLaVA called all files .jpg.
    ending = text_of(row["imageURL"], "imageURL").rpartition("/")[2].rpartition(".")
    fields = {"extension": f".{ending[2]}" if ending[1] else ".jpg"}
    return [
        Pair(f"{context.key}-{number}", text_of(question, "question"), _answer(answer), fields=fields)
        for number, (question, answer) in enumerate(zip(questions, answers))
    ]


def _with_choices(id: str, question: str, choices: Any, correct: Any) -> Pair:
    if not isinstance(choices, list) or not 1 < len(choices) <= 26:
        found = f"{len(choices)} choices" if isinstance(choices, list) else f"choices that are a {type(choices).__name__}"
        raise SampleError("bad_row", f"question {id!r} has {found}; expected a list of two to 26")
    texts = tuple(text_of(choice, "choice") for choice in choices)
    if correct is not None and (isinstance(correct, bool) or not isinstance(correct, int) or not 0 <= correct < len(texts)):
        raise SampleError("bad_row", f"question {id!r}: right is {correct!r} of {len(texts)} choices; expected a number from 0")
    return Pair(id, question, None if correct is None else texts[correct], texts, correct)


def _aokvqa(row: Row, context: Context) -> list[Pair]:
    id, question = str(row["question_id"]), text_of(row["question"], "question")
    if context.options.direct:
        return [Pair(id, question, most_common(row.get("direct_answers")))]
    return [_with_choices(id, question, row.get("choices"), row.get("correct_choice_idx"))]


def _ai2d(row: Row, context: Context) -> list[Pair]:
    """A file is a picture; its questions are members of an object, their text being the key."""
    questions = row["questions"]
    if not isinstance(questions, dict):
        raise SampleError("bad_row", f"its questions are a {type(questions).__name__}; expected an object")
    return [
        _with_choices(
            str(entry.get("questionId", text)), text.strip(), entry.get("answerTexts"), entry.get("correctAnswer")
        )._replace(fields={"folder": "abc_images" if entry.get("abcLabel") else "images"})
        for text, entry in questions.items()
        if isinstance(entry, dict) and (context.options.lettered or not entry.get("abcLabel"))
    ]


_COCO_2014 = "{subset}/COCO_{subset}_{image_id:012d}.jpg"

FORMATS: Mapping[str, Format] = {
    "vqav2": Format(
        "section",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        ("image_id", "question", "question_id"),
        _COCO_2014,
        _vqa,
        section="questions",
        annotated=True,
        capitalised=True,
    ),
    "okvqa": Format(
        "section",
        "OpenEnded_mscoco_train2014_questions.json",
        ("image_id", "question", "question_id"),
        _COCO_2014,
        _vqa,
        section="questions",
        annotated=True,
        capitalised=True,
    ),
    "gqa": Format(
        "members", "train_balanced_questions.json", ("imageId", "question"), "images/{imageId}.jpg", _gqa, capitalised=True
    ),
    "aokvqa": Format(
        "array",
        "aokvqa_v1p0_train.json",
        ("image_id", "question", "question_id", "choices"),
        "{split}2017/{image_id:012d}.jpg",
        _aokvqa,
        flat=False,
        prompt=LETTER,
        prompt_turns="every",
    ),
    "ocr_vqa": Format(
        "members", "dataset.json", ("key", "questions", "imageURL"), "images/{key}{extension}", _ocr_vqa, flat=False
    ),
    "textvqa": Format(
        "section",
        "TextVQA_0.5.1_train.json",
        ("image_id", "question", "question_id"),
        "{folder}/{image_id}.jpg",
        _textvqa,
        section="data",
        ocr=True,
    ),
    "textcaps": Format(
        "section",
        "TextCaps_0.1_train.json",
        ("image_id",),
        "{folder}/{image_id}.jpg",
        _textcaps,
        section="data",
        ocr=True,
        prompt=CAPTION,
    ),
    "docvqa": Format("section", "train_v1.0_withQT.json", ("image", "question"), "{image}", _docvqa, section="data"),
    "chartqa": Format(
        "array", "train_human.json", ("imgname", "query"), "png/{imgname}", _flat("query", "label", "question_id")
    ),
    "dvqa": Format(
        "array", "train_qa.json", ("image", "question"), "images/{image}", _flat("question", "answer", "question_id")
    ),
    "ai2d": Format(
        "folder",
        "ai2d/questions",
        ("imageName", "questions"),
        "{folder}/{imageName}",
        _ai2d,
        flat=False,
        prompt=LETTER,
        prompt_turns="every",
    ),
}
