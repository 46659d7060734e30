"""The README keeps its promises: its Python runs, its commands exist, its tables are those that were measured."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.readme import render
from llava_kit.cli.main import main
from llava_kit.errors import RecipeError
from llava_kit.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_tables_are_those_that_were_measured():
    assert render(README) == README, "run `python -m benchmarks.readme`"


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    Image.new("RGB", (60, 40), "navy").save("picture.png")
    scripts = [block for block in _blocks("python") if "import llava_kit\n" in block]
    assert len(scripts) == 2
    for script in scripts:
        exec(compile(script, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "quickstart").is_dir()


def test_the_recipe_is_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (recipe,) = [block for block in _blocks("yaml") if "extends:" in block]
    (tmp_path / "my_next.yaml").write_text(recipe)
    loaded = load_recipe("my_next.yaml")
    assert loaded.model.encoder.type == yaml.safe_load(recipe)["model"]["encoder"]["type"]
    assert loaded.stages["instruct"].data.pack


def test_the_wrong_key_is_answered_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (recipe,) = [block for block in _blocks("yaml") if "extends:" in block]
    (tmp_path / "my_next.yaml").write_text(recipe.replace("connector: {lr:", "connector: {weight_decy: 0, lr:"))
    with pytest.raises(RecipeError) as error:
        load_recipe("my_next.yaml")
    shown = re.search(r"^my_next\.yaml:\d+: (.*)$", README, flags=re.MULTILINE)
    assert shown is not None
    assert shown[1] in str(error.value)


def _verbs():
    section = README.split("## The command line")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return sorted({verb for cell in cells for verb in re.findall(r"`([a-z]+)", cell)})


@pytest.mark.parametrize("verb", _verbs())
def test_every_verb_of_the_table_has_help(verb):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)`?", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_files_it_points_to_exist():
    for link in re.findall(r"\]\(([A-Za-z_./-]+)\)", README):
        assert (ROOT / link).exists(), link
