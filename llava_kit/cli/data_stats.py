"""`llava-kit data stats`: what is in data, and how sources and mixtures differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .data_source import add_source, refuse_outputs

if TYPE_CHECKING:
    from ..audit.stats import Comparison, Input

# Words, verbs and ingredients that the terminal shows of each; the page and --json have more.
_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    several = "files, folders or recipes, each with changes behind it: A.json image_root=coco B.json"
    parser.add_argument("words", nargs="*", metavar="DATA [option=value ...]", help=several)
    parser.add_argument("--names", metavar="A,B,...", help="what the inputs are called; default: by their files")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--tokens", metavar="RECIPE", help="count tokens too, as this recipe's model (and --stage) would")
    parser.add_argument("--no-sizes", action="store_true", help="do not read the headers of pictures")
    parser.add_argument(
        "--tag", type=int, metavar="ROWS", help="rows of each input whose verbs and nouns are found; default 5000"
    )
    parser.add_argument("--seed", type=int, default=0, help="which rows these are; default 0")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes; default 2")
    add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    import json

    from ..audit.stats import TAGGED_ROWS, compare
    from ..audit.stats_page import as_dict, render_page
    from ..errors import LlavaKitError
    from .progress import progress

    for name in ("tag", "workers"):
        if (getattr(arguments, name) or 0) < 0:
            raise LlavaKitError(f"--{name} {getattr(arguments, name)}: expected 0 or more")
    refuse_outputs({"--html": arguments.html}, arguments.words, arguments.source)
    inputs = _inputs(arguments)
    refuse_outputs({"--html": arguments.html}, [one.source for one in inputs])
    maker = _maker(arguments)
    with progress("count", "samples") as show:
        comparison = compare(
            inputs,
            maker=maker,
            sizes=not arguments.no_sizes,
            tag_rows=TAGGED_ROWS if arguments.tag is None else arguments.tag,
            seed=arguments.seed,
            workers=arguments.workers,
            show=show,
        )
    if arguments.html:
        page = Path(arguments.html)
        text = render_page(comparison, " and ".join(one.name for one in inputs))
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise LlavaKitError(f"--html {page}: cannot be written: {error.strerror or error}") from error
    if arguments.json:
        print(json.dumps(as_dict(comparison), ensure_ascii=False))
        return 0
    _print(comparison)
    if arguments.html:
        print(f"\npage: {arguments.html}")
    return 0


def _inputs(arguments: argparse.Namespace) -> list[Input]:
    """The sources that are named: a word with `=` belongs to what stands before it."""
    from ..audit.stats import Input
    from ..errors import LlavaKitError
    from .data_source import open_source

    groups: list[list[str]] = []
    for word in arguments.words:
        # A file may have a = in its name.
        if "=" in word and groups and not Path(word).exists():
            groups[-1].append(word)
        else:
            groups.append([word])
    if arguments.source is not None and not groups:
        groups = [[]]
    if not groups:
        raise LlavaKitError("expected data: files, folders or recipes, or --source '{type: ...}'")
    names = arguments.names.split(",") if arguments.names else []
    if names and len(names) != len(groups):
        raise LlavaKitError(f"--names: found {len(names)} names for {len(groups)} inputs; expected one for each")
    inputs = []
    for number, words in enumerate(groups):
        opened = open_source(arguments, words)
        name = names[number] if names else _name(words, opened.part.type, [one.name for one in inputs])
        inputs.append(Input(name, opened.source, opened.count, " ".join(words) or str(arguments.source)))
    return inputs


def _name(words: list[str], type: str, taken: list[str]) -> str:
    """What an input is called when nobody said it: its file's name, with its folder's where two have the same."""
    if not words:
        return type
    path = Path(words[0])
    name = path.stem or path.resolve().name
    if name in taken:
        name = f"{path.resolve().parent.name}/{name}"
    return name


def _maker(arguments: argparse.Namespace):
    if arguments.tokens is None:
        return None
    from ..recipe.load import load_recipe
    from .stage_data import choose_stage, stage_maker

    recipe = load_recipe(arguments.tokens, [])
    _, stage = choose_stage(recipe, arguments.stage)
    return stage_maker(recipe, stage)[0]


def _print(comparison: Comparison) -> None:
    from ..audit.stats_page import figures, telling_words, top_words
    from .table import print_table

    print_table(figures(comparison))
    groups = dict(list(comparison.compared().items())[:_SHOWN])
    print("\nfrequent words of the answers")
    print_table([[f"  {name}", " ".join(word for word, _ in top_words(group, _SHOWN))] for name, group in groups.items()])
    if any(group.pairs or group.asked for group in groups.values()):
        for what, counted in (("verbs with nouns of the questions", "asked"), ("verbs with nouns of the answers", "pairs")):
            print(f"\n{what}")
            pairs = {name: getattr(group, counted).most_common(_SHOWN // 2) for name, group in groups.items()}
            rows = [[f"  {name}", ", ".join(f"{verb} {noun}" for (verb, noun), _ in found)] for name, found in pairs.items()]
            print_table(rows)
    parting = telling_words(comparison, _SHOWN)
    if parting:
        print("\nwords that part each from the others")
        print_table([[f"  {name}", " ".join(words)] for name, words in list(parting.items())[:_SHOWN]])
        names, rows = comparison.distances()
        print("\nhow far apart the answers' words are (Jensen-Shannon, bits; 1: no word shared)")
        print_table([["", *names], *([name, *(f"{bits:.3f}" for bits in row)] for name, row in zip(names, rows))])
    for note in comparison.notes:
        print(f"\nnote: {note}")
