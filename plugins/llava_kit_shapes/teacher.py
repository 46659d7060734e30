"""The teacher of the picture world: writes about a picture that it never saw, by rules, from captions and boxes alone.

It is told what GPT-4 was told, and says only what follows from it. What it may take for granted are the laws of the world: each
caption names every thing by colour and shape, no colour and no place comes twice, and the two sizes never meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.teacher import Teacher, TeacherAnswer, TeacherError, TeacherRequest

from . import ShapesTeacherOptions
from .language import Question, Rng, ask, ask_different, compare, conclude, objects
from .world import COLOURS, LOOKS, PLACES, SHAPES, SIZES, Scene, Thing, extent

NAME = "shapes-teacher-1"
_ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}
# A box's centre lies this near to the centre of its place, in shares of a side: 0.02 of jitter, and what a large thing is moved
# to stay in the picture; half the way to the next place is 0.155.
_NEAR = 0.12


class ShapesTeacher(Teacher):
    """Reads the annotations of a request, never its prompt; draws from the request's seed."""

    def __init__(self, options: ShapesTeacherOptions):
        self.options = options

    @property
    def name(self) -> str:
        return NAME

    async def answer(self, request: TeacherRequest) -> TeacherAnswer:
        """The answer, in the form that the prompts ask for. Raises TeacherError for captions that this world has not."""
        told = read_told(request.annotations)
        # Two pictures with one seed are told of in different ways too.
        number = crc32(repr((request.type, request.annotations.captions)).encode("utf-8", "surrogatepass"))
        rng = np.random.Generator(np.random.PCG64((request.seed % 2**64, number)))
        if request.type == "detail":
            text = detail(told, rng)
        elif request.type == "reasoning":
            text = _blocks([reasoning(told, rng)])
        else:
            asked = converse(told, self.options.turns, rng)
            text = _blocks([(question.text, question.answer) for question in asked])
        return TeacherAnswer(text, NAME)


@dataclass(frozen=True)
class Told:
    """What is known of a picture: all its things; and `placed`, those whose place is known. A word not told is empty."""

    scene: Scene
    placed: Scene


def read_told(annotations: Annotations) -> Told:
    """What captions say together, completed by the boxes.

    Raises:
        TeacherError: there are no captions, or they are not of this world, or they contradict one another.
    """
    known: dict[str, dict[str, str]] = {}
    for number, caption in enumerate(annotations.captions):
        named = _read_caption(caption)
        if number and named.keys() != known.keys():
            raise _malformed(f"{caption!r} names other colours than the captions before it")
        for colour, words in named.items():
            _add(known.setdefault(colour, {}), words, caption)
    if not known:
        raise _malformed("there are no captions")
    for box in annotations.boxes:
        colour, _, shape = box.label.partition(" ")
        if colour not in known or known[colour]["shape"] != shape:
            raise _malformed(f"a box is named {box.label!r}, which no caption names")
        for attribute, word in _measure(box, shape).items():
            known[colour].setdefault(attribute, word)
    things = tuple(_thing(words) for words in known.values())
    places = [thing.place for thing in things if thing.place]
    if len(places) != len(set(places)):
        raise _malformed("two things are said to be in one place")
    return Told(_scene(things), _scene(tuple(thing for thing in things if thing.place)))


def converse(told: Told, count: int, rng: Rng) -> list[Question]:
    """Up to `count` questions of the six types. Where a place must be known, things without one are not asked about."""

    def ask_one(type: str) -> Question | None:
        scene = told.scene if type in ("count", "existence") else told.placed
        return ask(scene, type, rng) if scene.things else None

    # Of a picture with one thing many questions are the same; so more are drawn than are wanted.
    return ask_different(ask_one, 4 * count, rng)[:count]


