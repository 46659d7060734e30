"""From a recipe's file, or name, to a checked `Recipe`: read, extend, override, validate, and tell every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llava_kit.errors import RecipeError, suggest
from llava_kit.registry.manager import default_registry
from llava_kit.registry.registry import Registry

from .checks import check_rules
from .explain import explain
from .find import find_base, find_recipe
from .parts import check_parts, not_numbers, parse_part, parts_of
from .prepare import PREPARE, DataRecipe
from .reader import read_file, read_value
from .schema import Recipe
from .tree import Node, Path, Place, Problem, find, laid_over, plain, told
from .write import as_values, recipe_to_yaml

__all__ = ["load_any", "load_recipe", "parse_part", "parts_of", "read_recipe_tree", "recipe_to_yaml"]

EXTENDS = "extends"


def load_recipe(path_or_name: str | FilePath, overrides: Sequence[str] = (), registry: Registry | None = None) -> Recipe:
    """The recipe of a file, or of a bare name such as `quickstart`, with `overrides` such as `stages.align.steps=4` on top.

    Every part's options are checked by its plugin and filled with the plugin's defaults, so the result says all that a run
    depends on. No torch is imported.

    Raises:
        RecipeError: every mistake found, one line each: `file:line: key: what is wrong; what was meant`.
    """
    recipe = load_any(path_or_name, overrides, registry)
    if isinstance(recipe, DataRecipe):
        raise RecipeError(f"{path_or_name}: only makes data (it has no `model`); run `llava-kit data prepare {path_or_name}`")
    return recipe


def load_any(
    path_or_name: str | FilePath, overrides: Sequence[str] = (), registry: Registry | None = None
) -> Recipe | DataRecipe:
    """As `load_recipe`, and recipes that only make data too: those with `prepare`, and neither `model` nor `stages`."""
    root = read_recipe_tree(path_or_name)
    problems: list[Problem] = []
    if overrides:
        over, problems = read_overrides(overrides, root)
        root = laid_over(root, over)
    only_data = PREPARE in root.value and not {"model", "stages"} & set(root.value)
    recipe, faults = _validate(root, DataRecipe if only_data else Recipe)
    checked, part_faults = check_parts(root, default_registry() if registry is None else registry)
    problems = [*problems, *faults, *part_faults, *check_rules(root)]
    if recipe is None or problems:
        raise RecipeError(told(problems))
    return _filled(recipe, checked)


Loaded = TypeVar("Loaded", bound=Recipe | DataRecipe)


def _validate(root: Node, model: type[Loaded]) -> tuple[Loaded | None, list[Problem]]:
    try:
        recipe = model.model_validate(plain(root))
    except ValidationError as error:
        return None, explain(error, model, root)
    return recipe, list(not_numbers(root, recipe, ()))


def _filled(recipe: Loaded, checked: dict[Path, BaseModel]) -> Loaded:
    """The recipe with its plugins' defaults written out."""
    values = as_values(recipe)
    # A mixture before the sources in it: its own block holds theirs as they were written.
    for path, options in sorted(checked.items(), key=lambda item: len(item[0])):
        block: Any = values
        for key in path:
            block = block[key]
        block.update(as_values(options))
    return type(recipe).model_validate(values)


def read_recipe_tree(path_or_name: str | FilePath) -> Node:
    """A recipe's file laid over the files that it extends; checked as YAML only.

    Raises:
        RecipeError: a file is missing or not such YAML, or the files extend one another in a circle.
    """
    chain: list[tuple[FilePath, Node]] = []
    path: FilePath | None = find_recipe(path_or_name)
    while path is not None:
        root = read_file(path)
        chain.append((path, root))
        path = _base_of(path, root)
        if path is not None and any(path.resolve() == seen.resolve() for seen, _ in chain):
            circle = " -> ".join(str(name) for name in [*(seen for seen, _ in chain), path])
            raise RecipeError(f"{chain[-1][0]}:{root.value[EXTENDS].place.line}: {EXTENDS}: the files go in a circle: {circle}")
    _, merged = chain[-1]
    for _, over in reversed(chain[:-1]):
        merged = laid_over(merged, over)
    return Node({key: node for key, node in merged.value.items() if key != EXTENDS}, merged.place)


def _base_of(path: FilePath, root: Node) -> FilePath | None:
    named = root.value.get(EXTENDS)
    if named is None:
        return None
    if not isinstance(named.value, str) or not named.value:
        raise RecipeError(named.place.says((EXTENDS,), "expected the name of one recipe file"))
    try:
        return find_base(named.value, path)
    except RecipeError as error:
        raise RecipeError(named.place.says((EXTENDS,), str(error))) from None


def read_overrides(overrides: Sequence[str], recipe: Node) -> tuple[Node, list[Problem]]:
    """`a.b=c` texts as one tree, a later one winning, and those that cannot be read.

    Values are YAML: numbers, texts, [lists], {blocks}.
    They are gathered before they are laid over `recipe`, so that their order does not matter where a `type` changes.
    """
    place = Place("override")
    root = Node({}, place)
    stages = find(recipe, ("stages",))
    names = list(stages.value) if stages is not None and isinstance(stages.value, dict) else []
    problems: list[Problem] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            problems.append(Problem(place, (override,), "an override is written key=value, with dots between keys"))
            continue
        if path[0] == "stages" and len(path) > 2 and names and path[1] not in names:
            # Laid over the recipe it would begin a new stage, and the mistake would be told as five missing keys.
            problems.append(Problem(place, path, f"there is no stage {path[1]!r}; {suggest(path[1], names)}"))
            continue
        try:
            value = read_value(text)
        except RecipeError as error:
            problems += [Problem(place, path, line) for line in error.problems]
            continue
        root = laid_over(root, _nested(path, value))
    return root, problems


def _nested(path: Path, value: Node) -> Node:
    for key in reversed(path):
        value = Node({key: value}, value.place)
    return value
