"""A recipe as it was written: values that remember their file and line, and how such trees are laid over one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple["str | int", ...]
"""The way to a value: keys of mappings, numbers of list items."""


@dataclass(frozen=True)
class Place:
    """Where something was said: a line of a file, or an override of the command line (`line` None)."""

    source: str
    line: int | None = None

    def says(self, path: Path, message: str) -> str:
        """`file:line: a.b.c: message`, or `override a.b.c: message`."""
        if self.line is None:
            return f"{self.source} {dotted(path)}: {message}"
        where = f"{self.source}:{self.line}: "
        return where + (f"{dotted(path)}: {message}" if path else message)


@dataclass(frozen=True)
class Node:
    """A value with its place. `value` is a dict or list of nodes, or a plain text, number, boolean or None."""

    value: Any
    place: Place


@dataclass(frozen=True)
class Problem:
    """One mistake: where, at which key, what. Problems are collected and told together."""

    place: Place
    path: Path
    message: str

    def __str__(self) -> str:
        return self.place.says(self.path, self.message)


MAX_TOLD = 50
"""So many problems are told at once; whoever has more has one cause."""


def told(problems: Sequence[Problem]) -> list[str]:
    """The problems as lines of an error message, in the order of the files and their lines, each once."""
    sources = list(dict.fromkeys(problem.place.source for problem in problems))
    ordered = sorted(problems, key=lambda p: (sources.index(p.place.source), p.place.line or 0))
    lines = list(dict.fromkeys(map(str, ordered)))
    return lines if len(lines) <= MAX_TOLD else [*lines[:MAX_TOLD], f"... and {len(lines) - MAX_TOLD} more problems"]


def dotted(path: Path) -> str:
    """`a.b.0.c`; a key that is longer than any real one is cut."""
    return ".".join(key if len(key) <= 80 else key[:77] + "..." for key in map(str, path))


def plain(node: Node) -> Any:
    """The tree as plain dicts, lists and values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def child(node: Node, key: str | int) -> Node | None:
    """The node under `key` (of a mapping) or at number `key` (of a list), or None."""
    if isinstance(node.value, dict):
        return node.value.get(key)
    if isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
        return node.value[key]
    return None


def find(node: Node, path: Path) -> Node | None:
    """The node at `path`, or None."""
    here: Node | None = node
    for key in path:
        here = child(here, key) if here is not None else None
    return here


def place_of(node: Node, path: Path) -> Place:
    """The place of `path`, or of the nearest block around it that somebody wrote."""
    here = node
    for key in path:
        below = child(here, key)
        if below is None:
            break
        here = below
    return here.place


def leaves(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every value that is neither mapping nor list, with its path."""
    if isinstance(node.value, dict):
        for key, below in node.value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(node.value, list):
        for number, below in enumerate(node.value):
            yield from leaves(below, (*path, number))
    else:
        yield path, node


def laid_over(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge, all else is replaced, and so is a block whose `type` differs.

    A whole block is replaced when its `type` changes because its other keys are the options of the old type.
    """
    if isinstance(base.value, list) and _numbers_items(over, len(base.value)):
        return Node([laid_over(item, over.value.get(str(n), item)) for n, item in enumerate(base.value)], base.place)
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if "type" in over.value and "type" in base.value and over.value["type"].value != base.value["type"].value:
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = laid_over(merged[key], node) if key in merged else node
    return Node(merged, over.place if over.place.line is not None else base.place)


def _numbers_items(over: Node, length: int) -> bool:
    """Whether an override such as `model.encoder.0.checkpoint=x` speaks of items of a list, all of which exist."""
    if over.place.line is not None or not isinstance(over.value, dict) or not over.value:
        return False
    return all(key.isdecimal() and int(key) < length for key in over.value)
