from __future__ import annotations

import json
import os

import pytest
from llava_rows import write_rows
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.cli.main import main

SHAPES = "{type: shapes, task: instruct, split: test, size: 12}"


def run(*words) -> int:
    return main(["data", "convert", *map(str, words)])


def test_a_source_becomes_llava_s_json(tmp_path, capsys):
    assert run("--source", SHAPES, tmp_path / "out", "--limit", 9) == 0
    assert f"9 samples in {tmp_path}/out/data.json, 9 pictures\n" == capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "data.json").read_text())
    assert len(rows) == 9
    assert set(rows[0]) == {"id", "image", "conversations", "tags"}
    assert rows[0]["conversations"][0]["value"].startswith("<image>\n")
    with Image.open(tmp_path / "out" / rows[0]["image"]) as picture:
        assert picture.format == "PNG"


def test_what_was_written_is_converted_and_checked_again(tmp_path, capsys):
    assert run("--source", SHAPES, tmp_path / "a") == 0
    for form in ("parquet", "webdataset", "messages", "jsonl"):
        assert run(tmp_path / "a", tmp_path / form, "--to", form, "--workers", 1) == 0
        assert run(tmp_path / form, tmp_path / f"{form} again") == 0
    assert main(["data", "check", str(tmp_path / "a")]) == 0
    before = build("source", "llava_json", path=str(tmp_path / "a"))
    for form in ("parquet", "webdataset", "messages", "jsonl"):
        after = build("source", "llava_json", path=str(tmp_path / f"{form} again"))
        assert [after[index].conversation for index in range(12)] == [before[index].conversation for index in range(12)]
        assert [after[index].images[0].path for index in range(12)] == [before[index].images[0].path for index in range(12)]


def test_bad_samples_are_told_and_kept_aside(tmp_path, capsys):
    path = write_rows(tmp_path, 80)
    assert run(path, tmp_path / "out", "--workers", 2) == 3
    told = capsys.readouterr()
    assert told.out == (
        f"64 samples in {tmp_path}/out/data.json, 9 pictures (shown 64 times)\n"
        "8 samples have boxes beside the text (shares of the picture's sides)\n"
        "8 samples have boxes in their text, in shares of the picture padded to a square\n"
    )
    lines = told.err.splitlines()
    assert f"16 samples rejected, told in {tmp_path}/out/rejected.jsonl" in lines
    assert "        8  bad_row" in lines
    assert "        8  missing_image" in lines
    assert next(line for line in lines if line.startswith("r7: ")).startswith("r7: missing_image: picture 'pics/gone.jpg'")
    assert lines[-1] == "... and 6 more"
    assert run(path, tmp_path / "out", "--json") == 3
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path / "out"),
        "samples": 64,
        "pictures": 64,
        "picture_files": 9,
        "boxes beside the text": 8,
        "boxes padded": 8,
        "rejected": 16,
        "rejected_by_reason": {"bad_row": 8, "missing_image": 8},
    }
    assert run(path, tmp_path / "out") == 3
    assert "of these 80 were looked at by an earlier run" in capsys.readouterr().out


def test_pictures_may_stay_where_they_are(tmp_path, capsys):
    path = write_rows(tmp_path, 5)
    assert run(path, tmp_path / "out", "--pictures", "keep", "--image-root", tmp_path / "pics") == 0
    assert json.loads((tmp_path / "out" / "data.json").read_text())[0]["image"] == "0.jpg"
    assert sorted(os.listdir(tmp_path / "out")) == ["data.json", "dataset.json"]
    assert main(["data", "check", str(tmp_path / "out")]) == 0


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
    data: {source: {type: shapes, task: instruct, size: 5}}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
    validate: {source: {type: shapes, task: instruct, split: validation, size: 3}, every: 5}
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fields=5", "fields.id=key"], "found 'fields.id=key' after fields=5"),
        (["a=[1]", "a.b.c=2"], "found 'a.b.c=2' after a=[1]"),
    ],
)
def test_a_key_with_a_value_has_no_keys(tmp_path, capsys, words, told):
    path = write_rows(tmp_path, 3)
    assert run(path, *words, tmp_path / "out") == 2
    assert told in capsys.readouterr().err


def test_the_data_of_a_stage(tmp_path, capsys):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    for words, count in (
        (["--stage", "instruct", tmp_path / "a"], 5),
        ([tmp_path / "b", "--stage", "align"], 4),
        (["stages.align.data.source.size=2", tmp_path / "c"], 2),
        (["--stage", "instruct", "--validation", tmp_path / "d"], 3),
    ):
        assert run(recipe, *words) == 0
        assert f"{count} samples" in capsys.readouterr().out
    assert run(recipe, "--validation", tmp_path / "e") == 2
    assert "no `validate` block" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ([], "expected DEST", 2),
        (["{new}"], "expected PATH, RECIPE, or --source", 2),
        (["quickstrat", "{new}"], "neither a file nor a recipe 'quickstrat'; did you mean the recipe 'quickstart'?", 3),
        (["--validation", "{full}/file", "{new}"], "is data itself, so leave it out", 2),
        (["--source", SHAPES, "{full}"], "not empty; expected a new folder", 3),
        (["--source", SHAPES, "{full}/file"], "is a file; expected a new folder", 3),
        (["--source", SHAPES, "{full}/file/new"], "cannot be made: Not a directory", 3),
        (["--source", "shapes", "{new}"], "expected a block", 2),
        (["--source", "{{type: shaps}}", "{new}"], "did you mean 'shapes'", 2),
        (["--source", SHAPES, "--limit", "0", "{new}"], "--limit 0", 2),
        (["--source", SHAPES, "--to", "parket", "{new}"], "there is no such form; did you mean 'parquet'?", 2),
        (["--source", SHAPES, "--workers", "0", "{new}"], "--workers 0: expected at least 1", 2),
        (["--source", SHAPES, "--pictures", "keep", "{new}"], "say with --image-root under which folder", 2),
        (["--source", SHAPES, "--pictures", "keep", "--image-root", "{new}", "{new}"], "there is no such folder", 2),
        (["--source", SHAPES, "--image-root", "{full}", "{new}"], "belongs to --pictures keep", 2),
        (["{rows}", "--from", "llava_jsn", "{new}"], "did you mean 'llava_json'?", 2),
        (["{rows}", "image_rot=x", "{new}"], "did you mean 'image_root'?", 2),
        (
            ["{rows}", "{new}", "--to", "parquet", "--pictures", "keep", "--image-root", "{full}"],
            "holds the pictures themselves",
            2,
        ),
    ],
)
def test_mistakes(tmp_path, capsys, words, told, code):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    names = {"new": tmp_path / "new", "full": tmp_path / "full", "rows": write_rows(tmp_path, 2)}
    assert run(*(word if word == SHAPES else word.format(**names) for word in words)) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert os.listdir(tmp_path / "full") == ["file"]
