"""Where recipes are looked for."""

import sys

import pytest

from llava_kit.errors import RecipeError
from llava_kit.recipe import find
from llava_kit.recipe.find import find_base, find_recipe, named_recipes


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A working folder with its own recipes, and an installation with others."""
    here, installed = tmp_path / "here", tmp_path / "prefix" / "share" / "llava-kit" / "recipes"
    (here / "recipes").mkdir(parents=True)
    (installed / "bases").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(find.sysconfig, "get_path", lambda *_: str(tmp_path / "prefix"))
    for folder, name in ((here / "recipes", "a"), (installed, "a"), (installed, "b"), (installed / "bases", "base")):
        (folder / f"{name}.yaml").write_text(f"name: {folder.name}", encoding="utf-8")
    return here, installed


def test_the_folder_here_comes_first(folders):
    here, installed = folders
    named = named_recipes()
    assert named["a"].resolve() == here / "recipes" / "a.yaml"
    assert named["b"] == installed / "b.yaml"
    assert "base" not in named
    assert find_recipe("b.yaml") == installed / "b.yaml"


def test_a_file_comes_before_a_name(folders):
    (folders[0] / "b.yaml").write_text("name: mine", encoding="utf-8")
    assert find_recipe("b.yaml").read_text() == "name: mine"


def test_a_copied_recipe_still_finds_its_base(folders):
    here, installed = folders
    assert find_base("bases/base.yaml", here / "copy.yaml") == installed / "bases" / "base.yaml"
    (here / "bases").mkdir()
    (here / "bases" / "base.yaml").write_text("name: near", encoding="utf-8")
    assert find_base("bases/base.yaml", here / "copy.yaml") == here / "bases" / "base.yaml"
    with pytest.raises(RecipeError, match=r"did you mean 'base.yaml'\?"):
        find_base("bases/bse.yaml", here / "copy.yaml")


def test_the_repository_s_own_recipes_are_found_in_an_editable_installation():
    assert all(path.suffix == ".yaml" for path in named_recipes().values())
