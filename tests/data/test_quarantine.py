from __future__ import annotations

import json

import pytest

from llava_kit.data.loader import BadSample
from llava_kit.data.quarantine import Quarantine
from llava_kit.errors import TrainingError


def bad(number: int, reason: str = "missing_image") -> BadSample:
    return BadSample(f"s{number}", reason, "there is no such file\u2028\ud800 ünd so")


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_lines_and_counts(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    quarantine = Quarantine(path)
    quarantine.add(0, [], 8)
    assert not path.exists()
    quarantine.add(1, [bad(1), bad(2, "too_long")], 8)
    quarantine.add(2, [bad(3)], 8)
    assert [(line["id"], line["reason"], line["step"]) for line in lines(path)] == [
        ("s1", "missing_image", 1),
        ("s2", "too_long", 1),
        ("s3", "missing_image", 2),
    ]
    assert set(lines(path)[0]) == {"id", "reason", "message", "step"}
    assert quarantine.counts == {"missing_image": 2, "too_long": 1}
    assert quarantine.summary() == "2 x missing_image, 1 x too_long"
    assert quarantine.num_bad == 3
    assert quarantine.seen == 24


def test_budget(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", budget=0.1, free=2)
    quarantine.add(0, [bad(0), bad(1)], 2)  # everything bad, but within what is free
    with pytest.raises(TrainingError, match=r"3 of 10 samples .* 10\.0%.*3 x missing_image"):
        quarantine.add(1, [bad(2)], 8)
    assert len(lines(tmp_path / "q.jsonl")) == 3


def test_share_within_the_budget_goes_on(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", budget=0.5, free=0)
    for step in range(20):
        quarantine.add(step, [bad(step)], 2)
    assert quarantine.num_bad == 20


def test_expected_reasons_do_not_weigh(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", budget=0.0, free=0, expected=("too_long",))
    quarantine.add(0, [bad(0, "too_long")] * 5, 5)
    assert quarantine.counts["too_long"] == 5
    with pytest.raises(TrainingError):
        quarantine.add(1, [bad(0)], 5)


def test_resuming_repeats_no_line(tmp_path):
    path = tmp_path / "q.jsonl"
    quarantine = Quarantine(path)
    for step in range(4):
        quarantine.add(step, [bad(step)], 4)
    with open(path, "a") as file:
        file.write('{"id": "s9", "rea')  # a crash in mid-write
    again = Quarantine(path, start_step=2, seen=8)
    assert [line["step"] for line in lines(path)] == [0, 1]
    assert again.num_bad == 2
    for step in (2, 3):
        again.add(step, [bad(step)], 4)
    assert [line["step"] for line in lines(path)] == [0, 1, 2, 3]
    assert again.seen == 16
    assert Quarantine(path, start_step=0).num_bad == 0
    assert path.read_text() == ""
