"""The steps of a recipe: done in order and once, gone on with after a stop, refused where something else stands."""

import json

import pytest

import llava_kit
from llava_kit.cli.main import main
from llava_kit.errors import DataError, RecipeError
from llava_kit.prepare.actions import ACTIONS
from llava_kit.recipe.load import load_any
from llava_kit.recipe.prepare import Step

RECIPE = """
recipe_version: 1
name: little
prepare:
  render:
    convert: {{source: {{type: shapes, task: captions, annotations: true, size: 24}}, to: {root}/captions, workers: 1}}
  instruct:
    generate:
      source: {{type: llava_json, path: {root}/captions/data.json}}
      to: {root}/instruct
      types: {{conversation: 12, detail: 6, reasoning: 6}}
  chosen:
    filter_captions:
      {{source: {{type: llava_json, path: {root}/captions/data.json}}, to: {root}/chosen, most: 5, workers: 1}}
  audit: {{check: {{source: {{type: llava_json, path: {root}/instruct/data.jsonl}}, report: {root}/report.json}}}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "little.yaml"
    path.write_text(RECIPE.format(root=tmp_path))
    return path


def told(capsys):
    return capsys.readouterr()


def test_steps_feed_one_another_and_are_done_once(recipe, tmp_path):
    done = llava_kit.prepare(load_any(recipe))
    assert [(one.name, one.action, one.made) for one in done] == [
        ("render", "convert", True),
        ("instruct", "generate", True),
        ("chosen", "filter_captions", True),
        ("audit", "check", True),
    ]
    rows = [json.loads(line) for line in (tmp_path / "instruct" / "data.jsonl").read_text().splitlines()]
    assert 20 <= len(rows) <= 24
    assert all(row["tags"]["provenance"]["teacher"] == "shapes-teacher-1" for row in rows)
    assert json.loads((tmp_path / "report.json").read_text())["samples"] == len(rows)
    before = (tmp_path / "instruct" / "data.jsonl").stat().st_mtime_ns
    again = llava_kit.prepare(load_any(recipe))
    assert [one.made for one in again] == [False] * 4
    assert [one.told for one in again] == [one.told for one in done]
    assert (tmp_path / "instruct" / "data.jsonl").stat().st_mtime_ns == before


def test_a_step_that_was_stopped_goes_on_and_others_stay(recipe, monkeypatch):
    asked = []

    def stopped(block, say, progress):
        asked.append(block.to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(ACTIONS, "generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            llava_kit.prepare(load_any(recipe))
    assert len(asked) == 1
    assert [one.made for one in llava_kit.prepare(load_any(recipe))] == [False, True, True, True]


def test_other_options_or_other_inputs_are_refused(recipe, tmp_path):
    llava_kit.prepare(load_any(recipe), only="render")
    with pytest.raises(DataError, match=r"prepare.render: .*captions is there, .*\(source.size: then 24, now 25\)"):
        llava_kit.prepare(load_any(recipe, ["prepare.render.convert.source.size=25"]))
    llava_kit.prepare(load_any(recipe))
    rows = tmp_path / "instruct" / "data.jsonl"
    rows.write_text(rows.read_text().partition("\n")[0] + "\n")
    with pytest.raises(DataError, match="what it was made of has changed"):
        llava_kit.prepare(load_any(recipe), only="audit")


def test_errors_that_a_check_finds_end_it_unless_they_are_allowed(recipe, tmp_path):
    llava_kit.prepare(load_any(recipe), only="render")
    llava_kit.prepare(load_any(recipe), only="instruct")
    rows = tmp_path / "instruct" / "data.jsonl"
    first = json.loads(rows.read_text().splitlines()[0])
    bad = {**first, "id": "bad", "image": "images/none.png"}
    rows.write_text(rows.read_text() + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=r"missing_image 1; .*report.json says where"):
        llava_kit.prepare(load_any(recipe), only="audit")
    assert (tmp_path / "report.json").exists()
    done = llava_kit.prepare(load_any(recipe, ["prepare.audit.check.allow=[missing_image]"]), only="audit")
    assert done[0].told.startswith(f"{len(rows.read_text().splitlines())} samples, 1 errors")


def test_the_command(recipe, capsys):
    assert main(["data", "prepare", str(recipe)]) == 0
    out = told(capsys).out
    assert "instruct  generate" in out
    assert main(["data", "prepare", str(recipe), "--step", "render"]) == 0
    assert "before" in told(capsys).out
    assert main(["data", "prepare", str(recipe), "--step", "rendr"]) == 2
    assert "no step 'rendr'; did you mean 'render'?" in told(capsys).err
    assert main(["data", "prepare", "quickstart"]) == 2
    assert "has no steps" in told(capsys).err
    assert main(["train", str(recipe)]) == 2
    assert "only makes data" in told(capsys).err
    assert main(["recipe", "check", str(recipe)]) == 0
    assert "is not here" not in told(capsys).err


def test_mistakes_in_steps_are_told_with_their_lines(recipe):
    text = (
        recipe.read_text()
        .replace("workers: 1", "wokers: 1")
        .replace("detail: 6", "detial: 6")
        .replace("type: shapes", "type: shaps")
    )
    recipe.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_any(recipe)
    problems = "\n".join(error.value.problems)
    assert "little.yaml:6: prepare.render.convert.wokers: unknown key; did you mean 'workers'?" in problems
    assert "did you mean 'shapes'?" in problems
    assert "did you mean 'detail'?" in problems


def test_a_step_is_one_thing():
    part = {"type": "shapes"}
    with pytest.raises(ValueError, match=r"expected one of .*convert.*, found nothing"):
        Step()
    with pytest.raises(ValueError, match="found convert and check"):
        Step(convert={"source": part, "to": "a"}, check={"source": part, "report": "b"})
