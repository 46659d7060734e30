"""The picture world's teacher keeps its word: all that it says of a picture is true, though it never saw one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import pytest

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.teacher import RESPONSE_TYPES, ResponseType, TeacherError, TeacherRequest
from llava_kit_shapes import ShapesOptions, ShapesTeacherOptions
from llava_kit_shapes.language import NUMBERS, QUESTION_TYPES
from llava_kit_shapes.source import ShapesSource
from llava_kit_shapes.teacher import NAME, ShapesTeacher
from llava_kit_shapes.tokenizer import build_tokenizer
from llava_kit_shapes.world import PLACES, Scene, Thing

TEACHER = ShapesTeacher(ShapesTeacherOptions())
BLOCKS = re.compile(r"(?:Question:\n[^\n]+\n===\nAnswer:\n[^\n]+\n===(?:\n\n|$))+")


def tell(annotations: Annotations, type: ResponseType, seed: int = 0) -> str:
    """The teacher's answer. A conversation is told captions alone, as in the paper."""
    told = Annotations(annotations.captions) if type == "conversation" else annotations
    answer = asyncio.run(TEACHER.answer(TeacherRequest("key", type, (), told, seed)))
    assert (answer.model, answer.finish) == (NAME, "stop")
    return answer.text


def blocks(text: str) -> list[tuple[str, str]]:
    """The questions and answers, read as strictly as the prompts ask for them."""
    assert BLOCKS.fullmatch(text), text
    return re.findall(r"Question:\n([^\n]+)\n===\nAnswer:\n([^\n]+)\n===", text)


def meant(scene: Scene, phrase: str) -> list[Thing]:
    """The things of the scene that `small red circle` or `object in the middle` may mean."""
    words = [word for word in phrase.split() if word not in ("the", "a", "in", "object", "objects")]
    return [thing for thing in scene.things if all(word in (*thing.combination, thing.place) for word in words)]


def one(scene: Scene, phrase: str) -> Thing:
    (thing,) = meant(scene, phrase)
    return thing


def holds(first: Thing, relation: str, second: Thing) -> bool:
    (x, y), (other_x, other_y) = PLACES[first.place], PLACES[second.place]
    return {"left of": x < other_x, "right of": x > other_x, "above": y < other_y, "below": y > other_y}[relation]


def truth(scene: Scene, question: str) -> tuple[str, str]:
    """Type and true answer of a short question, from its words and the scene alone."""
    if match := re.fullmatch(r"What (colour|shape) is the (.+)\?", question):
        return match[1], getattr(one(scene, match[2]), match[1])
    if match := re.fullmatch(r"Where is the (.+)\?", question):
        return "position", one(scene, match[1]).place
    if question == "How many objects are there?":
        return "count", NUMBERS[len(scene.things)]
    if match := re.fullmatch(r"Is there a (\w+ \w+)\?", question):
        return "existence", "yes" if meant(scene, match[1]) else "no"
    match = re.fullmatch(r"Is the (.+) (left of|right of|above|below) the (.+)\?", question)
    assert match, question
    return "comparison", "yes" if holds(one(scene, match[1]), match[2], one(scene, match[3])) else "no"


def check_detail(scene: Scene, text: str) -> None:
    count, *sentences = re.findall(r"[^.]+\.", text)
    named = []
    assert NUMBERS[len(scene.things)] in count.split() or NUMBERS[len(scene.things)] in count.rstrip(".").split()
    for sentence in sentences:
        if match := re.fullmatch(r" In the (\S+) is a (\w+ \w+ \w+)\.", sentence):
            thing = one(scene, match[2])
            assert thing.place == match[1]
            named.append(thing)
        elif re.fullmatch(r" I see nothing (left of|right of|above|below) the \w+ object\.", sentence):
            assert len(scene.things) == 1
        else:
            match = re.fullmatch(r" The (.+) is (left of|right of|above|below) the (.+)\.", sentence)
            assert match, sentence
            assert holds(one(scene, match[1]), match[2], one(scene, match[3]))
    assert sorted(map(repr, named)) == sorted(map(repr, scene.things))


def check_reasoning(scene: Scene, question: str, answer: str) -> None:
    told = re.findall(r"In the (\S+) is a (\w+ \w+ \w+)\.", answer)
    assert sorted(told) == sorted((t.place, f"{t.size} {t.colour} {t.shape}") for t in scene.things)
    assert answer.startswith(("There is one object in", f"There are {NUMBERS[len(scene.things)]} objects in"))
    if match := re.fullmatch(r"If every (.+) is taken away, how many objects are left\?", question):
        taken = meant(scene, match[1])
        left = [thing for thing in scene.things if thing not in taken]
        assert taken
        listed = re.search(rf"Without every {match[1]}: ([^.]+)\. So {NUMBERS[len(left)]} (is|are) left\.$", answer)
        assert listed, answer
        names = [f"{t.size} {t.colour} {t.shape}" for t in left] or ["nothing"]
        assert sorted(listed[1].split(", ")) == sorted(names)
    else:
        match = re.fullmatch(r"Have all objects the same (colour|shape)\?", question)
        assert match, question
        assert answer.endswith("So yes." if len({getattr(thing, match[1]) for thing in scene.things}) == 1 else "So no.")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("look", ["plain", "fine"])
