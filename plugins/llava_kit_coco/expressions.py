"""RefCOCO's expressions in a few arrays: whose picture, whose box, which words; the parsed rows are not kept."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_kit.core.json_object import section_names
from llava_kit.core.json_rows import JsonRows
from llava_kit.errors import DataError, UnsafeError, suggest

from .plain_pickle import read_plain_pickle

# RefCOCO has 142,210 expressions. A pickle may name one list a million times, so its size is no limit.
MAX_EXPRESSIONS = 2_000_000


class Expressions:
    """Expression i is about annotation `annotation_ids[i]` of picture `image_ids[i]`."""

    def __init__(self, image_ids: list[int], annotation_ids: list[int], texts: list[bytes]):
        self.image_ids = np.array(image_ids, np.int64)
        self.annotation_ids = np.array(annotation_ids, np.int64)
        self._ends: NDArray[np.int64] = np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._texts = b"".join(texts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def text(self, number: int) -> str:
        """What expression `number` says."""
        start = int(self._ends[number - 1]) if number else 0
        return self._texts[start : int(self._ends[number])].decode("utf-8")


def read_expressions(path: str, split: str, key: str) -> Expressions:
    """The expressions of one split, or of `all`; their words stand under `key` (`sent` or `raw`).

    Raises:
        DataError: the file holds something else, a row lacks what it needs, or there is no such split.
    """
    image_ids: list[int] = []
    annotation_ids: list[int] = []
    texts: list[bytes] = []
    splits: set[str] = set()
    for number, ref in enumerate(_refs(path)):
        if not isinstance(ref, dict) or not isinstance(ref.get("sentences"), list):
            raise DataError(
                f"{path}: entry {number} is {reprlib.repr(ref)}; expected an object with ref_id, ann_id, image_id, sentences"
            )
        own = ref.get("split")
        splits.add(own if isinstance(own, str) else reprlib.repr(own))
        if split not in ("all", own):
            continue
        if len(texts) + len(ref["sentences"]) > MAX_EXPRESSIONS:
            raise UnsafeError(f"{path}: has more than {MAX_EXPRESSIONS:,} expressions; RefCOCO's files have up to 142,210")
        for sentence in ref["sentences"]:
            image_ids.append(_whole(path, number, ref, "image_id"))
            annotation_ids.append(_whole(path, number, ref, "ann_id"))
            text = sentence.get(key) if isinstance(sentence, dict) else None
            if not isinstance(text, str):
                raise DataError(
                    f"{path}: entry {number} has the sentence {reprlib.repr(sentence)}; expected an object with {key!r}"
                )
            texts.append(" ".join(text.split()).encode("utf-8", "replace"))
    if not image_ids:
        known = ", ".join(sorted(splits)) or "none"
        raise DataError(
            f"{path}: has no expressions of split {split!r}; its splits are {known}; {suggest(split, [*splits, 'all'])}"
        )
    return Expressions(image_ids, annotation_ids, texts)


def _refs(path: str) -> Iterator[Any]:
    """The entries of the list, from a pickle or from JSON, by the first byte."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    sections = section_names(head)
    if sections and "ref_id" not in sections:
        raise DataError(
            f"{path}: is an object with {', '.join(map(repr, sections))}; expected refs(unc).p, or its list as JSON"
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        yield from JsonRows(path)
        return
    refs = read_plain_pickle(path)
    if not isinstance(refs, list):
        raise DataError(f"{path}: holds a {type(refs).__name__}; expected the list of RefCOCO's refs(unc).p")
    yield from refs


def _whole(path: str, number: int, ref: dict[str, Any], key: str) -> int:
    value = ref.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(f"{path}: entry {number} has the {key} {reprlib.repr(value)}; expected a whole number, as RefCOCO has")
