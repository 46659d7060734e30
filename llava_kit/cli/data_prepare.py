"""`llava-kit data prepare RECIPE`: the steps of a recipe that make its data, each once."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..prepare.run import Done
    from ..recipe.prepare import DataRecipe
    from ..recipe.schema import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe with a `prepare` block: a file or a name")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes, such as prepare.instruct.generate.seed=1")
    parser.add_argument("--step", metavar="NAME", help="this step alone; default: all, in order")


def run(arguments: argparse.Namespace) -> int:
    from ..errors import RecipeError
    from ..recipe.load import load_any
    from .table import print_table

    recipe = load_any(arguments.recipe, arguments.overrides)
    if not recipe.prepare:
        raise RecipeError(f"{arguments.recipe}: has no steps under `prepare`; its data are read as they are")
    done = prepare_here(recipe, arguments.step)
    rows = [(one.name, one.action, one.target, f"{one.seconds:.0f} s" if one.made else "before", one.told) for one in done]
    print_table([("STEP", "DOES", "MAKES", "TOOK", "RESULT"), *rows])
    return 0


def prepare_here(recipe: Recipe | DataRecipe, step: str | None = None) -> list[Done]:
    """Runs the steps with progress on the error output."""
    from ..prepare.run import prepare
    from .progress import progress

    return prepare(recipe, only=step, say=lambda line: print(line, file=sys.stderr, flush=True), progress=progress)
