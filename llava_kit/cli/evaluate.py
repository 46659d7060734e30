"""`llava-kit evaluate SOURCE`: ask a finished model the questions of its recipe, or of another one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .progress import progress
from .source import add_placement, add_source, load_source

if TYPE_CHECKING:
    from ..assemble.parts import Assembly
    from ..evaluate.run import Evaluation
    from ..recipe.schema import Evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_placement(parser)
    parser.add_argument("--recipe", metavar="RECIPE", help="take the questions of this recipe; default: the model's own")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes to the recipe, such as evaluate.batch_size=8")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N questions")
    parser.add_argument("--output", metavar="FOLDER", help="write evaluation.json and predictions.jsonl there")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..errors import RecipeError
    from ..recipe.load import load_recipe

    recipe = load_recipe(arguments.recipe or _own_recipe(Path(arguments.source)), arguments.overrides)
    if recipe.evaluate is None:
        raise RecipeError(f"recipe {recipe.name!r} has no `evaluate` block; name one that has by --recipe")
    evaluation = ask(load_source(arguments), recipe.evaluate, limit=arguments.limit)
    if arguments.output:
        output = Path(arguments.output)
        output.mkdir(parents=True, exist_ok=True)
        evaluation.write(output)
    if arguments.json:
        print(json.dumps(evaluation.table, indent=2))
    else:
        print_table(evaluation.table)
    return 0


def _own_recipe(source: Path) -> Path:
    """The recipe that lies beside a model of ours."""
    from ..assemble.weights import find_model, holds_own_model
    from ..errors import RecipeError

    if source.is_dir() and not holds_own_model(source):
        raise RecipeError(f"{source}: has no recipe of its own; name one with an `evaluate` block by --recipe")
    return find_model(source) / "recipe.yaml"


def ask(assembly: Assembly, block: Evaluate, *, limit: int | None = None) -> Evaluation:
    """The evaluation, with progress on the terminal."""
    from ..evaluate.run import evaluate

    with progress("evaluating", "questions") as show:
        return evaluate(assembly, block, limit=limit, progress=show)


def print_table(table: Mapping[str, Any]) -> None:
    """Accuracy and its baselines, a row per question type."""
    from rich.console import Console
    from rich.table import Table

    columns = [name for name in ("accuracy", "wrong_picture", "majority") if name in table]
    groups = table.get("groups", {})
    shown = Table(title=f"{table['questions']} questions")
    shown.add_column("type")
    for name in ("questions", *columns, *groups):
        shown.add_column(name.replace("_", " "), justify="right")
    for kind in table["accuracy"]:
        cells = [str(table["questions_by_type"][kind])] + [f"{table[name][kind]:.1%}" for name in columns]
        cells += [f"{group['accuracy'][kind]:.1%}" if kind in group["accuracy"] else "" for group in groups.values()]
        shown.add_row(kind, *cells, style="bold" if kind == "all" else None)
    Console().print(shown)
