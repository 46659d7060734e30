"""`llava-kit recipe list|show|check|plan|copy|schema`: recipes, without torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import recipe_plan

if TYPE_CHECKING:
    from ..recipe.tree import Node

CHANGES = "changes, such as stages.align.train.connector.lr=5e-4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|check|plan|copy|schema")
    listed = actions.add_parser("list", help="the recipes that can be asked for by name")
    shown = actions.add_parser("show", help="a recipe in full: extended, changed, with every default")
    checked = actions.add_parser("check", help="find every mistake; exit code 2 if there is one")
    copied = actions.add_parser("copy", help="copy a recipe to change it")
    actions.add_parser("schema", help="the JSON schema of recipes, installed plugins included, for editors")
    for action in (listed, shown, checked):
        action.add_argument("--json", action="store_true", help="for programs")
    shown.add_argument("recipe", metavar="RECIPE", help="a file or a name")
    shown.add_argument("overrides", nargs="*", metavar="a.b=c", help=CHANGES)
    checked.add_argument("recipes", nargs="+", metavar="RECIPE|a.b=c", help="files or names, and changes to all of them")
    copied.add_argument("recipe", metavar="RECIPE", help="a file or a name")
    copied.add_argument("destination", metavar="DEST", help="a file or a folder")
    copied.add_argument("--force", action="store_true", help="write over a file that is there")
    recipe_plan.add_arguments(actions.add_parser("plan", help="what a recipe costs: parameters, steps, memory, hours"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "plan":
        return recipe_plan.run(arguments)
    actions = {"list": _list, "show": _show, "check": _check, "copy": _copy, "schema": _schema}
    return actions[arguments.action](arguments)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def _list(arguments: argparse.Namespace) -> int:
    from ..errors import RecipeError
    from ..recipe.find import named_recipes, recipe_folders
    from ..recipe.load import read_recipe_tree
    from .table import print_table

    found: list[dict[str, str]] = []
    for name, path in named_recipes().items():
        try:
            found.append({"name": name, "path": str(path), **_summary(read_recipe_tree(path))})
        except RecipeError as error:
            print(error, file=sys.stderr)
    if arguments.json:
        _print_json(found)
        return 0
    if not found:
        print(f"no recipes in {', '.join(map(str, recipe_folders())) or 'any folder'}", file=sys.stderr)
    rows = [(recipe["name"], recipe["parts"], recipe["description"]) for recipe in found]
    print_table([("NAME", "PARTS", "DESCRIPTION"), *rows])
    return 0


def _summary(root: Node) -> dict[str, str]:
    """What a recipe says of itself; it need not be right to be listed."""
    from ..recipe.parts import parts_in
    from ..recipe.prepare import PREPARE
    from ..recipe.tree import find

    description = find(root, ("description",))
    told = " ".join(str(description.value).split()) if description is not None else ""
    steps = find(root, (PREPARE,))
    if steps is not None and "model" not in root.value and isinstance(steps.value, dict):
        return {"parts": f"data: {', '.join(steps.value)}", "description": told}
    kinds = ("encoder", "connector", "language_model")
    types = [find(node, ("type",)) for _, kind, node in parts_in(root) if kind in kinds]
    return {"parts": " + ".join(str(named.value) for named in types if named is not None), "description": told}


def _show(arguments: argparse.Namespace) -> int:
    from ..recipe.load import load_any
    from ..recipe.write import as_values, recipe_to_yaml

    recipe = load_any(arguments.recipe, arguments.overrides)
    if arguments.json:
        _print_json(as_values(recipe))
    else:
        print(recipe_to_yaml(recipe), end="")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from ..errors import LlavaKitError, RecipeError
    from ..recipe.checks import find_warnings
    from ..recipe.load import load_any
    from ..registry.manager import default_registry

    registry = default_registry()
    # A recipe's name holds no "="; a file whose name does is there.
    overrides = [text for text in arguments.recipes if "=" in text and not Path(text).is_file()]
    names = [text for text in arguments.recipes if text not in overrides]
    if not names:
        raise RecipeError("no recipe was named, changes alone cannot be checked")
    reports: list[dict[str, Any]] = []
    for name in names:
        try:
            recipe = load_any(name, overrides, registry)
            reports.append({"recipe": name, "problems": [], "warnings": find_warnings(recipe, registry)})
        except LlavaKitError as error:
            problems = error.problems if isinstance(error, RecipeError) else [str(error)]
            reports.append({"recipe": name, "problems": problems, "warnings": []})
    if arguments.json:
        _print_json(reports)
    else:
        _print_reports(reports)
    return RecipeError.exit_code if any(report["problems"] for report in reports) else 0


def _print_reports(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        for problem in report["problems"]:
            print(problem, file=sys.stderr)
        for warning in report["warnings"]:
            print(f"{report['recipe']}: warning: {warning}", file=sys.stderr)
        count = len(report["problems"])
        print(f"{report['recipe']}: {f'{count} problem' + 's' * (count > 1) if count else 'well'}")


def _copy(arguments: argparse.Namespace) -> int:
    from ..errors import LlavaKitError
    from ..recipe.find import find_recipe

    source = find_recipe(arguments.recipe)
    destination = Path(arguments.destination)
    if destination.is_dir():
        destination = destination / source.name
    try:
        with destination.open("wb" if arguments.force else "xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise LlavaKitError(f"{destination} is there already; --force writes over it") from None
    except OSError as error:
        raise LlavaKitError(f"{destination}: cannot be written: {error.strerror or error}") from None
    print(f"{source} -> {destination}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from ..recipe.json_schema import recipe_json_schema
    from ..registry.manager import default_registry

    _print_json(recipe_json_schema(default_registry()))
    return 0
