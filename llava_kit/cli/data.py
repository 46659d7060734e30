"""`llava-kit data export|check`: any data source as LLaVA's own JSON with picture files; and what is wrong with its samples."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.source import DataSource


class _Intermixed(argparse.ArgumentParser):
    """Options may stand between the positional words: `export RECIPE --stage NAME DEST`."""

    _parsing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._parsing:  # parse_known_intermixed_args calls it twice
            return super().parse_known_args(args, namespace)
        self._parsing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._parsing = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="export|check", parser_class=_Intermixed)
    exported = actions.add_parser("export", help="write samples as LLaVA's JSON, with their pictures as PNG files")
    exported.add_argument("words", nargs="*", metavar="[RECIPE [a.b=c ...]] DEST", help="a recipe, changes to it; a new folder")
    checked = actions.add_parser("check", help="find the samples that cannot be used; exit code 3 if there is one")
    checked.add_argument("words", nargs="*", metavar="RECIPE [a.b=c ...]", help="a recipe and changes to it")
    checked.add_argument("--json", action="store_true", help="for programs")
    for action in (exported, checked):
        action.add_argument("--source", metavar="YAML", help="a source as in a recipe: '{type: shapes, split: test}'")
        action.add_argument("--stage", metavar="NAME", help="whose data; default: the recipe's first stage")
        action.add_argument("--validation", action="store_true", help="the stage's held-out samples instead")
        action.add_argument("--limit", type=int, metavar="N", help="the first so many samples")


def run(arguments: argparse.Namespace) -> int:
    return {"export": _export, "check": _check}[arguments.action](arguments)


def _open(arguments: argparse.Namespace, words: list[str]) -> tuple[DataSource, int]:
    """The source that the arguments name, and how many of its samples are meant."""
    from ..assemble.parts import build_source
    from ..errors import LlavaKitError, RecipeError
    from ..recipe.load import load_recipe
    from ..recipe.reader import read_value
    from ..recipe.schema import Part
    from ..recipe.tree import plain
    from .stage_data import choose_stage

    if (arguments.source is None) == (not words):
        raise LlavaKitError("expected a RECIPE or --source '{type: ...}', one of them")
    if arguments.source is not None:
        block = plain(read_value(arguments.source))
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RecipeError(f"--source: found {arguments.source!r}; expected a block such as '{{type: shapes, split: test}}'")
        part = Part.model_validate(block)
    else:
        name, stage = choose_stage(load_recipe(words[0], words[1:]), arguments.stage)
        part = stage.data.source
        if arguments.validation:
            if stage.validate_on is None:
                raise RecipeError(f"stage {name!r} has no `validate` block")
            part = stage.validate_on.source
    source = build_source(part)
    if arguments.limit is not None and arguments.limit < 1:
        raise LlavaKitError(f"--limit {arguments.limit}: expected at least 1")
    return source, min(len(source), arguments.limit or len(source))


def _export(arguments: argparse.Namespace) -> int:
    from ..data.export import export_samples
    from ..errors import LlavaKitError
    from .progress import progress

    if not arguments.words:
        raise LlavaKitError("expected DEST, a folder to write to")
    *words, destination = arguments.words
    source, count = _open(arguments, words)
    with progress("export", "samples") as show:
        written, bad = export_samples(source, count, destination, show)
    print(f"{written} samples in {destination}/data.json")
    return _tell_bad(bad)


def _check(arguments: argparse.Namespace) -> int:
    import json
    from collections import Counter

    from ..data.export import check_samples
    from .progress import progress

    source, count = _open(arguments, arguments.words)
    with progress("check", "samples") as show:
        bad = check_samples(source, count, show)
    if arguments.json:
        counts = Counter(sample.reason for sample in bad)
        print(json.dumps({"samples": count, "counts": counts, "bad": [sample._asdict() for sample in bad]}, ensure_ascii=False))
        return 3 if bad else 0
    print(f"{count} samples, {len(bad)} of them cannot be used")
    return _tell_bad(bad)


def _tell_bad(bad: list[Any]) -> int:
    for sample in bad:
        print(f"{sample.id}: {sample.reason}: {sample.message}", file=sys.stderr)
    return 3 if bad else 0