def test_all_that_it_says_is_true_of_pictures_that_it_never_saw(split, look):
    source = ShapesSource(ShapesOptions(task="captions", split=split, detail=look, size=400, annotations=True))
    asked: Counter[str] = Counter()
    for index in range(len(source)):
        scene, annotations = source.scene(index), source[index].annotations
        types = set()
        turns = blocks(tell(annotations, "conversation", index))
        assert len(turns) == len(dict(turns)) == 8  # no question comes twice
        for question, answer in turns:
            type, right = truth(scene, question)
            assert answer == right, (scene, question, answer)
            types.add(type)
        asked.update(types)
        description = tell(annotations, "detail", index)
        check_detail(scene, description)
        ((question, answer),) = blocks(tell(annotations, "reasoning", index))
        check_reasoning(scene, question, answer)
        # What `data generate` takes by default: 8 words of a conversation's answers, 15 of the others.
        assert min(len(description.split()), len(answer.split())) >= 15
    # One thing alone leaves nothing to compare and little to ask: a fifth of the pictures.
    assert set(asked) == set(QUESTION_TYPES)
    assert min(asked.values()) > 0.7 * len(source), asked


def test_the_model_has_a_word_for_all_that_it_says():
    tokenizer, source = build_tokenizer(), ShapesSource(ShapesOptions(task="captions", size=200, annotations=True))
    for index in range(len(source)):
        for type in RESPONSE_TYPES:
            text = tell(source[index].annotations, type, index)
            said = [part for pair in blocks(text) for part in pair] if type != "detail" else [text]
            for part in said:
                pieces = re.findall(r"[\w-]+|[^\w\s]", part)
                assert len(tokenizer.encode(part, add_special_tokens=False)) == len(pieces), part


def test_the_same_request_has_the_same_answer_and_another_seed_another():
    annotations = ShapesSource(ShapesOptions(task="captions", size=50)).annotations(3)
    for type in RESPONSE_TYPES:
        assert tell(annotations, type, 5) == tell(annotations, type, 5)
        assert len({tell(annotations, type, seed) for seed in range(20)}) > 5


def test_what_was_not_told_is_not_asked_and_not_said():
    told = Annotations(("red small circle; top-left cross blue",) * 5)
    for seed in range(100):
        text = tell(told, "conversation", seed)
        assert "Where is the red" not in text
        assert " of the red" not in text
        assert "Is the red" not in text
        description = tell(told, "detail", seed)
        assert "There is a small red circle." in description
        assert "In the top-left is a blue cross." in description
        assert "red object" not in description
        assert "every small" not in tell(told, "reasoning", seed)
    # Nothing is placed: three types are left, and none of them is a guess.
    told = Annotations(("red small circle",))
    assert {truth_type for question, _ in blocks(tell(told, "conversation")) for truth_type in [question.split()[0]]} == {
        "How",
        "Is",
    }


def test_a_box_completes_what_captions_leave_open_and_doubtful_boxes_do_not():
    captions = ("red small circle; blue small cross",)
    clear = Annotations(captions, (Box("red circle", 0.1, 0.1, 0.3, 0.3), Box("blue cross", 0.4, 0.4, 0.6, 0.6)))
    assert "In the top-left is a small red circle." in tell(clear, "detail")
    doubtful = Annotations(captions, (Box("red circle", 0.2, 0.2, 0.5, 0.5),))
    assert "There is a small red circle." in tell(doubtful, "detail")
    unsized = Annotations(("red circle middle",), (Box("red circle", 0.1, 0.1, 0.9, 0.9),))
    assert "In the middle is a red circle." in tell(unsized, "detail")


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        (Annotations(), "there are no captions"),
        (Annotations(("A dog on a skateboard.",)), "found 'A'; expected a colour"),
        (Annotations(("red circle; red square",)), "names two red things"),
        (Annotations(("red circle", "blue circle")), "names other colours"),
        (Annotations(("red circle", "red square")), "says 'square' where another says 'circle'"),
        (Annotations(("red circle middle; blue cross middle",)), "two things are said to be in one place"),
        (Annotations(("red circle",), (Box("dog", 0, 0, 1, 1),)), "a box is named 'dog'"),
        (Annotations(("\0\ud800" * 50_000,)), "expected a colour"),
        (Annotations(("; ;",)), "names no colour"),
    ],
)
def test_captions_of_another_world_are_refused_with_the_reason(annotations, told):
    with pytest.raises(TeacherError, match="picture world") as caught:
        tell(annotations, "reasoning")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 800  # letters that cannot be printed are written as escapes
    assert (caught.value.reason, caught.value.transient) == ("malformed", False)


def test_a_source_gives_annotations_where_they_are_asked_for_and_nothing_else_changes():
    for task in ("captions", "instruct", "questions"):
        plain, told = (ShapesSource(ShapesOptions(task=task, size=20, annotations=wanted)) for wanted in (False, True))
        for index in range(20):
            assert plain[index].conversation == told[index].conversation
            assert not plain[index].annotations
            annotations = told[index].annotations
            assert annotations == told.annotations(index)
            assert list(annotations.captions) == told.captions(index)
            for thing, box in zip(told.scene(index).things, annotations.boxes, strict=True):
                assert box.label == f"{thing.colour} {thing.shape}"
                assert 0 <= box.left < box.right <= 1
                assert 0 <= box.top < box.bottom <= 1
        assert plain.fingerprint() != told.fingerprint()
        assert "annotations" not in plain.fingerprint()  # as it was before there were any: old runs are gone on with
