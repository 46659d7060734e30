"""`llava-kit recipe`: list, show, check, copy, schema."""

import json

import pytest

from llava_kit.cli.main import main
from llava_kit.recipe.load import load_recipe


@pytest.fixture
def named(toy_recipe):
    """The toy recipe as one that is asked for by name, beside one that cannot be read."""
    folder = toy_recipe.parent / "recipes"
    folder.mkdir()
    text = toy_recipe.read_text() + "description: A recipe\n  on two lines.\n"
    (folder / "zz_mine.yaml").write_text(text, encoding="utf-8")
    (folder / "zz_bad.yaml").write_text("a: [", encoding="utf-8")
    return folder / "zz_mine.yaml"


def test_list(named, capsys):
    assert main(["recipe", "list"]) == 0
    shown = capsys.readouterr()
    row = next(line for line in shown.out.splitlines() if line.startswith("zz_mine"))
    assert " ".join(row.split()) == "zz_mine toy + toy_mlp + toy_lm A recipe on two lines."
    assert "zz_bad.yaml" in shown.err
    assert main(["recipe", "list", "--json"]) == 0
    listed = {recipe["name"]: recipe for recipe in json.loads(capsys.readouterr().out)}
    assert listed["zz_mine"]["parts"] == "toy + toy_mlp + toy_lm"


def test_show_is_the_recipe_in_full(named, capsys, tmp_path):
    assert main(["recipe", "show", "zz_mine", "seed=5", "model.encoder.layer=-3"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(shown, encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == load_recipe("zz_mine", ["seed=5", "model.encoder.layer=-3"])
    assert main(["recipe", "show", "zz_mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["encoder"]["rate"] == 0.5


def test_check(toy_recipe, named, capsys):
    assert main(["recipe", "check", "toy.yaml", "zz_mine", "stages.align.data.source.path=gone.json"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "toy.yaml: well\nzz_mine: well\n"
    assert shown.err.splitlines()[0] == "toy.yaml: warning: stages.align.data.source.path: gone.json is not here"

    assert main(["recipe", "check", "toy.yaml", "recipes/zz_bad.yaml", "gone.yaml", "nme=x", "stages.align.epochs=1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "toy.yaml: 2 problems\nrecipes/zz_bad.yaml: 1 problem\ngone.yaml: 1 problem\n"
    assert "override nme: unknown key; did you mean 'name'?" in shown.err

    assert main(["recipe", "check", "--json", "toy.yaml", "nme=x"]) == 2
    [report] = json.loads(capsys.readouterr().out)
    assert report["problems"] == ["override nme: unknown key; did you mean 'name'?"]
    assert main(["recipe", "check", "a=b"]) == 2


def test_copy(toy_recipe, named, capsys):
    (named.parent / "bases").mkdir()
    named.rename(named.parent / "bases" / "low.yaml")
    named.write_text("# why\nextends: bases/low.yaml\nname: mine\n", encoding="utf-8")
    assert main(["recipe", "copy", "zz_mine", "copied.yaml"]) == 0
    assert main(["recipe", "copy", "zz_mine", "."]) == 0
    copied = toy_recipe.with_name("copied.yaml")
    assert copied.read_text() == named.read_text()
    assert toy_recipe.with_name("zz_mine.yaml").exists()
    assert load_recipe("copied.yaml").name == "mine"  # its base is still found
    copied.write_text("name: changed", encoding="utf-8")
    assert main(["recipe", "copy", "zz_mine", "copied.yaml"]) == 2
    assert "--force writes over it" in capsys.readouterr().err
    assert copied.read_text() == "name: changed"
    assert main(["recipe", "copy", "--force", "zz_mine", "copied.yaml"]) == 0
    assert copied.read_text() == named.read_text()
    assert main(["recipe", "copy", "zz_mine", "no/such/folder.yaml"]) == 2


def test_schema(toy_recipe, capsys):
    assert main(["recipe", "schema"]) == 0
    assert "encoder.toy" in json.loads(capsys.readouterr().out)["$defs"]
