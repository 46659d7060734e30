"""The picture world keeps its word: a picture is always the same, nothing set aside leaks, every answer is true."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from pydantic import ValidationError

from llava_kit_shapes import Mix, ShapesOptions, ShapesQuestionsOptions
from llava_kit_shapes.benchmark import ShapesQuestions
from llava_kit_shapes.language import NUMBERS, QUESTION_TYPES, ask, ask_many, captions, describe, reason
from llava_kit_shapes.render import render
from llava_kit_shapes.source import ShapesSource
from llava_kit_shapes.world import COLOURS, LOOKS, PLACES, SET_ASIDE, SHAPES, SIZES, Scene, Thing, generator, make_scene

WORDS = generator  # streams of words are streams of the world


def scenes(count: int, split: str = "test", detail: str = "plain"):
    return [make_scene(3, split, index, LOOKS[detail]) for index in range(count)]


def test_a_picture_is_the_same_each_time_and_in_another_process():
    picture = render(make_scene(7, "train", 41))
    assert (picture == render(make_scene(7, "train", 41))).all()
    code = (
        "import hashlib; from llava_kit_shapes.world import make_scene; from llava_kit_shapes.render import render;"
        "print(hashlib.sha256(render(make_scene(7, 'train', 41)).tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "9", "PYTHONPATH": ":".join(sys.path)},
    )
    import hashlib

    assert other.stdout.strip() == hashlib.sha256(picture.tobytes()).hexdigest()


def test_split_seed_and_index_each_give_another_picture():
    base = make_scene(0, "train", 0)
    for other in (make_scene(1, "train", 0), make_scene(0, "validation", 0), make_scene(0, "train", 1)):
        assert (other.things, other.background) != (base.things, base.background)


@pytest.mark.parametrize("detail", LOOKS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_is_set_aside_is_never_shown_before_the_test(split, detail):
    seen = {thing.combination for scene in scenes(3000, split, detail) for thing in scene.things}
    assert not seen & SET_ASIDE
    assert len(seen) == len(COLOURS) * len(SHAPES) * len(SIZES) - len(SET_ASIDE)


def test_the_test_split_shows_both():
    things = [thing for scene in scenes(1000) for thing in scene.things]
    share = sum(thing.unseen for thing in things) / len(things)
    assert 0.3 < share < 0.4
    assert {thing.combination for thing in things} >= SET_ASIDE


def test_set_aside_is_spread_over_colours_and_sizes():
    assert Counter(colour for colour, _, _ in SET_ASIDE) == dict.fromkeys(COLOURS, 1)
    assert Counter(size for _, _, size in SET_ASIDE) == {"small": 3, "large": 3}
    assert {shape for _, shape, _ in SET_ASIDE} == set(SHAPES)


@pytest.mark.parametrize("detail", LOOKS)
def test_scenes_keep_to_their_bounds(detail):
    look = LOOKS[detail]
    counts = Counter()
    for scene in scenes(600, "train", detail):
        counts[len(scene.things)] += 1
        assert look.long_side[0] <= max(scene.width, scene.height) <= look.long_side[1]
        assert min(scene.width, scene.height) / max(scene.width, scene.height) > look.aspect[0] - 0.02
        assert len({thing.place for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            left, top, width, height = thing.box
            assert left >= 0 <= top
            assert left + width <= scene.width
            assert top + height <= scene.height
        for first in scene.things:
            for second in scene.things:
                if first is not second:
                    assert not overlap(first, second), (scene.index, first, second)
    assert all(90 < counts[number] < 150 for number in range(1, 6))


def overlap(first: Thing, second: Thing) -> bool:
    """Whether the inner discs of the two meet: boxes may touch at a corner, pictures of things may not."""
    return (first.x - second.x) ** 2 + (first.y - second.y) ** 2 < (0.9 * (first.radius + second.radius)) ** 2


@pytest.mark.parametrize("detail", LOOKS)
def test_boxes_hold_their_things_and_nothing_else_does(detail):
    for scene in scenes(150, "train", detail):
        picture = render(scene).astype(int)
        covered = np.zeros(picture.shape[:2], bool)
        for thing in scene.things:
            left, top, width, height = thing.box
            inside = picture[max(0, int(top)) : int(top + height) + 1, max(0, int(left)) : int(left + width) + 1]
            near = (np.abs(inside - thing.tint).max(-1) <= scene.noise + 2).mean()
            assert near > (0.1 if detail == "fine" else 0.2), (scene.index, thing)  # a cross fills the least of its box
            covered[max(0, int(top) - 1) : int(top + height) + 2, max(0, int(left) - 1) : int(left + width) + 2] = True
        slack = sum(abs(value) for value in scene.slope) / 2 + scene.noise + 2
        assert (np.abs(picture - scene.background).max(-1) <= slack)[~covered].all()


def test_the_box_touches_its_thing_on_all_sides():
    for scene in scenes(60, "train"):
        for thing in scene.things:
            alone = Scene(0, "train", 0, scene.width, scene.height, (0, 0, 0), (0.0, 0.0), 0, (thing,))
            rows, cols = np.nonzero(render(alone).max(-1) > 60)
            left, top, width, height = thing.box
            assert abs(cols.min() - left) < 1.5
            assert abs(cols.max() + 1 - left - width) < 1.5
            assert abs(rows.min() - top) < 1.5
            assert abs(rows.max() + 1 - top - height) < 1.5


def pick(scene: Scene, words: str) -> list[Thing]:
    """The things that a phrase such as `small red circle` or `object in the middle` may mean, told from the phrase alone."""
    names = words.split()
    return [
        thing
        for thing in scene.things
        if all(name in (thing.colour, thing.shape, thing.size, thing.place, "object", "in", "the", "a") for name in names)
    ]


def solve(scene: Scene, question: str) -> tuple[str, list[Thing]]:
    """The answer from the words of the question and the scene alone, and the things it rests on. Knows no template's code."""
    text = question.rstrip("?")
    if match := re.fullmatch(r"What (?:is the )?(colour|shape) (?:is|of) the (.+)", text):
        (thing,) = pick(scene, match[2])
        return getattr(thing, match[1]), [thing]
    if text.startswith("How many objects"):
        return NUMBERS[len(scene.things)], list(scene.things)
    if match := re.fullmatch(r"Where (?:in the picture )?is the (.+)", text):
        (thing,) = pick(scene, match[1])
        return thing.place, [thing]
    if match := re.fullmatch(r"(?:Is there|Does the picture show) a (.+)", text):
        colour, shape = match[1].split()
        found = pick(scene, match[1])
        near = [thing for thing in scene.things if colour == thing.colour or shape == thing.shape]
        return ("yes", found) if found else ("no", near)
    match = re.fullmatch(r"Is the (.+) (left of|right of|above|below|smaller than|larger than) the (.+)", text)
    assert match, question
    (first,), (second,) = pick(scene, match[1]), pick(scene, match[3])
    holds = {
        "left of": first.x < second.x,
        "right of": first.x > second.x,
        "above": first.y < second.y,
        "below": first.y > second.y,
        "smaller than": first.radius < second.radius,
        "larger than": first.radius > second.radius,
    }[match[2]]
    return "yes" if holds else "no", [first, second]


