"""The blocks of a recipe that name a plugin: where they stand, of which kind they are, whether its options are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from llava_kit.core.hookspecs import Options
from llava_kit.errors import PluginError, RecipeError
from llava_kit.registry.registry import Entry, Registry, words

from .blocks import Part
from .explain import explain
from .mixture import MIXTURE, Mixture
from .prepare import PREPARE, DataRecipe
from .schema import Recipe
from .tree import Node, Path, Place, Problem, find, place_of, plain, told

CHOICES = ("splicer", "loss")
"""Kinds of which the house has one itself; the keys of `model` so called may be a bare name."""

BUILT_IN = ("auto", "reference")
"""What such a key may say without a plugin."""


def parse_part(part: Part, kind: str, registry: Registry) -> tuple[Entry, BaseModel]:
    """The entry that `part.type` names, and `part`'s options checked by it.

    Raises:
        PluginError: the type is unknown, or its plugin is broken.
        RecipeError: the options are not the plugin's; every mistake is told.
    """
    entry = registry.get(kind, part.type)
    node = _as_node(part.options, Place(f"{words(kind)} {part.type!r},"))
    options, problems = check_options(entry, node, (), node)
    if options is None:
        raise RecipeError(told(problems))
    return entry, options


def parse_mixture(part: Part) -> Mixture:
    """A mixture's options. Raises RecipeError with every mistake in them; its sources' own options are not looked at."""
    node = _as_node(part.options, Place(f"source {MIXTURE!r},"))
    mixture, problems = _check_mixture(node, (), node)
    if mixture is None:
        raise RecipeError(told(problems))
    return mixture


def _as_node(value: Any, place: Place) -> Node:
    if isinstance(value, dict):
        return Node({key: _as_node(item, place) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([_as_node(item, place) for item in value], place)
    return Node(value, place)


def check_options(entry: Entry, node: Node, path: Path, root: Node) -> tuple[BaseModel | None, list[Problem]]:
    """A part's options (`node`, its block without `type`) as its plugin's own class; or None and what is wrong with them."""
    model = entry.options or Options
    try:
        options = model.model_validate(plain(node))
    except ValidationError as error:
        return None, explain(error, model, node, path, root)
    except Exception as error:  # the plugin's class itself is at fault, a name in it that does not exist for example
        reason = f"plugin {entry.plugin}: its options cannot be checked ({type(error).__name__}: {error})"
        return None, [Problem(place_of(root, path), path, reason)]
    problems = list(not_numbers(node, options, path))
    return (None if problems else options), problems


def not_numbers(node: Node, value: Any, path: Path) -> Iterator[Problem]:
    """Booleans that a model took for numbers (pydantic reads true as 1)."""
    if isinstance(node.value, dict):
        for key, below in node.value.items():
            yield from not_numbers(below, _value_at(value, key), (*path, key))
    elif isinstance(node.value, list) and isinstance(value, list | tuple):
        for number, (below, item) in enumerate(zip(node.value, value)):
            yield from not_numbers(below, item, (*path, number))
    elif isinstance(node.value, bool) and isinstance(value, int | float) and not isinstance(value, bool):
        yield Problem(node.place, path, f"expected a number, found {str(node.value).lower()}")


def _value_at(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if key == (field.alias or name):
                return getattr(value, name)
        return (value.__pydantic_extra__ or {}).get(key)
    return None


def parts_in(root: Node) -> Iterator[tuple[Path, str, Node]]:
    """Every block of a recipe's tree that names a plugin: its path, its kind, its node. Nothing else of it need be right."""
    model: Path = ("model",)
    encoders = find(root, ("model", "encoder"))
    if encoders is not None and isinstance(encoders.value, list):
        for number, node in enumerate(encoders.value):
            yield (*model, "encoder", number), "encoder", node
    paths = [((*model, kind), kind) for kind in ("encoder", "connector", "language_model", "template", *CHOICES)]
    stages = find(root, ("stages",))
    for name in stages.value if stages is not None and isinstance(stages.value, dict) else ():
        stage: Path = ("stages", name)
        paths += [((*stage, "data", "source"), "source"), ((*stage, "data", "template"), "template")]
        paths += [((*stage, "validate", "source"), "source")]
    for path, kind in [*paths, (("evaluate", "benchmark"), "benchmark"), *_prepared_paths(root)]:
        node = find(root, path)
        if node is not None and not isinstance(node.value, list):
            yield path, kind, node
            yield from _ingredients_in(path, node)


def _prepared_paths(root: Node) -> Iterator[tuple[Path, str]]:
    """Where the steps that make data name plugins."""
    steps = find(root, (PREPARE,))
    for name in steps.value if steps is not None and isinstance(steps.value, dict) else ():
        step = find(root, (PREPARE, name))
        for action in step.value if step is not None and isinstance(step.value, dict) else ():
            path: Path = (PREPARE, name, action)
            yield (*path, "source"), "source"
            yield (*path, "teacher"), "teacher"
            several = find(root, (*path, "against"))
            if several is not None and isinstance(several.value, list):
                yield from (((*path, "against", number), "source") for number in range(len(several.value)))


