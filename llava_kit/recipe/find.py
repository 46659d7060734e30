"""Where recipes are: the folder `recipes` here, then those that were installed with llava_kit."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from llava_kit.errors import RecipeError, nearest

SUFFIXES = (".yaml", ".yml")


def recipe_folders() -> list[Path]:
    """The folders that a recipe's name is looked for in, nearest first; those that do not exist are left out."""
    installed = Path("share", "llava-kit", "recipes")
    source_tree = Path(__file__).resolve().parents[2]
    candidates = [
        Path("recipes"),
        Path(sys.prefix) / installed,
        Path(sysconfig.get_path("data")) / installed,
        *_user_folder(installed),
        source_tree / installed,  # `pip install --target`: beside the package
        # An editable installation carries no share folder: its recipes stay beside the package.
        *([source_tree / "recipes"] if (source_tree / "pyproject.toml").is_file() else []),
    ]
    folders: dict[Path, Path] = {}
    for folder in candidates:
        if folder.is_dir():
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def _user_folder(installed: Path) -> Iterator[Path]:
    scheme = sysconfig.get_preferred_scheme("user")
    if sys.flags.no_user_site == 0:
        yield Path(sysconfig.get_path("data", scheme)) / installed


def named_recipes() -> dict[str, Path]:
    """Every recipe that can be asked for by name; the nearest folder wins. Bases are not recipes to run and are left out.

    Recipes that only make data lie in the folder `data` of each.
    """
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in [*sorted(folder.iterdir()), *sorted((folder / "data").glob("*"))]:
            if path.suffix in SUFFIXES and path.is_file():
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe: a path, or a bare name such as `quickstart`.

    Raises:
        RecipeError: there is no such file; the folders that were searched and the nearest name are told.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.parent == Path() and path.suffix in ("", *SUFFIXES):
        named = named_recipes()
        if path.stem in named:
            return named[path.stem]
        folders = ", ".join(map(str, recipe_folders())) or "no folder of recipes"
        best = nearest(path.stem, named)
        hint = f"; did you mean {best!r}?" if best else _neighbour(path) or "; `llava-kit recipe list` shows all"
        raise RecipeError(f"there is no recipe {str(path_or_name)!r} (looked for a file, then in {folders}){hint}")
    what = "is a folder, not a recipe file" if path.is_dir() else "there is no such recipe file"
    raise RecipeError(f"{path}: {what}{_neighbour(path)}")


def find_base(extends: str, beside: Path) -> Path:
    """The file that `extends` names: relative to the file that says it, then in the folders of recipes.

    The second place lets a copied recipe keep extending the base it was copied with.
    """
    for folder in (beside.parent, *recipe_folders()):
        if (folder / extends).is_file():
            return folder / extends
    meant = _neighbour(beside.parent / extends)
    raise RecipeError(f"there is no file {extends!r} beside {beside} nor among the installed recipes{meant}")


def _neighbour(path: Path) -> str:
    """The tail of an error about a missing file: the file of that folder that was most likely meant."""
    if not path.parent.is_dir():
        return ""
    best = nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES])
    return f"; did you mean {best!r}?" if best else ""
