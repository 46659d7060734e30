from __future__ import annotations

import json

import pytest
from PIL import Image
from planted import DataSet, plant_all, turns

from llava_kit.audit.reasons import REASONS
from llava_kit.cli.check_summary import bars, median_of, summary_lines
from llava_kit.cli.main import main

RECIPE = """
name: toy
model:
  encoder: {type: shapes_vit, image_size: 64}
  connector: {type: mlp}
  language_model: {type: shapes_lm}
  template: {type: vicuna_v1}
stages:
  align:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: captions, size: 4}, template: {type: plain}}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
  instruct:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: conversation, size: 6}, max_length: 100}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
    validate: {source: {type: shapes, task: conversation, split: train, size: 3}, every: 5}
evaluate: {benchmark: {type: shapes, size: 12}}
"""


@pytest.fixture(autouse=True)
def _eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def bad(tmp_path):
    data = DataSet(tmp_path / "bad", seed=3)
    plant_all(data)
    return data, str(data.write(shuffled=False))


@pytest.fixture
def good(tmp_path):
    data = DataSet(tmp_path / "good", seed=4)
    data.clean(12)
    return str(data.write())


def test_a_clean_set_ends_well(good, capsys):
    assert main(["data", "check", good, "--strict", "--workers", "0"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "12 samples, 12 pictures decoded" in told
    assert "0 with errors, 0 with warnings, 12 clean" in told


def test_everything_that_is_written(bad, tmp_path, capsys):
    data, path = bad
    out = {name: tmp_path / name for name in ("report.json", "findings.jsonl", "bad.tsv", "page.html")}
    words = ["--report", "report.json", "--findings", "findings.jsonl", "--bad-rows", "bad.tsv", "--html", "page.html"]
    words = [str(out.get(word, word)) for word in words]
    assert main(["data", "check", path, *words, "--workers", "0"]) == 3
    told = capsys.readouterr()
    assert max(map(len, told.out.splitlines())) <= 80
    assert "\x1b" not in told.out, "a stranger's escape sequence must not reach the terminal"
    for _, reason in data.planted:
        assert f" {reason} " in told.out

    report = json.loads(out["report.json"].read_text())
    (checked,) = report["checked"]
    assert checked["samples"] == len(data.rows)
    assert {one["reason"] for one in checked["findings"]} == {reason for _, reason in data.planted}
    assert report["errors"] == sum(REASONS[reason].severity == "error" for _, reason in data.planted)
    assert checked["findings"][0]["todo"]

    findings = [json.loads(line) for line in out["findings.jsonl"].read_text().splitlines()]
    assert sorted(finding["reason"] for finding in findings) == sorted(reason for _, reason in data.planted)
    rows = [int(line.split("\t")[0]) for line in out["bad.tsv"].read_text().splitlines()]
    assert rows == sorted({finding["row"] for finding in findings if finding["severity"] == "error"})

    page = out["page.html"].read_text()
    assert page.count("<figure><img") == 20
    assert "http" not in page.replace("https://example.com/a.jpg", "").replace("http(s)", "").replace("http://www.w3.org", "")
    assert "<image>" not in page, "text of the data is escaped"
    assert not list(tmp_path.glob("*.tmp"))


def test_for_programs(bad, capsys):
    data, path = bad
    assert main(["data", "check", path, "--json", "--headers", "--workers", "0"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["samples"], told["checked"][0]["decoded"]) == (1, len(data.rows), False)


def test_warnings_fail_only_when_asked(tmp_path, capsys):
    data = DataSet(tmp_path)
    data.say("mojibake", "A cafÃ©.")
    path = str(data.write())
    assert main(["data", "check", path, "--workers", "0"]) == 0
    assert main(["data", "check", path, "--workers", "0", "--strict"]) == 3
    assert "-> decode the source again" in " ".join(capsys.readouterr().out.split())


def test_explain_tells_every_reason(capsys):
    assert main(["data", "check", "--explain"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {code} " in told for code in REASONS)
    assert max(map(len, told.splitlines())) <= 80


def test_a_recipe_is_checked_stage_by_stage(tmp_path, capsys):
    """The validation of this one is of the split that it trains on."""
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    assert main(["data", "check", str(recipe), "--json", "--workers", "0"]) == 3
    align, instruct = json.loads(capsys.readouterr().out)["checked"]
    assert (align["name"], align["samples"], align["findings"]) == ("toy, stage align", 4, [])
    assert align["against"] == {"the benchmark shapes": 12}
    assert {one["reason"]: one["count"] for one in instruct["findings"]} == {"leaked_sample": 3, "dropped_turns": 6}
    assert instruct["against"] == {"its validation": 3, "the benchmark shapes": 12}
    assert sum(instruct["spread"]["length"].values()) == 6
    assert main(["data", "check", str(recipe), "--stage", "align", "--workers", "0", "--strict"]) == 0
    assert "positions" in capsys.readouterr().out
    assert main(["data", "check", str(recipe), "--stage", "instruct", "--validation", "--json", "--workers", "0"]) == 0
    (held,) = json.loads(capsys.readouterr().out)["checked"]
    assert (held["name"], held["samples"]) == ("toy, stage instruct, validation", 3)


def test_a_path_as_a_recipe_would_lay_it_out(good, tmp_path, capsys):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    assert main(["data", "check", good, "--recipe", str(recipe), "--stage", "instruct", "--json", "--workers", "0"]) in (0, 3)
    (checked,) = json.loads(capsys.readouterr().out)["checked"]
    assert sum(checked["spread"]["tiles"].values()) == sum(checked["spread"]["length"].values()) > 0


def test_without_the_recipe_s_tokenizer_the_rest_is_checked(tmp_path, capsys):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE.replace("{type: shapes_lm}", "{type: causal_lm, checkpoint: /nowhere}"))
    assert main(["data", "check", str(recipe), "--stage", "align", "--workers", "0"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "note: tokens and tiles were not looked at" in told


def test_against_with_options(good, tmp_path, capsys):
    other = DataSet(tmp_path / "bad folder", seed=9)
    other.plant("leak", conversations=turns("<image>\nWhat?", "So."))
    against = [
        "--against",
        f"'{other.write()}' image_root='{other.folder}'",
        "--against",
        "{type: shapes, task: captions, size: 3}",
    ]
    assert main(["data", "check", good, *against, "--json", "--workers", "0"]) == 0
    assert list(json.loads(capsys.readouterr().out)["checked"][0]["against"].values()) == [1, 3]


def test_limit(bad, capsys):
    _, path = bad
    assert main(["data", "check", path, "--limit", "1", "--strict", "--workers", "0"]) == 0
    assert "1 samples" in capsys.readouterr().out


def test_numbers_in_short():
    assert median_of({1: 2, 5: 1, 9: 2}) == 5
    assert bars({3: 7}) == ""
    assert bars({0: 8, 1: 1, 3: 4}) == "█▂ ▅"


def test_a_long_name_and_no_picture_make_no_wide_line(tmp_path):
    from llava_kit.audit.report import Report

    report = Report("n" * 200, 0, 0, 0, 0, True, {}, {}, {}, {}, {}, 1.0)
    assert max(map(len, summary_lines(report, 80))) <= 80


def test_a_page_shows_a_picture_of_what_it_found(tmp_path, capsys):
    data = DataSet(tmp_path)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / "red.png")
    data.plant("blank_image", image="images/red.png")
    page = tmp_path / "page.html"
    assert main(["data", "check", str(data.write()), "--html", str(page), "--workers", "0"]) == 0
    assert "data:image/jpeg;base64," in page.read_text()
