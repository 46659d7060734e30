"""Charts are well-formed, show every value, and survive odd input."""

import xml.etree.ElementTree as ElementTree

import pytest

from llava_kit.pages.charts import MAX_POINTS, Series, bar_chart, line_chart, share_bar


def _svg(text):
    return ElementTree.fromstring(text[: text.index("</svg>") + 6])


def test_a_line_is_drawn_inside_the_frame():
    svg = _svg(line_chart([Series("loss", [(0, 3.0), (10, 1.0)])], x_label="step", y_label="loss"))
    _, _, width, height = map(float, svg.get("viewBox").split())
    (line,) = [element for element in svg.iter() if element.tag == "polyline"]
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(points) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert points[0][1] < points[1][1], "a larger loss stands higher on the page"


def test_long_lines_are_thinned_and_what_is_not_finite_is_left_out():
    points = [(step, 1.0) for step in range(5 * MAX_POINTS)] + [(9999, float("nan"))]
    svg = _svg(line_chart([Series("loss", points)], x_label="step", y_label="loss"))
    (line,) = [element for element in svg.iter() if element.tag == "polyline"]
    assert len(line.get("points").split()) <= MAX_POINTS
    assert "nan" not in line.get("points")


@pytest.mark.parametrize("points", [[], [(1, float("inf"))]])
def test_nothing_to_draw_says_so(points):
    assert "nothing was logged" in line_chart([Series("loss", points)], x_label="step", y_label="loss")


def test_one_point_is_drawn():
    assert "polyline" in line_chart([Series("loss", [(5, 0.0)])], x_label="step", y_label="loss")


def test_bars_carry_their_shares_and_names_are_escaped():
    text = bar_chart({"<right>": {"all": 0.97, "colour": 0.5}, "wrong": {"all": 0.3, "colour": 0.0}}, target=0.95)
    bars = [element for element in _svg(text).iter() if element.tag == "rect"]
    assert len(bars) == 4
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[0] / widths[2] == pytest.approx(0.97 / 0.5, rel=0.01)
    assert "<right>" not in text
    assert "97.0%" in text


def test_shares_fill_the_bar():
    bars = [element for element in _svg(share_bar({"data": 1.0, "compute": 3.0})).iter() if element.tag == "rect"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[1] == pytest.approx(3 * widths[0])
