"""What a user is told who gives `data check` something that it cannot check."""

from __future__ import annotations

import json

import pytest

from llava_kit.cli.main import main


@pytest.fixture
def rows(tmp_path):
    answer = {"from": "gpt", "value": "A cat."}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": "a", "conversations": [{"from": "human", "value": "What is it?"}, answer]}]))
    (tmp_path / "empty.json").touch()
    (tmp_path / "odd.bin").write_bytes(bytes(range(256)))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ([], "expected PATH, RECIPE, or --source", 2),
        (["{d}/gone.json"], "No such file", 3),
        (["{d}/empty.json"], "an empty file", 3),
        (["{d}/odd.bin"], "is no format that is known", 3),
        (["{d}/rows.json", "image_rot=x"], "did you mean 'image_root'", 2),
        (["{d}/rows.json", "image_root"], "expected option=value", 2),
        (["{d}/rows.json", "--against", "{d}/gone.json"], "--against: {d}/gone.json", 3),
        (["{d}/rows.json", "--against", "{d}/odd.bin"], "--against: {d}/odd.bin: is no format that is known", 3),
        (["{d}/rows.json", "--against", "{d}/rows.json image_rot=x"], "did you mean 'image_root'", 2),
        (["{d}/rows.json", "--against", "{{type: shaps}}"], "did you mean 'shapes'", 2),
        (["{d}/rows.json", "--workers", "-1"], "--workers -1", 2),
        (["{d}/rows.json", "--report", "{d}/nowhere/r.json"], "there is no folder", 2),
        (["{d}/rows.json", "--findings", "{d}"], "cannot be written", 2),
        (["{d}/rows.json", "--recipe", "{d}/gone.yaml"], "gone.yaml", 2),
        (["{d}/rows.json", "--limit", "0"], "--limit 0", 2),
    ],
)
def test_mistakes(rows, capsys, words, told, code):
    assert main(["data", "check", *(word.format(d=rows) for word in words)]) == code
    output = capsys.readouterr()
    assert told.format(d=rows) in output.err
    assert "Traceback" not in output.err
    assert not list(rows.glob("*.tmp"))


def test_pictures_in_a_folder_that_is_not_there_are_told_once_each(rows, capsys):
    answer = {"from": "gpt", "value": "A cat."}
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, answer]
    data = [{"id": str(number), "image": f"{number}.jpg", "conversations": turns} for number in range(50)]
    (rows / "rows.json").write_text(json.dumps(data))
    assert main(["data", "check", str(rows / "rows.json"), "--workers", "0"]) == 3
    told = capsys.readouterr().out
    assert "missing_image" in told
    assert "50" in told
    assert told.count("there is no such file") <= 3
