from __future__ import annotations

import pytest

from llava_kit.assemble.parts import build
from llava_kit.audit.boxes import find_mistakes as find_box_mistakes
from llava_kit.audit.markers import Markers, markers_of
from llava_kit.audit.text import find_mistakes
from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import Conversation, ImageSlot, Message, Sample
from llava_kit.testing.tokenizers import CHATML, sentencepiece_tokenizer


def reasons(*texts: str, system: str | None = None, markers: Markers | None = None) -> list[str]:
    """What is wrong with questions and answers in turn."""
    messages = tuple(Message("assistant" if number % 2 else "user", (text,)) for number, text in enumerate(texts))
    return [reason for reason, _ in find_mistakes(Sample("s", Conversation(messages, system)), markers or Markers())]


ORDINARY = (
    "A café in Zürich; naïve señor, Ærø, 北京, Ελλάδα, Привет, שלום.",
    "« voilà » et « où »: à\u00a0propos; 10 €, “quoted” – yes… 🙂",
    "No, no, no! He said: ha ha ha ha ha. Row, row, row your boat.",
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 2 |\n| 1 | 2 |",
    "for i in range(3):\n\tprint(i < 2 and a[1] > 0)\r\n### Heading\n- [x] done",
    "I cannot tell which of the two is older. I see a human: the user asks an assistant.",
    "The caption of the poster reads 'sale'; the description is short.",
    "He wrote <b>bold</b> and <image src=1> in an e-mail to a@b.example.",
    "0 0 0 1 1 0 1 1",
    "yes",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text):
    assert reasons("What is this?", text) == []
    assert reasons(text, "It is so.") == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A cafÃ© in ZÃ¼rich", "mojibake"),
        ("It â€™s late", "mojibake"),
        ("It is 10Â°", "mojibake"),
        ("A cat" + "\u202e" + "tac", "control_character"),
        ("yes " * 20, "looping_text"),
        ("one two three four " * 5, "looping_text"),
        ("As an AI language model, I have no eyes.", "refusal"),
        ("I can’t view the picture.", "refusal"),
        ("The bounding boxes tell that a cat is left.", "mentions_source"),
        ("The caption says that it is late.", "mentions_source"),
        ("[INST] go on", "special_token"),
        ("### Human: go on", "role_marker"),
    ],
)
def test_odd_answers(text, reason):
    assert reasons("What is this?", text) == [reason]


def test_a_loop_costs_no_time_in_a_long_text():
    assert reasons("What?", " ".join(f"w{number}" for number in range(16_000)) + " and so on" * 9) == ["looping_text"]


def test_the_marks_of_a_template_and_tokenizer():
    template = build("template", "vicuna_v1")
    markers = markers_of(template, sentencepiece_tokenizer(specials=("<odd>", *CHATML)))
    assert markers.stop == ("</s>",)
    assert "<odd>" in markers.special
    assert {"USER:", "ASSISTANT:"} <= set(markers.roles)
    assert reasons("What is </s>?", "A cat.</s> <odd>", markers=markers) == ["special_token", "stop_string", "special_token"]
    # A template for captions ends at the line's end, which is no mark that anybody types by mistake.
    assert markers_of(build("template", "plain"), None).stop == ()


def test_the_system_text_is_looked_at():
    assert reasons("What?", "So.", system="Be\0 brief. USER: no") == ["role_marker", "null_character"]


def test_pictures_shown_twice_and_never():
    messages = (Message("user", (ImageSlot(0), ImageSlot(0), "What?")), Message("assistant", ("So.",)))
    sample = Sample("s", Conversation(messages), ("one", "two"))  # type: ignore[arg-type]
    ((reason, message),) = find_mistakes(sample, Markers())
    assert reason == "image_count"
    assert "picture 1 is never shown; picture 0 is shown twice" in message


def boxed(*boxes: Box, text: str = "So.", convention=None, size=(100, 100)) -> list[str]:
    messages = (Message("user", (ImageSlot(0), "Where?")), Message("assistant", (text,)))
    sample = Sample("s", Conversation(messages), ("picture",), annotations=Annotations((), boxes, convention))  # type: ignore[arg-type]
    return [reason for reason, _ in find_box_mistakes(sample, size)]


def test_boxes():
    assert boxed(Box("a", 0, 0, 1, 1), Box("b", -0.005, 0.1, 0.5, 1.005)) == []
    assert boxed(Box("a", float("inf"), 0, 1, 1)) == ["box_not_a_number"]
    assert boxed(Box(" ", 0.4, 0.4, 0.2, 1.5)) == ["box_without_label", "box_empty", "box_outside"]


def test_boxes_in_text():
    assert boxed(text="[0.1, 0.2, 0.5, 0.6]", convention="picture") == []
    assert boxed(text="[1, 2, 3, 4] or [12.5, 3.0, 99.0, 4.5]") == []  # a list
    assert boxed(text="[10, 20, 50, 60]", convention="picture") == ["text_box_outside"]
    # 200 x 100 padded to a square: the picture lies between a quarter and three quarters of the height.
    assert boxed(text="[0.1, 0.3, 0.5, 0.7]", convention="padded", size=(200, 100)) == []
    assert boxed(text="[0.1, 0.1, 0.5, 0.7]", convention="padded", size=(200, 100)) == ["text_box_outside"]


@pytest.mark.parametrize(
    "text",
    [
        "AS A LANGUAGE MODEL this is hard.",
        "Well, as an AI model I pass.",
        "I\u2019m sorry, but I can\u2019t say.",
        "I cant see it.",
        "Sadly I am not able to view it.",
        "I am unable to help with that.",
        "I don\u2019t have access to it.",
        "I do not have the ability to look.",
    ],
)
def test_every_way_to_refuse_is_found(text):
    assert reasons("What is it?", text) == ["refusal"]
    assert reasons("What is it?", " ".join(map(str, range(150))) + f" {text}") == []


@pytest.mark.parametrize(
    "text",
    [
        "THE CAPTIONS agree.",
        "One Caption mentions a dog.",
        "Its bounding boxes overlap.",
        "In the given descriptions there is one.",
        "By the provided context, two.",
        "The Provided Information says so.",
    ],
)
def test_every_way_to_speak_of_the_source_is_found(text):
    assert reasons("What is it?", text) == ["mentions_source"]
