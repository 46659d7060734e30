"""`llava-kit inspect tokens`: what a sample becomes, token by token, and which tokens the model learns to say.

With a recipe: as a stage of it sees the samples, on the terminal. Without: a template, a tokenizer and a file of conversations
are enough, no picture is opened, and a picture counts as one position.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..core.conversation import Sample
    from ..core.source import DataSource
    from ..core.template import ConversationTemplate
    from ..data.look import Look

# What labels say where nothing is learnt, as LLaVA and transformers have it.
IGNORED = -100
# Samples shown when nobody said which.
SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a file or a name; or none, with the next three options")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes to the recipe")
    parser.add_argument("--template", metavar="NAME", help="a conversation template, as in a recipe")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the template, as in a recipe: mask=original"
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="a folder with a tokenizer")
    parser.add_argument("--data", metavar="FILE", help="conversations: LLaVA's JSON, JSON lines, or OpenAI-style messages")
    parser.add_argument("--stage", metavar="NAME", help="of the recipe; default: the first")
    parser.add_argument("--index", type=int, nargs="+", metavar="N", help="these samples, counted from 0")
    parser.add_argument("--max-length", type=int, metavar="N", help="without a recipe: a picture counts as one position")
    parser.add_argument(
        "--too-long", choices=("drop_turns", "drop_sample", "error"), default="drop_turns", help="as in a recipe"
    )
    parser.add_argument("--json", action="store_true", help="for programs: a list with one entry for each sample")


class _Look(NamedTuple):
    """One sample, looked at. `places`: what to write for each picture."""

    look: Look
    places: list[str]
    note: str


def run(arguments: argparse.Namespace) -> int:
    import json

    from ..errors import LlavaKitError

    alone = {name: getattr(arguments, name) for name in ("template", "tokenizer", "data")}
    if arguments.recipe is not None:
        if given := [name for name, value in {**alone, "option": arguments.option or None}.items() if value is not None]:
            raise LlavaKitError(f"found a recipe and --{given[0]}; expected one or the other")
        template, tokenizer, looks = _with_recipe(arguments)
    elif all(value is not None for value in alone.values()):
        template, tokenizer, looks = _without_recipe(arguments)
    else:
        missing = " ".join(f"--{name}" for name, value in alone.items() if value is None)
        raise LlavaKitError(f"expected a RECIPE, or --template, --tokenizer and --data; missing: {missing}")
    if arguments.json:
        print(json.dumps([_as_json(look, template) for look in looks], ensure_ascii=False))
        return 0
    _show(looks, tokenizer)
    return 0


def _with_recipe(arguments: argparse.Namespace) -> tuple[ConversationTemplate, Any, Iterator[_Look]]:
    from ..splice.layout import count_rows
    from .stage_data import open_stage

    opened = open_stage(arguments.recipe, arguments.overrides, arguments.stage)
    maker = opened.maker

    def lengths(sample: Sample) -> tuple[list[int], list[str]]:
        grids = [one.grid for one in maker.shown(sample)]
        rows = [count_rows(grid, maker.side) for grid in grids]
        notes = [
            f"[picture {number + 1}: {count} rows of {grid.num_tiles} tile{'s' if grid.num_tiles > 1 else ''}]"
            for number, (count, grid) in enumerate(zip(rows, grids))
        ]
        return rows, notes

    indices = range(min(SHOWN, len(opened.source))) if arguments.index is None else arguments.index
    looks = _looks(opened.source, indices, maker.template, maker.tokenizer, lengths, maker.max_length, maker.too_long)
    return maker.template, maker.tokenizer, looks


def _without_recipe(arguments: argparse.Namespace) -> tuple[ConversationTemplate, Any, Iterator[_Look]]:
    from ..assemble.parts import build

    chosen = build("template", arguments.template, **_options(arguments.option))
    source = build("source", "llava_json", path=arguments.data)
    tokenizer = load_tokenizer(arguments.tokenizer)
    template = chosen.for_tokenizer(tokenizer)

    def lengths(sample: Sample) -> tuple[list[int], list[str]]:
        return [1] * len(sample.images), [f"[picture {number + 1}]" for number in range(len(sample.images))]

    shown = len(source) if arguments.json else min(SHOWN, len(source))
    indices = range(shown) if arguments.index is None else arguments.index
    looks = _looks(source, indices, template, tokenizer, lengths, arguments.max_length, arguments.too_long)
    return template, tokenizer, looks


def _options(words: Sequence[str]) -> dict[str, Any]:
    """`key=value`, the value as it stands: only a template that wants something else than text reads more into it."""
    from ..errors import LlavaKitError

    options = {}
    for word in words:
        key, sign, value = word.partition("=")
        options[key] = value
        if not key or not sign:
            raise LlavaKitError(f"--option {word!r}: expected KEY=VALUE, for example mask=original")
    return options


def load_tokenizer(folder: str) -> Any:
    """The fast tokenizer in a folder; nothing is downloaded and nothing in the folder is run."""
    import os

    from transformers import AutoTokenizer

    from ..errors import LlavaKitError

    if not os.path.isdir(folder):
        raise LlavaKitError(f"tokenizer {folder!r}: there is no such folder; expected one with tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise LlavaKitError(f"tokenizer {folder!r}: cannot be read: {reason}; expected tokenizer.json there") from error


def _looks(
    source: DataSource,
    indices: Sequence[int],
    template: ConversationTemplate,
    tokenizer: Any,
    lengths: Any,
    max_length: int | None,
    too_long: str,
) -> Iterator[_Look]:
    from ..data.look import look_at, refused
    from ..errors import DataError, SampleError

    for index in indices:
        if not 0 <= index < len(source):
            raise DataError(f"--index {index}: the source has samples 0 to {len(source) - 1}")
        name, prompt = f"number {index}", ""
        try:
            sample = source[index]
            name = sample.id
            prompt = _prompt(sample, template)
            rows, notes = lengths(sample)
        except SampleError as error:
            yield _Look(refused(error, name, prompt), [], "")
            continue
        look = look_at(sample, template, tokenizer, picture_lengths=rows, max_length=max_length, too_long=too_long)
        note = f"{look.length} positions, {look.num_targets} learnt" if look.status == "ok" else ""
        if look.dropped_turns:
            note += f", {look.dropped_turns} turns left out (longer than {max_length})"
        yield _Look(look, [notes[slot] for slot in look.slots], note)


def _prompt(sample: Sample, template: ConversationTemplate) -> str:
    from ..data.look import text_of

    return text_of(template.render(sample.conversation))


def _as_json(looked: _Look, template: ConversationTemplate) -> dict[str, Any]:
    look = looked.look
    return {
        "id": look.id,
        "prompt": look.prompt,
        "input_ids": look.token_ids,
        "labels": [token if learnt else IGNORED for token, learnt in zip(look.token_ids, look.trainable)],
        "stop": list(template.stop),
        "status": look.status,
    }


def _show(looks: Iterator[_Look], tokenizer: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    marked = not console.is_terminal
    console.print(
        Text.assemble(("learnt", "bold green"), "  ", ("only read", "bright_black"), "  ", ("pictures", "cyan"))
        if console.is_terminal
        else "learnt tokens stand in ⟦ ⟧; | parts tokens, · is a space, ⏎ a line break"
    )
    for look in looks:
        console.print()
        _show_one(console, look, tokenizer, marked)


def _show_one(console: Console, looked: _Look, tokenizer: Any, marked: bool) -> None:
    from rich.text import Text

    from ..data.look import pieces_of

    look = looked.look
    console.print(Text.assemble((look.id, "bold"), "  ", looked.note or f"{look.status}: {look.message}"), soft_wrap=True)
    line = Text()
    places = iter(looked.places)
    before = False
    pieces = pieces_of(tokenizer, look.token_ids)
    for number, (token, learnt, piece) in enumerate(zip(look.token_ids, look.trainable, pieces)):
        if marked and learnt != before:
            line.append("⟦" if learnt else "⟧")
        elif marked and number:
            line.append("|")
        if token < 0:
            line.append(next(places), style="cyan")
        else:
            _append(line, piece, learnt, number)
        before = learnt
    if marked and before:
        line.append("⟧")
    console.print(line, soft_wrap=marked)


def _append(line: Text, piece: str, learnt: bool, number: int) -> None:
    # Neighbours differ a little, so that one sees where a token ends.
    shades = ("bold green", "green") if learnt else ("bright_black", "white dim")
    line.append(piece, style=shades[number % 2])
    if piece.endswith("⏎"):
        line.append("\n")
