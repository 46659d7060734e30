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
        (["{d}/rows.json", "--findings", "{d}"], "is a folder", 2),
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


@pytest.mark.parametrize(
    "words",
    [
        ["check", "{data}", "--findings", "{data}"],
        ["check", "{data}", "--bad-rows", "{folder}/../{name}/data.json"],
        ["check", "--source", "{{type: llava_json, path: {data}}}", "--report", "{data}"],
        ["check", "{other}", "--against", "{data}", "--html", "{data}"],
        ["check", "{data}", "--html", "{folder}"],
        ["check", "{folder}/set", "--report", "{folder}/set/data.json"],
        ["stats", "{folder}/set", "--html", "{folder}/set/data.json"],
        ["check", "{data}", "--html", "{folder}/out", "--report", "{folder}/out"],
        ["stats", "{data}", "--html", "{data}"],
        ["view", "{data}", "--static", "{data}"],
    ],
)
def test_what_is_read_is_never_overwritten(words, tmp_path, capsys):
    row = [{"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}]
    data, other = tmp_path / "data.json", tmp_path / "other.json"
    kept = tmp_path / "set" / "data.json"
    kept.parent.mkdir()
    for path in (data, other, kept):
        path.write_text(json.dumps(row))
    before = data.read_bytes()
    given = {"data": data, "other": other, "folder": tmp_path, "name": tmp_path.name}
    assert main(["data", *(word.format(**given) for word in words)]) == 2
    assert data.read_bytes() == before
    assert kept.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "other.json", "set"]
    told = capsys.readouterr().err
    assert words[-2] in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stats", "--html", "/proc/no/page.html"], "--html /proc/no/page.html: cannot be written"),
        (["view", "--static", "page.html", "--max-mb", "inf"], "--max-mb: found inf"),
    ],
)
def test_a_page_that_cannot_be_is_one_line(words, told, tmp_path, capsys):
    path = tmp_path / "data.json"
    path.write_text('[{"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}]')
    verb, *options = words
    assert main(["data", verb, str(path), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