def detail(told: Told, rng: Rng) -> str:
    """All things with all that is known of them, in random order, and how up to two pairs of them stand to each other."""
    things = [told.scene.things[number] for number in rng.permutation(len(told.scene.things))]
    count = objects(len(things))
    first = (_counted(things), f"There {_form(things)} {count}.", f"I see {count}.")
    sentences = [first[int(rng.integers(len(first)))], *map(_sentence, things)]
    placed = [thing for thing in things if thing.place]
    for one, other in list(pairwise(placed))[: int(rng.integers(1, 3))]:
        relations = [relation for relation, holds in compare(one, other) if holds]
        relation = relations[int(rng.integers(len(relations)))]
        sentences.append(f"The {one.colour} object is {relation} the {other.colour} object.")
    if len(things) == 1:
        relation = ("left of", "right of", "above", "below")[int(rng.integers(4))]
        sentences.append(f"I see nothing {relation} the {things[0].colour} object.")
    return " ".join(sentences)


def reasoning(told: Told, rng: Rng) -> tuple[str, str]:
    """A question that takes a step of thought, and its answer: what there is, thing by thing, and what follows."""
    question, things, conclusion = conclude(told.scene, rng)
    return question, " ".join([_counted(things), *map(_sentence, things), conclusion])


def _counted(things: Sequence[Thing]) -> str:
    return f"There {_form(things)} {objects(len(things))} in the picture."


def _form(things: Sequence[Thing]) -> str:
    return "is" if len(things) == 1 else "are"


def _sentence(thing: Thing) -> str:
    where = f"In the {thing.place} is" if thing.place else "There is"
    return " ".join(word for word in (where, "a", thing.size, thing.colour, thing.shape) if word) + "."


def _blocks(turns: list[tuple[str, str]]) -> str:
    return "\n\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}\n===" for question, answer in turns)


def _read_caption(caption: str) -> dict[str, dict[str, str]]:
    """Colour -> what a caption says of the thing of this colour."""
    named: dict[str, dict[str, str]] = {}
    for part in caption.split(";"):
        words: dict[str, str] = {}
        for word in part.split():
            attribute = next((name for name, known in _ATTRIBUTES.items() if word in known), None)
            if attribute is None or attribute in words:
                raise _malformed(
                    f"{caption[:80]!r}: found {word[:40]!r}; expected a colour, a shape, and perhaps a size or place"
                )
            words[attribute] = word
        if "colour" not in words or "shape" not in words:
            raise _malformed(f"{caption[:80]!r}: {part.strip()[:40]!r} names no colour or no shape")
        if words["colour"] in named:
            raise _malformed(f"{caption[:80]!r} names two {words['colour']} things")
        named[words["colour"]] = words
    return named


def _add(known: dict[str, str], words: dict[str, str], caption: str) -> None:
    for attribute, word in words.items():
        if known.setdefault(attribute, word) != word:
            raise _malformed(f"{caption!r} says {word!r} where another says {known[attribute]!r}")


def _measure(box: Box, shape: str) -> dict[str, str]:
    """Place and size as the box shows them; what it does not show with certainty is left out."""
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    found = {}
    for place, (across, down) in PLACES.items():
        if abs(x - across) < _NEAR and abs(y - down) < _NEAR:
            found["place"] = place
    half_width, up, down = extent(shape, 1.0)
    # Radii are shares of the mean side, sqrt(width * height), so a box's area in shares tells them whatever the picture's size.
    area = max(0.0, (box.right - box.left) * (box.bottom - box.top))
    radius = (area / (2 * half_width * (up + down))) ** 0.5
    for look in LOOKS.values():
        for size, (low, high) in look.radius.items():
            if 0.96 * low < radius < 1.04 * high:  # room for boxes that were rounded to three decimals
                found["size"] = size
    return found


def _thing(words: dict[str, str]) -> Thing:
    """A thing of words alone: nobody here knows where it is to the pixel."""
    colour, shape, size, place = (words.get(attribute, "") for attribute in _ATTRIBUTES)
    return Thing(colour, shape, size, place, x=0.0, y=0.0, radius=0.0, tint=(0, 0, 0))


def _scene(things: tuple[Thing, ...]) -> Scene:
    return Scene(0, "train", 0, 0, 0, (0, 0, 0), (0.0, 0.0), 0, things)


def _malformed(reason: str) -> TeacherError:
    return TeacherError("malformed", f"teacher 'shapes' knows the picture world alone: {reason}", transient=False)
