"""The picture world as a data source: pictures and words are made when a row is asked for, and kept nowhere."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import accumulate
from typing import Any

from llava_kit import Conversation, DataSource, ImagePixels, ImageSlot, Message, Sample
from llava_kit.core.annotations import Annotations, box_of_pixels

from . import ShapesOptions
from .language import QUESTION_TYPES, ask, ask_many, captions, describe, reason
from .render import render
from .world import LOOKS, Scene, generator, make_scene

# Streams of the words, apart from the streams of scene (0) and pixels (1): a scene keeps its captions whatever the task.
_CAPTIONS, _WORDS, _KIND = 2, 3, 4
# What stands in the place of a question where only a caption is wanted; templates for captions leave it out.
_CAPTION_REQUEST = "What is in the picture?"


class ShapesSource(DataSource):
    """Row `index` is made from (seed, split, index): the same on every machine, and no row costs memory."""

    def __init__(self, options: ShapesOptions):
        self.options = options
        kinds = options.mix.model_dump() if options.task == "instruct" else {options.task: 1.0}
        self._kinds = [kind for kind, weight in kinds.items() if weight > 0]
        total = sum(kinds.values())
        self._edges = [edge / total for edge in accumulate(kinds[kind] for kind in self._kinds)]

    def __len__(self) -> int:
        return self.options.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.options.size:
            raise IndexError(f"row {index} of {self.options.size}")
        kind = self._kind(index)
        if kind == "questions":
            return self._question(index)
        scene = self.scene(index)
        if kind == "captions":
            five = self.captions(index)
            turns = [(_CAPTION_REQUEST, five[int(self._rng(index, _WORDS).integers(len(five)))])]
        elif kind == "detail":
            turns = [describe(scene, self._rng(index, _WORDS))]
        elif kind == "reasoning":
            turns = [reason(scene, self._rng(index, _WORDS))]
        else:
            turns = [(q.text, q.answer) for q in ask_many(scene, self.options.turns, self._rng(index, _WORDS))]
        return self._sample(index, scene, turns, {"kind": kind})

    def fingerprint(self) -> str:
        # Without annotations the text is what it was before there were any: runs of then can be resumed.
        return f"shapes-1 {self.options.model_dump_json(exclude=None if self.options.annotations else {'annotations'})}"

    def scene(self, index: int) -> Scene:
        """What is in picture `index`."""
        comparison = self.options.task == "questions" and _type(index) == "comparison"
        look = LOOKS[self.options.detail]
        return make_scene(self.options.seed, self.options.split, index, look, min_things=2 if comparison else 1)

    def captions(self, index: int) -> list[str]:
        """The five captions of picture `index`."""
        return captions(self.scene(index), self._rng(index, _CAPTIONS))

    def annotations(self, index: int) -> Annotations:
        """All that a teacher is told of picture `index`: its five captions, and a box for each thing, named `colour shape`."""
        return self._annotations(index, self.scene(index))

    def record(self, index: int) -> dict[str, Any]:
        """Picture `index` as COCO tells it: size, five captions, objects with category and box [left, top, width, height]."""
        scene = self.scene(index)
        return {
            "id": f"{self.options.split}-{index}",
            "width": scene.width,
            "height": scene.height,
            "captions": self.captions(index),
            "instances": [
                {
                    "category": f"{thing.colour} {thing.shape}",
                    "bbox": [round(value, 2) for value in thing.box],
                    "attributes": {"colour": thing.colour, "shape": thing.shape, "size": thing.size, "place": thing.place},
                }
                for thing in scene.things
            ],
        }

    def _annotations(self, index: int, scene: Scene) -> Annotations:
        size = (scene.width, scene.height)
        boxes = (box_of_pixels(f"{thing.colour} {thing.shape}", thing.box[:2], thing.box[2:], size) for thing in scene.things)
        return Annotations(tuple(captions(scene, self._rng(index, _CAPTIONS))), tuple(boxes))

    def _question(self, index: int) -> Sample:
        """One question alone. Types take turns, so that each has its sixth of the rows."""
        scene, rng = self.scene(index), self._rng(index, _WORDS)
        question = ask(scene, _type(index), rng)
        assert question is not None  # `scene` gives a comparison its two things
        tags = {"kind": "questions", "type": question.type, "answer": question.answer, "unseen": question.unseen}
        return self._sample(index, scene, [(question.text, question.answer)], tags)

    def _sample(self, index: int, scene: Scene, turns: list[tuple[str, str]], tags: dict[str, Any]) -> Sample:
        name = f"{self.options.split}-{index}"
        messages = []
        for number, (request, answer) in enumerate(turns):
            parts = (ImageSlot(0), f"\n{request}") if number == 0 else (request,)
            messages += [Message("user", parts), Message("assistant", (answer,))]
        picture = ImagePixels(partial(render, scene), (scene.width, scene.height), name)
        told = self._annotations(index, scene) if self.options.annotations else Annotations()
        return Sample(f"shapes/{tags['kind']}/{name}", Conversation(tuple(messages)), (picture,), tags, told)

    def _kind(self, index: int) -> str:
        if len(self._kinds) == 1:
            return self._kinds[0]
        return self._kinds[min(bisect_right(self._edges, self._rng(index, _KIND).random()), len(self._kinds) - 1)]

    def _rng(self, index: int, purpose: int):
        return generator(self.options.seed, self.options.split, index, purpose)


def _type(index: int) -> str:
    return QUESTION_TYPES[index % len(QUESTION_TYPES)]
