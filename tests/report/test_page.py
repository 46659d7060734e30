"""The page holds everything, escapes what people wrote, and asks nobody for anything."""

import re

import pytest

from llava_kit.report.page import Picture, RunRecord, StageRecord, count, duration, render_run, write_run


@pytest.fixture
def record() -> RunRecord:
    table = {"all": 0.97, "colour": 0.96}
    evaluation = {
        "accuracy": table,
        "wrong_picture": {"all": 0.3, "colour": 0.2},
        "majority": {"all": 0.28, "colour": 0.2},
        "questions": 200,
        "questions_by_type": {"all": 200, "colour": 200},
        "unanswered": 0,
        "groups": {"set_aside": {"accuracy": table, "questions": 31}},
    }
    rows = [{"component": "encoder", "part": "shapes_vit", "total": 220_000, "trained": 0, "lr": None}]
    stage = StageRecord("align", 10, 4.0, 320, 9000, [(1, 2.0), (10, 1.0)], [(10, 1.1)], rows, {"data": 1.0, "compute": 3.0})
    picture = Picture(b"\x89PNG", "colour", "what <b>colour</b> ?", "red", "blue", "green", False)
    return RunRecord("toy", "a toy", "runs/toy/x", "today", "name: toy\n", {"torch": "2"}, [stage], evaluation, [picture], 5.0)


def test_everything_is_on_the_page(record):
    page = render_run(record)
    for text in (
        "97.0 %",
        "30.0 %",
        "28.0 %",
        "set aside (31)",
        "Stage 1: align",
        "frozen",
        "truth: red",
        "name: toy",
        "220 k",
    ):
        assert text in page, text


def test_text_is_escaped_and_nothing_is_fetched(record):
    page = render_run(record)
    assert "what <b>colour</b> ?" not in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_without_evaluation_has_a_page_too(record, tmp_path):
    bare = RunRecord("toy", "", "f", "today", "", {}, record.stages)
    write_run(bare, tmp_path / "report.html")
    assert "Stage 1: align" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_units():
    assert [duration(s) for s in (4.2, 95, 3700)] == ["4.2 s", "1 min 35 s", "1 h 01 min"]
    assert [count(n) for n in (12, 900, 542_304, 7_060_000_000)] == ["12", "900", "542 k", "7.06 B"]
