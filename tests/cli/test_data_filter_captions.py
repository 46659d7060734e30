"""`llava-kit data filter-captions` as a user types it."""

from __future__ import annotations

import json

import pytest

from llava_kit.cli.main import main

SHAPES = ["--source", "{type: shapes, task: captions, size: 30}", "--workers", "1"]


def test_captions_are_chosen_and_told(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["data", "filter-captions", str(folder), *SHAPES, "--most", "4", "--pair", "detailed"]) == 0
    told = capsys.readouterr()
    assert "different phrases" in told.out
    assert "most frequent:" in told.out
    assert f"rows in {folder / 'data.json'}" in told.out
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    assert 0 < len(rows) <= 30
    # What it wrote is a source for all other verbs, this one included.
    again = ["data", "filter-captions", str(folder), str(tmp_path / "again"), "--workers", "1", "--least", "1", "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["captions"] == len(rows)


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (["--least", "5", "--most", "4"], 2, "expected least <= most"),
        (["--least", "0", "--seed", "-1"], 2, "--least: Input should be greater than 0, found 0\n--seed: "),
        (["--finder", "spacy:en_core_web_sm"], 2, "python -m spacy download en_core_web_sm"),
        (["--finder", "texblob"], 2, "did you mean 'textblob'"),
        (["--source", "{type: shapes, task: conversation, size: 5}"], 3, "none of the 5 samples has a caption"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(tmp_path, capsys, given, code, told):
    assert main(["data", "filter-captions", str(tmp_path / "out"), *SHAPES, *given]) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_destination_alone_is_not_taken_for_the_data(tmp_path, capsys):
    assert main(["data", "filter-captions", str(tmp_path / "data.json")]) == 2
    assert "expected what to read and then DEST" in capsys.readouterr().err
    assert main(["data", "filter-captions"]) == 2
    assert not list(tmp_path.iterdir())


def test_samples_that_could_not_be_used_are_told_and_end_in_code_3(tmp_path, capsys):
    rows = [{"id": number, "image": "a.png", "conversations": turns(number)} for number in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["data", "filter-captions", str(tmp_path / "rows.json"), str(tmp_path / "out"), "--workers", "1"]) == 3
    error = capsys.readouterr().err
    assert "1 samples rejected" in error
    assert "5: no_caption: has no captions and 4 turns" in error
    assert len(json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))) == 5


def turns(number: int) -> list[dict[str, str]]:
    turn = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a small dog on a red chair"}]
    return turn if number < 5 else [*turn, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
