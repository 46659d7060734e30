"""Answers into rows of training data, in the order of the source whatever the order in which they came."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..core.annotations import Annotations
from ..core.conversation import Clip, ClipFolder, Conversation, ImageSlot, Message, Sample
from ..core.source import DataSource
from ..core.teacher import TeacherRequest
from ..errors import SampleError
from ..store.pictures import PictureStore, picture_file
from ..store.row import row_of
from .answers import Answers
from .judge import fingerprint
from .parse import Rejected
from .plan import Asking, Plan, Settled, Skipped, Task

ROWS, REJECTED, SKIPPED, FAILED = "data.jsonl", "rejected.jsonl", "skipped.jsonl", "failed.jsonl"


@dataclass
class Written:
    """What stands in the folder: rows by type, answers that were not taken by reason, tasks without an answer."""

    rows: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    skipped: list[Skipped] = field(default_factory=list)


class Writer:
    """Writes data.jsonl, rejected.jsonl and images/; both files appear when they are whole."""

    def __init__(self, folder: Path, asking: Asking, annotations: bool, duplicates: str):
        self.folder, self.asking = folder, asking
        self._annotations, self._duplicates = annotations, duplicates
        self._seen: set[bytes] = set()
        self._picture: tuple[int, str] | None = None
        self._unfinished = folder / "unfinished"
        self._pictures = PictureStore(folder, self._unfinished)
        self.written = Written()

    def write(self, plan: Plan, source: DataSource, answers: Answers, show: Callable[..., None]) -> Written:
        """All rows whose answers are here."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir(parents=True)
        rows, rejected = self._unfinished / ROWS, self._unfinished / REJECTED
        with _text_file(rows) as to, _text_file(rejected) as aside:
            index, sample = -1, None
            for number, task in enumerate(plan):
                if sample is None or task.index != index:
                    index, sample = task.index, source[task.index]
                    if self._duplicates == "picture":
                        self._seen.clear()
                settled = self.asking.settle(task, sample, answers.get)
                if isinstance(settled, TeacherRequest):
                    self.written.unanswered += 1
                else:
                    self._one(task, sample, settled, to, aside)
                show(number + 1, len(plan))
        os.replace(rows, self.folder / ROWS)
        os.replace(rejected, self.folder / REJECTED)
        shutil.rmtree(self._unfinished)
        return self.written

    def _one(self, task: Task, sample: Sample, settled: Settled, to: IO[str], aside: IO[str]) -> None:
        rejected = list(settled.rejected)
        if settled.turns is not None:
            mark = fingerprint(settled.turns)
            if self._duplicates != "keep" and mark in self._seen:
                rejected.append((settled.request, settled.answer, Rejected("duplicate", "the same text stood before")))
            else:
                self._seen.add(mark)
                self._row(task, sample, settled, to)
        for request, answer, error in rejected:
            _count(self.written.rejected, error.reason)
            told = {"id": _name(task, sample), "reason": error.reason, "found": error.what, "key": request.key}
            _line(aside, {**told, "model": answer.model, "text": answer.text})

    def _row(self, task: Task, sample: Sample, settled: Settled, to: IO[str]) -> None:
        try:
            picture = self._picture_of(task.index, sample)
        except SampleError as error:
            self.written.skipped.append(Skipped(_name(task, sample), error.reason, error.message))
            return
        _line(to, row_of(self._sample(task, sample, settled), [picture]))
        _count(self.written.rows, task.type)

    def _picture_of(self, index: int, sample: Sample) -> str:
        if self._picture is None or self._picture[0] != index:
            ref = sample.images[0]
            assert not isinstance(ref, Clip | ClipFolder)  # `look_through` left them out
            self._picture = index, self._pictures.add(picture_file(ref))
        return self._picture[1]

    def _sample(self, task: Task, sample: Sample, settled: Settled) -> Sample:
        """The conversation, with who wrote it and from what."""
        assert settled.turns is not None
        turns = settled.turns
        if task.type == "detail":
            turns = ((self.asking.question(task, sample), turns[0][1]),)
        messages: list[Message] = []
        for number, (question, answer) in enumerate(turns):
            parts = (ImageSlot(0), f"\n{question}") if number == 0 else (question,)
            messages += [Message("user", parts), Message("assistant", (answer,))]
        provenance = {
            "teacher": self.asking.teacher,
            "model": settled.answer.model,
            "prompt": self.asking.prompts.digests[task.type][:12],
            "key": settled.request.key,
            "seed": settled.request.seed,
            "sample": sample.id,
        }
        # Of the other tags of the picture's old row nothing is kept: they are about its old words.
        tags = {
            "source": sample.tags.get("source", self.asking.options.source.type),
            "kind": task.type,
            "provenance": provenance,
        }
        told = Annotations(sample.annotations.captions, sample.annotations.boxes) if self._annotations else Annotations()
        return Sample(_name(task, sample), Conversation(tuple(messages)), sample.images[:1], tags, told)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A file of JSON lines, or none where there is nothing to say."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if not lines:
        path.unlink(missing_ok=True)
        return
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    os.replace(unfinished, path)


def _name(task: Task, sample: Sample) -> str:
    return f"{sample.id}/{task.type}" + (f"-{task.turn + 1}" if task.turn else "")


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _text_file(path: Path) -> IO[str]:
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _line(file: IO[str], row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False))
    file.write("\n")