def _ingredients_in(path: Path, node: Node) -> Iterator[tuple[Path, str, Node]]:
    """The sources within a mixture, mixtures within mixtures included."""
    ingredients = find(node, ("of",)) if _is_mixture(node) else None
    for name in ingredients.value if ingredients is not None and isinstance(ingredients.value, dict) else ():
        below: Path = ("of", name, "source")
        source = find(node, below)
        if source is not None and isinstance(source.value, dict):
            yield (*path, *below), "source", source
            yield from _ingredients_in((*path, *below), source)


def _is_mixture(node: Node) -> bool:
    named = find(node, ("type",))
    return named is not None and named.value == MIXTURE


def parts_of(recipe: Recipe | DataRecipe) -> Iterator[tuple[Path, str, Part]]:
    """Every part of a checked recipe that a plugin builds: its path, its kind, its block."""
    yield from _prepared_parts(recipe)
    if isinstance(recipe, DataRecipe):
        return
    model = recipe.model
    if isinstance(model.encoder, Part):
        yield ("model", "encoder"), "encoder", model.encoder
    else:
        for number, part in enumerate(model.encoder):
            yield ("model", "encoder", number), "encoder", part
    yield ("model", "connector"), "connector", model.connector
    yield ("model", "language_model"), "language_model", model.language_model
    yield ("model", "template"), "template", model.template
    for kind in CHOICES:
        choice = getattr(model, kind)
        part = Part(type=choice) if isinstance(choice, str) else choice
        if part.type not in BUILT_IN:
            yield ("model", kind), kind, part
    for name, stage in recipe.stages.items():
        yield from sources_of(("stages", name, "data", "source"), stage.data.source)
        if stage.data.template is not None:
            yield ("stages", name, "data", "template"), "template", stage.data.template
        if stage.validate_on is not None:
            yield from sources_of(("stages", name, "validate", "source"), stage.validate_on.source)
    if recipe.evaluate is not None:
        yield ("evaluate", "benchmark"), "benchmark", recipe.evaluate.benchmark


def _prepared_parts(recipe: Recipe | DataRecipe) -> Iterator[tuple[Path, str, Part]]:
    for name, step in recipe.prepare.items():
        block, path = getattr(step, step.action), (PREPARE, name, step.action)
        yield from sources_of((*path, "source"), block.source)
        for number, part in enumerate(getattr(block, "against", ())):
            yield from sources_of((*path, "against", number), part)
        if getattr(block, "teacher", None) is not None:
            yield (*path, "teacher"), "teacher", block.teacher


def sources_of(path: Path, part: Part) -> Iterator[tuple[Path, str, Part]]:
    """The source itself, or those that a mixture is made of."""
    if part.type != MIXTURE:
        yield path, "source", part
        return
    for name, ingredient in Mixture.model_validate(part.options).of.items():
        yield from sources_of((*path, "of", name, "source"), ingredient.source)


def check_parts(root: Node, registry: Registry) -> tuple[dict[Path, BaseModel], list[Problem]]:
    """The options of every part of the tree by path, checked by its plugin, and all that is wrong with them."""
    checked: dict[Path, BaseModel] = {}
    problems: list[Problem] = []
    for path, kind, node in parts_in(root):
        if kind in CHOICES and isinstance(node.value, str):
            problems += _check_name(kind, node, path, registry)
        named = find(node, ("type",))
        if named is None or not isinstance(named.value, str):
            continue  # the schema tells that
        if kind in CHOICES and named.value in BUILT_IN:
            continue
        if kind == "source" and named.value == MIXTURE:
            options, faults = _check_mixture(_without_type(node), path, root)
            problems += faults
            if options is not None:
                checked[path] = options
            continue
        try:
            entry = registry.get(kind, named.value)
        except PluginError as error:
            problems.append(Problem(named.place, (*path, "type"), str(error)))
            continue
        options, faults = check_options(entry, _without_type(node), path, root)
        problems += faults
        if options is not None:
            checked[path] = options
    return checked, problems


def _check_mixture(node: Node, path: Path, root: Node) -> tuple[Mixture | None, list[Problem]]:
    try:
        mixture = Mixture.model_validate(plain(node))
    except ValidationError as error:
        return None, explain(error, Mixture, node, path, root)
    problems = list(not_numbers(node, mixture, path))
    return (None if problems else mixture), problems


def _without_type(part: Node) -> Node:
    return Node({key: below for key, below in part.value.items() if key != "type"}, part.place)


def _check_name(kind: str, node: Node, path: Path, registry: Registry) -> list[Problem]:
    if node.value in BUILT_IN:
        return []
    try:
        entry = registry.get(kind, node.value)
    except PluginError as error:
        return [Problem(node.place, path, f"{error} (built in: {', '.join(BUILT_IN)})")]
    return check_options(entry, Node({}, node.place), path, Node({}, node.place))[1]