@pytest.mark.parametrize("detail", LOOKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_follows_from_the_scene(split, detail):
    for scene in scenes(600, split, detail):
        for question in ask_many(scene, 9, WORDS(3, split, scene.index, 5)):
            answer, things = solve(scene, question.text)
            assert answer == question.answer, (scene, question)
            assert question.unseen == any(thing.unseen for thing in things), (scene, question)
            assert split == "test" or not question.unseen


def test_comparisons_are_clear_to_the_eye():
    for scene in scenes(800):
        question = ask(scene, "comparison", WORDS(0, "test", scene.index, 5))
        if question is None:
            continue
        _, (first, second) = solve(scene, question.text)
        if "than" in question.text:
            assert first.size != second.size
        elif " of " in question.text:
            assert abs(first.x - second.x) > 0.15 * scene.width
        else:
            assert abs(first.y - second.y) > 0.15 * scene.height


def test_no_answer_is_frequent_enough_to_be_guessed():
    answers: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    benchmark = ShapesQuestions(ShapesQuestionsOptions(size=3000))
    for index in range(len(benchmark)):
        tags = benchmark[index].tags
        answers[tags["type"], False][tags["answer"]] += 1
        answers[tags["type"], True][tags["answer"]] += tags["unseen"]
    limits = {"colour": 0.24, "shape": 0.35, "count": 0.27, "position": 0.27, "existence": 0.56, "comparison": 0.56}
    assert {type for type, _ in answers} == set(limits) == set(QUESTION_TYPES)
    for type, limit in limits.items():
        counts = answers[type, False]
        assert 440 <= counts.total() <= 560  # where two things cannot be told apart, a count stands for a comparison
        assert counts.most_common(1)[0][1] / counts.total() < limit, (type, counts)
        assert answers[type, True].total() >= 100


def test_captions_and_descriptions_name_every_thing_and_no_other():
    for scene in scenes(300):
        rng = WORDS(0, "test", scene.index, 5)
        five = captions(scene, rng)
        request, description = describe(scene, rng)
        assert len(five) == len(set(five)) == 5
        assert request
        for text in (*five, description):
            for thing in scene.things:
                assert thing.colour in text
                assert thing.shape in text
                assert thing.place in text or (text != description and thing.size in text)
            for word, attribute in (
                [(c, "colour") for c in COLOURS] + [(s, "shape") for s in SHAPES] + [(p, "place") for p in PLACES]
            ):
                times = len(re.findall(rf"(?<![\w-]){word}(?![\w-])", text))
                there = sum(getattr(thing, attribute) == word for thing in scene.things)
                assert times == there or (attribute == "place" and text != description and times < there), (text, word)


def test_reasoning_ends_in_the_truth():
    for scene in scenes(500):
        question, answer = reason(scene, WORDS(0, "test", scene.index, 6))
        if match := re.fullmatch(r"If every (.+) is taken away, how many objects are left\?", question):
            left = len(scene.things) - len(pick(scene, match[1]))
            assert re.search(rf"So {NUMBERS[left]} (is|are) left\.$", answer)
        else:
            what = re.fullmatch(r"Have all objects the same (colour|shape)\?", question)
            assert what
            same = len({getattr(thing, what[1]) for thing in scene.things}) == 1
            assert answer.endswith("So yes." if same else "So no.")


@pytest.mark.parametrize("task", ["captions", "instruct", "conversation", "detail", "reasoning", "questions"])
def test_the_source_gives_whole_samples(task):
    source = pickle.loads(pickle.dumps(ShapesSource(ShapesOptions(task=task, size=40))))
    for index in range(len(source)):
        sample = source[index]
        assert sample == source[index] or sample.conversation == source[index].conversation
        assert [message.role for message in sample.conversation.messages] == ["user", "assistant"] * (
            len(sample.conversation.messages) // 2
        )
        (image,) = sample.images
        picture = image.render()
        assert picture.dtype == np.uint8
        assert picture.shape == (image.size[1], image.size[0], 3)
    with pytest.raises(IndexError):
        source[40]


def test_the_mix_is_kept():
    source = ShapesSource(ShapesOptions(task="instruct", size=2000, mix=Mix(conversation=6, detail=2, reasoning=1, captions=1)))
    kinds = Counter(source[index].tags["kind"] for index in range(len(source)))
    for kind, share in {"conversation": 0.6, "detail": 0.2, "reasoning": 0.1, "captions": 0.1}.items():
        assert abs(kinds[kind] / 2000 - share) < 0.04
    with pytest.raises(ValidationError, match="above 0"):
        Mix(conversation=0, detail=0, reasoning=0)


def test_record_is_what_coco_would_tell():
    source = ShapesSource(ShapesOptions(task="captions", size=3))
    record = source.record(2)
    scene = source.scene(2)
    assert len(record["captions"]) == 5
    assert [tuple(one["bbox"]) for one in record["instances"]] == [
        tuple(round(value, 2) for value in thing.box) for thing in scene.things
    ]


def test_fingerprint_tells_sources_apart():
    first, second = (ShapesSource(ShapesOptions(task="captions", seed=seed)).fingerprint() for seed in (0, 1))
    assert first != second


def test_the_benchmark_groups_by_type_and_by_what_was_seen():
    benchmark = ShapesQuestions(ShapesQuestionsOptions(size=60))
    for index in range(len(benchmark)):
        sample = benchmark[index]
        first, *rest = benchmark.groups(sample)
        assert first == sample.tags["type"]
        assert ("unseen" in rest) == sample.tags["unseen"]
