"""`llava-kit train RECIPE [a.b=c ...]`: train the stages of a recipe, ask the finished model, write the report."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipe.schema import Recipe
    from ..train.run import RunResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file, or the name of one that came with llava_kit")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes, such as stages.align.train.connector.lr=5e-4")
    parser.add_argument("--stage", metavar="NAME", help="train this stage alone; default: all, in order")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto goes on with the latest unfinished run of this recipe (default); never starts a new one; PATH names a run",
    )


def run(arguments: argparse.Namespace) -> int:
    # Before the imports: loading torch is part of what the user waits for.
    started = time.time()
    from ..recipe.load import load_recipe
    from ..train.run import train
    from .data_prepare import prepare_here

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.prepare:
        prepare_here(recipe)
    result = train(recipe, stage=arguments.stage, resume=arguments.resume)
    if recipe.evaluate is not None and result.complete:
        _evaluate(recipe, result)
    _report(result, time.time() - started)
    return 0


def _evaluate(recipe: Recipe, result: RunResult) -> None:
    """Ask the finished model; a run that was already asked is not asked again."""
    from ..assemble.weights import load_model
    from ..evaluate.pictures import write_pictures
    from .evaluate import ask, print_table

    assert recipe.evaluate is not None
    if (result.folder / "evaluation.json").exists() and not result.trained:
        return
    evaluation = ask(load_model(result.folder), recipe.evaluate)
    evaluation.write(result.folder)
    write_pictures(evaluation.answers, result.folder / "pictures")
    print_table(evaluation.table)


def _report(result: RunResult, seconds: float) -> None:
    from ..report.collect import read_run
    from ..report.page import write_run

    path = result.folder / "report.html"
    if result.trained or not path.exists():
        write_run(read_run(result.folder, seconds=seconds), path)
    print(f"report: {path}", file=sys.stderr)
