from __future__ import annotations

import pytest

from llava_kit.core.annotations import Annotations, Box, padded
from llava_kit.core.conversation import Conversation, ImageSlot, Message, Sample
from llava_kit.view.boxes import beside, count_boxes, in_text

NOTHING = Annotations()


def said(*texts: str, annotations: Annotations = NOTHING) -> Sample:
    return Sample("s", Conversation(tuple(Message("user", (ImageSlot(0), text)) for text in texts)), (), {}, annotations)


def test_where_a_box_stands_in_the_text():
    sample = said("nothing", "🙂 here [0.1, 0.25,0.5 , .75] and [0.10, 0.2, 0.3, 0.4]")
    first, second = in_text(sample, (100, 100))
    text = sample.conversation.messages[1].text
    assert (first["turn"], text[first["start"] : first["end"]]) == (1, "[0.1, 0.25,0.5 , .75]")
    assert first["picture"] == first["padded"] == [0.1, 0.25, 0.5, 0.75]
    assert second["picture"] == [0.1, 0.2, 0.3, 0.4]
    assert count_boxes(sample) == 2


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (7, 1000)])
def test_padding_is_undone(size):
    box = Box("", 0.25, 0.125, 0.75, 0.5)
    numbers = ", ".join(f"{number:.9f}" for number in padded(box, size)[1:])
    (found,) = in_text(said(f"[{numbers}]"), size)
    assert found["padded"] == pytest.approx(box[1:], abs=1e-4)
    assert found["picture"] != found["padded"]


@pytest.mark.parametrize(
    "text", ["[1, 2, 3, 4]", "[0.1, 0.2, 0.3]", "(0.1, 0.2, 0.3, 0.4)", "[a, b, c, d]", "[0.1, 0.2, 0.3, 0.4, 0.5]"]
)
def test_what_is_no_box(text):
    assert in_text(said(text), None) == []


def test_the_whole_picture_is_a_box():
    assert in_text(said("[0, 0, 1, 1]"), None)[0]["problem"] is None


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0.1, 0.1, float("nan"), 0.5), "not a number"),
        ((0.1, 0.1, float("inf"), 0.5), "not a number"),
        ((0.5, 0.1, 0.2, 0.5), "no area"),
        ((0.1, 0.1, 0.1, 0.5), "no area"),
        ((0.1, 0.1, 1.2, 0.5), "out of the picture"),
        ((-0.1, 0.1, 0.2, 0.5), "out of the picture"),
        ((0.0, 0.0, 1.001, 1.0), None),
    ],
)
def test_what_is_wrong_with_a_box(numbers, told):
    (found,) = beside(said("x", annotations=Annotations((), (Box("thing", *numbers),))))
    assert (found["problem"] is None) == (told is None)
    assert told is None or told in found["problem"]
    assert (found["box"] is None) == (told == "not a number")
