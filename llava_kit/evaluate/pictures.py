"""A dozen of the questions as pictures on disk, for people to look at and to ask about again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from ..image.reader import read_picture
from .run import Answer


def write_pictures(answers: Sequence[Answer], folder: Path, *, number: int = 12) -> None:
    """`1.png` ... and `pictures.json` with question, truth and answers, in turn over the question types.

    Where there are wrong answers one of each type is among them: a page of successes alone would teach nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, answer in enumerate(choose(answers, number), 1):
        name = f"{place}.png"
        read_picture(answer.sample.images[0]).save(folder / name)
        rows.append(
            {
                "file": name,
                "type": answer.groups[0] if answer.groups else "question",
                "question": answer.question,
                "truth": answer.truth,
                "answer": answer.reply,
                "wrong_picture_answer": answer.blind,
                "right": answer.score >= 1,
            }
        )
    (folder / "pictures.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def choose(answers: Sequence[Answer], number: int) -> list[Answer]:
    """`number` answers with exactly one picture: the types in turn, and for each type the first wrong answer second."""
    by_type: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if len(answer.sample.images) == 1 and answer.error is None:
            by_type[answer.groups[0] if answer.groups else ""].append(answer)
    columns = []
    for rows in by_type.values():
        right = [answer for answer in rows if answer.score >= 1]
        wrong = [answer for answer in rows if answer.score < 1]
        columns.append([*right[:1], *wrong[:1], *right[1:number], *wrong[1:number]])
    turns = chain.from_iterable(zip_longest(*columns))
    return [answer for answer in turns if answer is not None][:number]
