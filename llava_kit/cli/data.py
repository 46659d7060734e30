"""`llava-kit data ...`: read, convert, check, look at, make, choose and compare data. Each action has a file of its own."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

ACTIONS = {
    "prepare": "run the steps of a recipe that make its data, each once",
    "convert": "any format becomes rows and pictures that every tool reads",
    "check": "find every mistake in the data before a GPU does; exit code 3 if there is one",
    "filter-captions": "choose captions by how often their noun phrases are said; pair them with instructions",
    "view": "look at samples on a local page, or write them into one file",
    "generate": "a text-only teacher writes training data from captions and boxes: conversations, descriptions, reasoning",
    "stats": "what is in data, and how sources and mixtures differ: lengths, words, verbs and nouns, picture sizes",
}
"""Action -> one line of help. The file of an action is `llava_kit/cli/data_<action>.py` (dashes become underscores)."""


class Intermixed(argparse.ArgumentParser):
    """Options may stand between the positional words: `convert RECIPE --stage NAME DEST`."""

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
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS), parser_class=Intermixed)
    for action, line in ACTIONS.items():
        _file_of(action).add_arguments(actions.add_parser(action, help=line, description=line))


def run(arguments: argparse.Namespace) -> int:
    return _file_of(arguments.action).run(arguments)


def _file_of(action: str) -> Any:
    return importlib.import_module(f"llava_kit.cli.data_{action.replace('-', '_')}")
