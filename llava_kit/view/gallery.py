"""Samples as a page asks for them, by number: a line of the list, all of one sample, one picture. Safe to ask from threads."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from typing import Any

from ..core.conversation import Clip, ClipFolder, ImageRef, Sample
from ..core.source import DataSource
from ..data.clips import spread
from ..errors import LlavaKitError, SampleError, first_line
from ..image.reader import open_clip, picture_size
from ..store.facts import SampleFacts, facts_of
from . import boxes, pictures
from .lens import Lens, is_alone

# Letters of a question and an answer in the list: more than two lines of the widest list show.
SNIPPET = 160
# Frames of a clip that are shown where no recipe says how many are looked at.
FRAMES = 16


class Gallery:
    """The first `count` samples of a source, seen through a lens. `name` is what the page is called."""

    def __init__(self, source: DataSource, count: int | None = None, lens: Lens | None = None, name: str = "samples"):
        self.source, self.lens, self.name = source, lens or Lens(), name
        self.count = len(source) if count is None else min(count, len(source))
        self._lock = threading.Lock()  # a source reads its file from a place that threads must not share

    def about(self) -> dict[str, Any]:
        """What the page must know at once."""
        return {
            "name": self.name,
            "count": self.count,
            "recipe": self.lens.name,
            "note": self.lens.note,
            "tokens": self.lens.maker is not None,
            "tiles": self.lens.plan is not None,
        }

    def sample(self, number: int) -> Sample:
        """Sample `number`. Raises IndexError outside of the gallery, SampleError for whatever is wrong with the row."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        with self._lock:
            try:
                return self.source[number]
            except SampleError:
                raise
            except LlavaKitError as error:
                raise SampleError("bad_row", str(error), sample_id=f"number {number}") from error
            except Exception as error:  # a source of somebody else: the page must outlive it
                told = f"the source failed: {first_line(error)}"
                raise SampleError("source_failed", told, sample_id=f"number {number}") from error

    def row(self, number: int, *, look_for_problems: bool = True) -> dict[str, Any]:
        """One line of the list. Headers of pictures are read only where problems are looked for."""
        try:
            sample = self.sample(number)
        except SampleError as error:
            return bad_row(number, error)
        facts = facts_of(sample, sizes=False)
        messages = sample.conversation.messages
        return {
            **self.facts(number, sample, facts),
            "question": _snippet(next((m.text for m in messages if m.role == "user"), "")),
            "answer": _snippet(next((m.text for m in messages if m.role == "assistant"), "")),
            "problem": self.problem(sample) if look_for_problems else None,
        }

    @staticmethod
    def facts(number: int, sample: Sample, facts: SampleFacts) -> dict[str, Any]:
        """The counts of a sample that filters look at."""
        return {
            "number": number,
            "id": sample.id,
            "source": facts.source,
            "pictures": facts.num_pictures + facts.num_clips,
            "boxes": boxes.count_boxes(sample),
            "turns": facts.num_turns,
            "words": facts.question_words + facts.answer_words,
        }

    def problem(self, sample: Sample) -> dict[str, str] | None:
        """What would keep the sample from being used, as far as headers, boxes and the recipe tell."""
        for image in sample.images:
            try:
                picture_size(image)
            except SampleError as error:
                return _told(error)
        if found := self.lens.problem(sample):
            return {"reason": found[0], "message": found[1]}
        named = [(f"box {box['label']!r}", box["problem"]) for box in boxes.beside(sample)]
        named += [(f"the box in turn {box['turn']}", box["problem"]) for box in boxes.in_text(sample, None)]
        wrong = next(((name, problem) for name, problem in named if problem), None)
        return None if wrong is None else {"reason": "bad_box", "message": " ".join(wrong)}

    def detail(self, number: int) -> dict[str, Any]:
        """All of one sample, ready for JSON."""
        try:
            sample = self.sample(number)
        except SampleError as error:
            empty = {"turns": [], "pictures": [], "captions": [], "boxes": [], "text_boxes": [], "tags": []}
            return {**empty, "number": number, "id": error.sample_id or f"number {number}", "problem": _told(error)}
        alone = is_alone(sample)
        shown = [self._picture(image, alone) for image in sample.images]
        size = next((tuple(one["size"]) for one in shown if one["size"]), None)
        return {
            "number": number,
            "id": sample.id,
            "problem": self.problem(sample),
            "system": sample.conversation.system,
            "turns": [
                {
                    "role": message.role,
                    "parts": [part if isinstance(part, str) else part.index for part in message.parts],
                }
                for message in sample.conversation.messages
            ],
            "pictures": shown,
            "captions": list(sample.annotations.captions),
            "boxes": boxes.beside(sample),
            "text_boxes": boxes.in_text(sample, size),
            "convention": sample.annotations.text_boxes,
            "tags": _tags(sample.tags),
            "tokens": self.lens.tokens(sample),
        }

    def picture(self, number: int, index: int, frame: int = 0, **how: Any) -> tuple[bytes, str]:
        """Picture `index` of sample `number` as bytes and their type. Raises IndexError, SampleError."""
        images = self.sample(number).images
        if not 0 <= index < len(images):
            raise IndexError(index)
        return pictures.encoded(images[index], frame, **how)

    def _picture(self, image: ImageRef, alone: bool) -> dict[str, Any]:
        told: dict[str, Any] = {"name": image.name, "size": None, "problem": None, "cut": None, "frames": None, "clip": False}
        try:
            if isinstance(image, Clip | ClipFolder):
                told["clip"] = True
                count = len(open_clip(image).frames)
                told["num_frames"] = count
                told["frames"] = spread(count, self._frames())
            size = picture_size(image)
        except SampleError as error:
            return {**told, "problem": _told(error)}
        cut = None if told["clip"] else self.lens.cut(size, alone)
        return {**told, "size": list(size), "cut": cut}

    def _frames(self) -> int:
        video = self.lens.plan.options.video if self.lens.plan is not None else None
        return FRAMES if video is None else video.frames


def bad_row(number: int, error: SampleError) -> dict[str, Any]:
    """A row that cannot be read, as a line of the list and as a sample."""
    facts = {"source": "", "pictures": 0, "boxes": 0, "turns": 0, "words": 0, "question": "", "answer": ""}
    return {"number": number, "id": error.sample_id or f"number {number}", "problem": _told(error), **facts}


def _told(error: SampleError) -> dict[str, str]:
    return {"reason": error.reason, "message": error.message}


def _snippet(text: str) -> str:
    words = " ".join(text[: 4 * SNIPPET].split())
    return words if len(words) <= SNIPPET else words[:SNIPPET] + "…"


def _tags(tags: Mapping[str, Any]) -> list[list[str]]:
    """Names and values as text; a value that is no text as JSON, or as Python shows it."""
    return [[name, value if isinstance(value, str) else _as_text(value)] for name, value in tags.items()]


def _as_text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
