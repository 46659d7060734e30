"""`data stats` lays inputs side by side in the terminal, as JSON, and as a page."""

import json

import pytest
from PIL import Image

from llava_kit.cli.main import main


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")

    def write(name, answer, count=3, source="one"):
        rows = [
            {
                "id": str(number),
                "image": "p.png",
                "conversations": [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": answer}],
                "tags": {"source": source if number else "other"},
            }
            for number in range(count)
        ]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
        return str(path)

    return write


def test_two_files_side_by_side(data, tmp_path, capsys):
    first, second = data("a.json", "The man holds a cup."), data("b.json", "The man rides a horse.", 4)
    page = tmp_path / "out" / "page.html"
    assert main(["data", "stats", first, second, "--html", str(page), "--workers", "0"]) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert lines[0][:3] == ["samples", "pictures", "turns"]
    assert lines[1] == ["a", "3", "3", "2", "3", "3", "5", "5", "40", "1.33"]
    assert ["one", "2"] in [line[:2] for line in lines], "the ingredients stand below"
    assert "  a  hold cup" in told
    assert "  b  ride horse" in told
    assert "a  0.000" in told
    assert f"page: {page}" in told
    assert "Words of an answer" in page.read_text(encoding="utf-8")


def test_for_programs_with_names_and_options(data, capsys):
    first, second = data("x/a.json", "One."), data("y/a.json", "Two.")
    words = [first, "image_root=/nowhere", second, "--names", "left,right", "--json", "--tag", "0"]
    assert main(["data", "stats", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [mixture["name"] for mixture in told["mixtures"]] == ["left", "right"]
    assert told["mixtures"][0]["from"].endswith("a.json image_root=/nowhere")
    assert told["mixtures"][0]["groups"]["all"]["unread"] == 3
    assert told["distance_of_answers_in_bits"]["left"]["right"] == 1
    assert "left: 3 of 3 pictures could not be read" in told["notes"]


def test_files_of_one_name_are_told_by_their_folders(data, capsys):
    assert main(["data", "stats", data("x/a.json", "One."), data("y/a.json", "Two."), "--json", "--no-sizes"]) == 0
    assert [mixture["name"] for mixture in json.loads(capsys.readouterr().out)["mixtures"]] == ["a", "y/a"]


def test_one_source_is_told_by_its_ingredients(data, capsys):
    assert main(["data", "stats", data("a.json", "One."), "--no-sizes", "--tag", "0"]) == 0
    told = capsys.readouterr().out
    assert "words that part each from the others" in told
    assert "longer side" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected data: files, folders or recipes"),
        (["a.json", "a.json", "a.json"], "two inputs are called"),
        (["a.json", "--names", "x,y"], "found 2 names for 1 inputs"),
        (["a.json", "--tag", "-1"], "--tag -1: expected 0 or more"),
        (["none.json"], "none.json: cannot be read"),
        (["a.json", "--tokens", "quickstrat"], "quickstart"),
    ],
)
def test_mistakes_are_told_in_a_line(data, tmp_path, monkeypatch, capsys, words, told):
    data("a.json", "One.")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "stats", *words]) in (2, 3)
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
