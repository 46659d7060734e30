"""What is said about a scene: five captions, short questions of six types, a detailed description, a piece of reasoning.

Every answer follows from the scene with certainty, and every question points to one thing only. The words are few and the
sentences short on purpose: a turn costs a dozen tokens, so one picture can carry seven of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .world import COLOURS, PLACES, SHAPES, Scene, Thing

QUESTION_TYPES = ("colour", "shape", "count", "position", "existence", "comparison")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
DESCRIBE = ("Describe the picture in detail.", "What can be seen in the picture?")
Rng = np.random.Generator


@dataclass(frozen=True)
class Question:
    """A question with its answer. `unseen`: the answer rests on a thing whose combination was set aside for the test split."""

    type: str
    text: str
    answer: str
    unseen: bool


def ask(scene: Scene, type: str, rng: Rng) -> Question | None:
    """Return a question of one of `QUESTION_TYPES`, or None where the scene has none (a comparison needs two things)."""
    return _ASK[type](scene, rng)


def ask_many(scene: Scene, count: int, rng: Rng) -> list[Question]:
    """Return up to `count` different questions about the scene, in random order."""
    return ask_different(lambda type: ask(scene, type, rng), count, rng)


def ask_different(ask_one: Callable[[str], Question | None], count: int, rng: Rng) -> list[Question]:
    """Return up to `count` different questions of `ask_one(type)`: rounds of every type once, existence and comparison twice.

    These two take the most steps of thought (bind colour and shape; find two things, then weigh them) and are learnt last.
    """
    questions: dict[str, Question] = {}
    asked = (*QUESTION_TYPES, "existence", "comparison")
    order: list[str] = []
    while len(order) < 2 * count:
        order += [asked[number] for number in rng.permutation(len(asked))]
    for type in order:
        question = ask_one(type)
        if question is not None:
            questions.setdefault(question.text, question)
        if len(questions) == count:
            break
    return list(questions.values())


def captions(scene: Scene, rng: Rng) -> list[str]:
    """Return five captions, all different; each names the things in an order of its own, each by its place or colour first.

    After that first word, which nobody could guess, every word must be read off the picture. A caption in a fixed order would
    let the model learn the language of captions first and look later.
    """
    forms = (
        lambda t: f"{t.place} {t.colour} {t.shape}",
        lambda t: f"{t.place} {t.shape} {t.colour}",
        lambda t: f"{t.colour} {t.shape} {t.place}",
        lambda t: f"{t.colour} {t.place} {t.shape}",
        lambda t: f"{t.colour} {t.size} {t.shape}",
    )
    told = []
    for opening in rng.permutation(len(forms)):  # no two captions begin in the same form, so no two are the same
        first, *others = _shuffled(scene, rng)
        told.append("; ".join([forms[opening](first), *(_pick(rng, forms)(thing) for thing in others)]))
    return told


def describe(scene: Scene, rng: Rng) -> tuple[str, str]:
    """Return (request, detailed description)."""
    form = "is" if len(scene.things) == 1 else "are"
    sentences = [f"There {form} {objects(len(scene.things))} on a dark ground."]
    sentences += [f"In the {t.place} is a {t.size} {t.colour} {t.shape}." for t in _shuffled(scene, rng)]
    return _pick(rng, DESCRIBE), " ".join(sentences)


def reason(scene: Scene, rng: Rng) -> tuple[str, str]:
    """Return (question, answer that reasons step by step and ends in a conclusion)."""
    question, things, conclusion = conclude(scene, rng)
    return question, f"I see: {', '.join(_words(t) for t in things)}. {conclusion}"


def conclude(scene: Scene, rng: Rng) -> tuple[str, list[Thing], str]:
    """Return (question, the things in the order in which they are looked at, conclusion). Sizes may be unknown (empty)."""
    things = _shuffled(scene, rng)
    if rng.random() < 0.5:
        thing = things[0]
        parts = [
            (f"{thing.size} object", [t for t in things if t.size != thing.size]),
            (f"{thing.colour} object", [t for t in things if t.colour != thing.colour]),
            (thing.shape, [t for t in things if t.shape != thing.shape]),
        ]
        name, rest = _pick(rng, parts if all(t.size for t in things) else parts[1:])
        left = ", ".join(_words(t) for t in rest) or "nothing"
        form = "is" if len(rest) == 1 else "are"
        question = f"If every {name} is taken away, how many objects are left?"
        return question, things, f"Without every {name}: {left}. So {NUMBERS[len(rest)]} {form} left."
    what, values = _pick(rng, (("colour", {t.colour for t in things}), ("shape", {t.shape for t in things})))
    question = f"Have all objects the same {what}?"
    return question, things, f"So {'yes' if len(values) == 1 else 'no'}."


def compare(first: Thing, second: Thing) -> list[tuple[str, bool]]:
    """Every comparison of where the two stand, with its truth: for each true one its opposite is there.

    Places alone: size words are in the captions, but which of two sizes is the larger took longer to learn than all else.
    """
    (x, y), (other_x, other_y) = PLACES[first.place], PLACES[second.place]
    facts = []
    for less, more, mine, theirs in (("left of", "right of", x, other_x), ("above", "below", y, other_y)):
        if mine != theirs:
            facts += [(less, mine < theirs), (more, mine > theirs)]
    return facts


def _ask_attribute(scene: Scene, rng: Rng, type: str, begin: str, attribute: str) -> Question:
    """A question for one attribute of a random thing, named by its others: no colour or place comes twice in a picture."""
    thing = _shuffled(scene, rng)[0]
    names = {
        f"the {thing.colour} object": ("colour",),
        f"the {thing.colour} {thing.shape}": ("colour", "shape"),
        f"the object in the {thing.place}": ("place",),
        f"the {thing.shape} in the {thing.place}": ("shape", "place"),
    }
    name = _pick(rng, [name for name, told in names.items() if attribute not in told])
    return Question(type, f"{begin} {name}?", getattr(thing, attribute), thing.unseen)


def _ask_count(scene: Scene, rng: Rng) -> Question | None:
    text = "How many objects are there?"
    unseen = any(thing.unseen for thing in scene.things)
    return Question("count", text, NUMBERS[len(scene.things)], unseen)


def _ask_existence(scene: Scene, rng: Rng) -> Question | None:
    pairs = {(thing.colour, thing.shape) for thing in scene.things}
    if rng.random() < 0.5:
        colour, shape = _pick(rng, sorted(pairs))
        answer, witnesses = "yes", [t for t in scene.things if (t.colour, t.shape) == (colour, shape)]
    else:
        # Half of the absent pairs share the colour or the shape of something that is there: knowing the words of the
        # picture is not enough, they must be bound together.
        absent = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in pairs]
        thing = _pick(rng, scene.things)
        near = [(colour, shape) for colour, shape in absent if colour == thing.colour or shape == thing.shape]
        colour, shape = _pick(rng, near if rng.random() < 0.5 else absent)
        answer, witnesses = "no", [t for t in scene.things if t.colour == colour or t.shape == shape]
    text = f"Is there a {colour} {shape}?"
    return Question("existence", text, answer, any(thing.unseen for thing in witnesses))


def _ask_comparison(scene: Scene, rng: Rng) -> Question | None:
    if len(scene.things) < 2:
        return None
    first, second = _shuffled(scene, rng)[:2]
    relation, holds = _pick(rng, compare(first, second))
    text = f"Is the {first.colour} object {relation} the {second.colour} object?"
    return Question("comparison", text, "yes" if holds else "no", first.unseen or second.unseen)


_ASK = {
    "colour": partial(_ask_attribute, type="colour", begin="What colour is", attribute="colour"),
    "shape": partial(_ask_attribute, type="shape", begin="What shape is", attribute="shape"),
    "count": _ask_count,
    "position": partial(_ask_attribute, type="position", begin="Where is", attribute="place"),
    "existence": _ask_existence,
    "comparison": _ask_comparison,
}


def objects(count: int) -> str:
    """`one object`, `two objects`."""
    return f"{NUMBERS[count]} object{'' if count == 1 else 's'}"


def _words(thing: Thing) -> str:
    """A thing's size, where it is known, its colour and shape."""
    return f"{thing.size} {thing.colour} {thing.shape}".lstrip()


def _shuffled(scene: Scene, rng: Rng) -> list[Thing]:
    return [scene.things[number] for number in rng.permutation(len(scene.things))]


def _pick(rng: Rng, choices: Sequence):
    return choices[int(rng.integers(len(choices)))]
