"""Histograms count every value once, compare series by their shares, and say in words what they show."""

import random
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from llava_kit.pages.charts import HEIGHT, WIDTH
from llava_kit.pages.histogram import MAX_SERIES, RANK_POINTS, histogram, rank_chart, short


def _svg(text):
    return ElementTree.fromstring(text[: text.index("</svg>") + 6])


def _elements(text, tag):
    return [element for element in _svg(text).iter() if element.tag == tag]


def _counts(text):
    """What the tips of the bars say they hold."""
    return [int(bar.find("title").text.rsplit(" ", 1)[1].replace(",", "")) for bar in _elements(text, "rect")]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_in_one_bar_and_within_the_frame(log, seed):
    draw = random.Random(seed)
    whole = draw.random() < 0.5
    values = [draw.randint(0, 3000) if whole else draw.expovariate(1 / 50) for _ in range(500)]
    text = histogram({"words": values}, x_label="words", log=log)
    assert sum(_counts(text)) == 500
    for bar in _elements(text, "rect"):
        x, y, width, height = (float(bar.get(name)) for name in ("x", "y", "width", "height"))
        assert width > 0
        assert height > 0
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + height <= HEIGHT


def test_counts_say_the_same_as_the_numbers_themselves():
    values = [1, 1, 2, 5, 5, 5]
    assert histogram({"a": values}, x_label="x") == histogram({"a": Counter(values)}, x_label="x")


def test_whole_numbers_have_a_bin_each_where_they_can():
    text = histogram({"turns": [2, 2, 2, 4, 6]}, x_label="turns")
    assert re.findall(r"turns, ([^:]+): (\d+)", text) == [("2", "3"), ("4", "1"), ("6", "1")]


def test_series_of_different_sizes_are_compared_by_shares():
    text = histogram({"small": [1, 2], "large": [1, 2] * 50}, x_label="words")
    bars = _elements(text, "rect")
    assert len({bar.get("height") for bar in bars}) == 1, "half of each stands in each bin"
    assert 'class="legend"' in text
    assert "%</text>" in text


def test_one_series_is_counted():
    assert "%</text>" not in histogram({"a": [1, 2]}, x_label="x")


def test_many_series_are_outlines_and_those_without_a_colour_are_told():
    text = histogram({f"source {number}": [number, 9] for number in range(MAX_SERIES + 2)}, x_label="x")
    assert len(_elements(text, "polyline")) == MAX_SERIES
    assert "and 2 more, not drawn" in text


def test_it_is_told_in_words_and_names_are_escaped():
    text = histogram({"<b>": [3, 8], "none": []}, x_label="words & more")
    told = _svg(text).get("aria-label")
    assert told == "histogram of words & more; <b>: 2 values from 3 to 8; none: none"
    assert "<b>" not in text


@pytest.mark.parametrize("values", [[], [float("nan")], {5.0: 0}])
def test_nothing_to_draw_says_so(values):
    assert "nothing to show" in histogram({"a": values}, x_label="x")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [0, 7, 0.25])
def test_one_value_is_drawn(value, log):
    assert _counts(histogram({"a": [value] * 3}, x_label="x", log=log)) == [3]


def test_ranks_fall_from_left_to_right_and_long_tails_are_thinned():
    text = rank_chart({"before": [10_000 // rank for rank in range(1, 9000)], "after": [100] * 50 + [3]})
    before, after = (
        [tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in _elements(text, "polyline")
    )
    assert len(before) <= RANK_POINTS
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in before + after)
    assert [x for x, _ in before] == sorted(x for x, _ in before)
    assert [y for _, y in before] == sorted(y for _, y in before), "lower on the page is a larger y"
    assert after[0][1] > before[0][1], "what is rarer begins lower"


def test_ranks_of_nothing_and_of_one():
    assert "nothing to show" in rank_chart({"a": []})
    assert "polyline" in rank_chart({"a": [1]})


def test_numbers_beside_an_axis_are_short():
    assert [short(number) for number in (0, 0.5, 999, 1500, 20_000, 3e6)] == ["0", "0.5", "999", "1.5k", "20k", "3M"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 14), (1, 2), (5, 40), (0, 5000), (7, 7)])
def test_logarithmic_bins_of_whole_numbers_hold_one_or_more_of_them(low, high):
    text = histogram({"words": range(low, high + 1)}, x_label="words", log=True)
    assert sum(_counts(text)) == high + 1 - low
    assert min(_counts(text)) >= 1
    if high < 15:
        assert _counts(text) == [1] * (high + 1 - low)


@pytest.mark.parametrize("values", [{0: 5}, {0: 3, 1: 2}, {4: 9, 6: 600}, {1: 1, 2: 1, 3: 1}, {9: 1, 13: 4}])
@pytest.mark.parametrize("log", [False, True])
def test_beside_whole_numbers_stand_whole_numbers(values, log):
    drawn = histogram({"some": values}, x_label="x", log=log)
    written = re.findall(r"<text [^>]*>([^<]*)</text>", drawn)
    assert all(text.lstrip("-").isdigit() for text in written if text != "x"), written
    assert any(str(value) in written for value in values)


@pytest.mark.parametrize("bins", [24, 600, 5000])
def test_bars_are_never_narrower_than_nothing(bins):
    drawn = histogram({"a": range(bins), "b": range(bins)}, x_label="x", bins=bins)
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([^"]*)"', drawn)]
    assert min(widths) >= 0
