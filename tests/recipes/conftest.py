"""The recipes of this repository, read from its folder wherever the tests are started."""

from functools import lru_cache
from pathlib import Path

import pytest

from llava_kit.recipe.load import load_recipe

FOLDER = Path(__file__).parents[2] / "recipes"


@lru_cache
def _load(name):
    return load_recipe(FOLDER / f"{name}.yaml")


@pytest.fixture
def published():
    """`published(name)`: a recipe by the name of its file, checked with the installed plugins."""
    return _load


@pytest.fixture
def recipes_folder():
    return FOLDER
