"""Which publisher's file this is, by its first bytes: the keys that no other format has, and how VQA numbers its questions."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from llava_kit.core.json_object import section_names

_BOM = b"\xef\xbb\xbf"
_IMAGE = re.compile(rb'"image_id"\s*:\s*(\d+)')
_QUESTION = re.compile(rb'"question_id"\s*:\s*(\d+)')
_DATASET = re.compile(rb'"dataset_name"\s*:\s*"([^"]*)"')

# Keys that stand in the first row of a file and in no other format's, by what its JSON begins with.
_OF_ARRAYS = {
    "aokvqa": ((b'"choices"', b'"difficult_direct_answer"'), (b'"choices"', b'"direct_answers"')),
    "chartqa": ((b'"imgname"', b'"query"'),),
    "dvqa": ((b'"answer_bbox"', b'"image"'), (b'"template_id"', b'"image"', b'"question"')),
}
_OF_OBJECTS = {
    "gqa": ((b'"imageId"', b'"question"'),),
    "ocr_vqa": ((b'"imageURL"', b'"questions"'),),
    "scienceqa": ((b'"choices"', b'"hint"', b'"question"'),),
    "ai2d": ((b'"imageName"', b'"answerTexts"'), (b'"imageName"', b'"abcLabel"')),
    "docvqa": ((b'"ucsf_document_id"', b'"question"'),),
    "textcaps": ((b'"caption_str"',), (b'"reference_strs"',)),
    "textvqa": ((b'"question_tokens"', b'"flickr_300k_url"'), (b'"question_tokens"', b'"image_classes"')),
}


class Kind(NamedTuple):
    """The source that reads a file, and the file to name to it (a folder may stand for a file in it)."""

    name: str
    path: str


def kind_of(path: str, head: bytes) -> Kind | None:
    """The format of the file, or None; `head` are its first bytes. Never raises."""
    if os.path.isdir(path):
        return _of_folder(path)
    first = head.removeprefix(_BOM).lstrip()[:1]
    if first == b"[":
        return _by_keys(path, head, _OF_ARRAYS)
    if first != b"{":
        return None
    return _of_vqa(path, head) or _of_data(path, head) or _by_keys(path, head, _OF_OBJECTS)


def _by_keys(path: str, head: bytes, table: dict[str, tuple[tuple[bytes, ...], ...]]) -> Kind | None:
    for name, alternatives in table.items():
        if any(all(key in head for key in keys) for keys in alternatives):
            return Kind(name, path)
    return None


def _of_vqa(path: str, head: bytes) -> Kind | None:
    """VQAv2 and OK-VQA have the same form. VQAv2 counts questions from a thousand times the picture's number, OK-VQA from ten.

    So does the first VQA, which says of itself that it is v1.0 of the VQA dataset and is not meant here.
    """
    names = section_names(head)
    if not {"questions", "annotations"} & set(names) or b'"conversations"' in head:
        return None
    image, question = _IMAGE.search(head), _QUESTION.search(head)
    if image is None or question is None:
        return None
    if int(question[1]) // 1000 == int(image[1]):
        return Kind("vqav2", path)
    of_vqa_1 = re.search(rb"v1\.0 of the VQA", head) is not None
    return Kind("okvqa", path) if int(question[1]) // 10 == int(image[1]) and not of_vqa_1 else None


def _of_data(path: str, head: bytes) -> Kind | None:
    """TextVQA and its kin have their rows in `data`, and some say what they are."""
    said = _DATASET.search(head)
    name = said[1].decode("utf-8", "replace").lower() if said is not None else ""
    if name in ("textvqa", "textcaps"):
        # The file of OCR tokens calls itself as its questions do.
        return None if b'"ocr_tokens"' in head and b'"question' not in head and b"caption_str" not in head else Kind(name, path)
    return Kind("docvqa", path) if name in ("docvqa", "sp-docvqa") else None


def _of_folder(path: str) -> Kind | None:
    problems = os.path.join(path, "problems.json")
    if os.path.isfile(problems) and os.path.isfile(os.path.join(path, "pid_splits.json")):
        return Kind("scienceqa", problems)
    for folder in (path, os.path.join(path, "questions")):
        if _holds_diagrams(folder):
            return Kind("ai2d", folder)
    return None


def _holds_diagrams(folder: str) -> bool:
    """Whether the folder has files such as `0.png.json` that hold AI2D's questions. The first that is found is looked at."""
    try:
        with os.scandir(folder) as entries:
            found = next((entry.path for entry in entries if entry.name.endswith(".png.json")), None)
        if found is None:
            return False
        with open(found, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return b'"imageName"' in head and b'"questions"' in head
