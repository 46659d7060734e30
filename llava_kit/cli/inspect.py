"""`llava-kit inspect`: see what the model sees. Each thing to look at has a file of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

THINGS = {
    "tokens": "a sample's segments and tokens, and which of them the model learns to say",
    "image": "how a picture is cut into tiles, and how many rows of the input it takes",
    "batch": "the batches of a recipe: shapes, padding, counts",
}
"""Sub-verb -> one line of help. Its file is `llava_kit/cli/inspect_<sub-verb>.py`."""


class _LateParser(argparse.ArgumentParser):
    """A parser that gets its arguments when it is first used, so that the help of `inspect` imports none of its files."""

    thing: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.thing is not None:
            thing, self.thing = self.thing, None
            _module(thing).add_arguments(self)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb and, late, of its sub-verbs."""
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True, parser_class=_LateParser)
    for thing, line in THINGS.items():
        things.add_parser(thing, help=line, description=line).thing = thing


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-verb; returns the exit code."""
    return _module(arguments.thing).run(arguments) or 0


def _module(thing: str) -> Any:
    return importlib.import_module(f"llava_kit.cli.inspect_{thing}")
