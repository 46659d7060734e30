"""The data that a verb of `llava-kit data` is about: a file or folder, a recipe's stage, or a source written out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..core.source import DataSource
    from ..recipe.schema import Part

WORDS = "PATH [option=value ...] | RECIPE [a.b=c ...]"
WORDS_HELP = "a file or folder with changes to its source's options; or a recipe with changes to it"


class Opened(NamedTuple):
    """A source, the block that describes it, and how many of its samples are meant."""

    source: DataSource
    part: Part
    count: int


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say which data are meant; the positional words (`WORDS`) are the verb's own."""
    given = parser.add_argument_group("which data")
    given.add_argument("--from", dest="format", metavar="NAME", help="the source that reads PATH; default: by its contents")
    given.add_argument("--source", metavar="YAML", help="a source as in a recipe: '{type: shapes, split: test}'")
    given.add_argument("--stage", metavar="NAME", help="of a recipe: whose data; default: its first stage")
    given.add_argument("--validation", action="store_true", help="of a recipe: the stage's held-out samples instead")
    given.add_argument("--limit", type=int, metavar="N", help="the first so many samples")


def is_recipe(word: str) -> bool:
    """Whether the word names a recipe and no data: a YAML file, or a bare name that a recipe has and no file."""
    from ..recipe.find import SUFFIXES, named_recipes

    path = Path(word)
    if path.suffix in SUFFIXES:
        return True
    return not path.exists() and path.parent == Path() and path.stem in named_recipes()


def open_source(arguments: argparse.Namespace, words: Sequence[str]) -> Opened:
    """The source that the arguments name, and how many of its samples are meant."""
    from ..assemble.build import build_source
    from ..errors import LlavaKitError

    part = source_part(arguments, words)
    source = build_source(part)
    if arguments.limit is not None and arguments.limit < 1:
        raise LlavaKitError(f"--limit {arguments.limit}: expected at least 1")
    return Opened(source, part, min(len(source), arguments.limit or len(source)))


def source_part(arguments: argparse.Namespace, words: Sequence[str]) -> Part:
    """The source's block; nothing is opened yet but the first bytes of a path."""
    from ..assemble.recognise import recognise
    from ..errors import LlavaKitError, RecipeError
    from ..recipe.load import load_recipe
    from ..recipe.reader import read_value
    from ..recipe.schema import Part
    from ..recipe.tree import plain
    from .stage_data import choose_stage

    if (arguments.source is None) == (not words):
        raise LlavaKitError("expected PATH, RECIPE, or --source '{type: ...}', one of them")
    if arguments.source is not None:
        block = plain(read_value(arguments.source))
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RecipeError(f"--source: found {arguments.source!r}; expected a block such as '{{type: shapes, split: test}}'")
        return Part.model_validate(block)
    if not is_recipe(words[0]):
        _refuse_mistaken(arguments, words[0])
        return recognise(words[0], options_of(words[1:]), arguments.format)
    name, stage = choose_stage(load_recipe(words[0], words[1:]), arguments.stage)
    if not arguments.validation:
        return stage.data.source
    if stage.validate_on is None:
        raise RecipeError(f"stage {name!r} has no `validate` block")
    return stage.validate_on.source


def refuse_outputs(outputs: Mapping[str, str | None], *inputs: Any) -> None:
    """Raises LlavaKitError where an output (option -> path) is a folder, another output, or a file that `inputs` name.

    `inputs` are words, parts of recipes, opened sources, or lists of them. Told before any
    work: writing would destroy somebody's data.
    """
    import os

    from ..errors import LlavaKitError

    read = {os.path.realpath(path) for path in _paths_in(inputs)}
    written: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if os.path.isdir(path):
            raise LlavaKitError(f"{option} {path}: is a folder; expected the name of a file to write")
        place = os.path.realpath(path)
        if place in read:
            raise LlavaKitError(f"{option} {path}: is what is read, and would be overwritten; name another file")
        if place in written:
            raise LlavaKitError(f"{option} {path}: is where {written[place]} goes; name another file")
        written[place] = option


def _paths_in(value: Any) -> Iterator[str]:
    """Whatever is a file in texts, `option=value` words, and blocks of recipes; the file of rows of a source that has one."""
    import os

    if hasattr(value, "model_dump"):
        value = value.model_dump()
    elif hasattr(value, "fingerprint"):
        value = str(getattr(value, "path", ""))
    if isinstance(value, str):
        yield from (text for text in (value, value.partition("=")[2]) if text and "\0" not in text and os.path.isfile(text))
    elif isinstance(value, dict):
        for part in value.values():
            yield from _paths_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths_in(part)


def _refuse_mistaken(arguments: argparse.Namespace, word: str) -> None:
    """What is said of a word that was meant for a recipe, and of options that only a recipe has."""
    from ..errors import DataError, LlavaKitError, nearest
    from ..recipe.find import named_recipes

    if not Path(word).exists() and Path(word).parent == Path():
        best = nearest(word, named_recipes())
        if best is not None:
            raise DataError(f"there is neither a file nor a recipe {word!r}; did you mean the recipe {best!r}?")
    if arguments.validation:
        raise LlavaKitError(f"--validation: a recipe has held-out samples; {word} is data itself, so leave it out")


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """`image_root=data/coco fields.id=key` as nested options; values are read as in a recipe."""
    from ..errors import LlavaKitError
    from ..recipe.reader import read_value
    from ..recipe.tree import plain

    options: dict[str, Any] = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not equals or not path:
            raise LlavaKitError(f"found {word!r}; expected option=value, as in image_root=data/images")
        *above, last = path.split(".")
        block = options
        for key in above:
            block = block.setdefault(key, {})
            if not isinstance(block, dict):
                raise LlavaKitError(f"found {word!r} after {key}={block}; a key has a value, or keys of its own")
        block[last] = plain(read_value(value)) if value else ""
    return options
