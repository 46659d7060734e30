"""Rings show the most frequent pairs, each as wide as it is frequent, and say in words what they show."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from llava_kit.pages.rings import SIZE, ring_chart


def _svg(text):
    return ElementTree.fromstring(text[: text.index("</svg>") + 6])


PAIRS = {("ride", "horse"): 6, ("ride", "bike"): 2, ("eat", "pizza"): 4, ("see", "x<y"): 1}


def test_every_pair_and_every_first_word_is_a_piece():
    text = ring_chart(PAIRS, label="verbs of answers")
    tips = [element.text for element in _svg(text).iter() if element.tag == "title"]
    assert tips == ["ride: 8", "ride horse: 6", "ride bike: 2", "eat: 4", "eat pizza: 4", "see: 1", "see x<y: 1"]
    assert _svg(text).get("aria-label") == "verbs of answers: ride horse, eat pizza, see x<y"


def test_pieces_lie_within_the_frame_and_words_stand_upright():
    text = ring_chart({(f"verb{number}", f"noun{other}"): 9 for number in range(12) for other in range(4)}, label="x")
    for number in re.findall(r"[ML A,](-?\d+\.\d+)", text):
        assert 0 <= float(number) <= SIZE
    turns = [float(turn) % 360 for turn in re.findall(r"rotate\((-?[\d.]+)", text)]
    assert len(turns) == 12 * 5
    assert all(turn <= 90 or turn >= 270 for turn in turns), "no word stands on its head"


def test_only_the_most_frequent_are_shown():
    text = ring_chart({("a", str(number)): number + 1 for number in range(9)} | {("b", "c"): 1}, label="x", firsts=1, seconds=3)
    assert re.findall(r"<title>a (\d): ", text) == ["8", "7", "6"]
    assert "<title>b" not in text


@pytest.mark.parametrize("pairs", [{("only", "one"): 3}, {}])
def test_one_pair_and_none(pairs):
    text = ring_chart(pairs, label="x")
    assert ("nothing to show" in text) == (not pairs)
    assert "nan," not in text
