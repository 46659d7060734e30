"""Strict YAML for recipes: a tree with line numbers, and no surprises.

PyYAML's own loader keeps the last of two equal keys, reads `1e-4` as text, `no` as false, `010` as 8 and `1:30` as 90, and can
be made to recurse or to share nodes without end. This reader builds its tree from the parser's events instead: a plain scalar
is read as YAML 1.2 does, one that YAML 1.1 reads otherwise is refused with a hint, and size, depth and count are bounded.
"""

from __future__ import annotations

import math
import re
from pathlib import Path as FilePath
from typing import Any

import yaml

from llava_kit.errors import RecipeError

from .tree import Node, Place, Problem, told
from .tree import Path as TreePath

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 64
"""A recipe of a real run has some 3 kB, 150 nodes and depth 7; the caps keep a hostile file below a second."""

MAX_DIGITS = 400
"""The longest text that may be a number; the largest double has 309 digits before the point."""

NULL = re.compile(r"~|null|Null|NULL|")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

YES_NO = re.compile(r"(yes|no|on|off)", re.IGNORECASE)
OLD_NUMBER = re.compile(r"[-+]?(0[0-9]+|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7]+|0b[01][01_]*|[0-9][0-9]*_[0-9_]*(\.[0-9_]*)?)")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it (all its wheels are): ten times faster, the same events."""


def read_file(path: FilePath) -> Node:
    """The tree of a recipe file, whose root is a mapping.

    Raises:
        RecipeError: the file cannot be read, is too large, not UTF-8 or not the YAML described above.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_BYTES:,} bytes, which no recipe is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8") from None
    root = read_text(text, str(path))
    if not isinstance(root.value, dict):
        found = "nothing" if root.value is None else f"a {kind_of(root.value)}"
        raise RecipeError(f"{path}:{root.place.line}: a recipe is a mapping of keys, found {found}")
    return root


def read_text(text: str, source: str) -> Node:
    """The tree of one YAML document. Raises RecipeError with every problem found; an empty text gives None."""
    reader = _Reader(source)
    try:
        root = reader.read(text)
    except _Stop as error:
        raise RecipeError(f"{source}:{error.line}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise RecipeError(f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {what}") from None
    except yaml.YAMLError as error:  # the reader's own: a character that YAML does not allow
        raise RecipeError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    if reader.problems:
        raise RecipeError(told(reader.problems))
    return root


def read_value(text: str) -> Node:
    """An override's value, read as in a file: a scalar, or a list or mapping in brackets. Gives a node of place `override`.

    Raises:
        RecipeError: not such a value; each problem is one line without a place.
    """
    reader = _Reader("override", numbered=False)
    try:
        root = reader.read(text)
    except _Stop as error:
        raise RecipeError(str(error.problem)) from None
    except yaml.YAMLError:
        raise RecipeError(f"{shortened(text)} is not a value; put text with special characters in quotes") from None
    if reader.block_style:
        raise RecipeError(f"{shortened(text)} is not a value; write {{key: value}} or [a, b], or put text in quotes")
    if reader.problems:
        raise RecipeError([problem.message for problem in reader.problems])
    return root


class _Stop(yaml.MarkedYAMLError):
    """What ends the reading at once: the file is not to be trusted."""

    def __init__(self, problem: str, mark: Any):
        super().__init__(problem=problem, problem_mark=mark)
        self.line = mark.line + 1


class _Reader:
    """Builds one tree; problems that do not end the reading are collected."""

    def __init__(self, source: str, numbered: bool = True):
        self.source = source
        self.numbered = numbered
        self.problems: list[Problem] = []
        self.nodes = 0
        self.block_style = False

    def read(self, text: str) -> Node:
        loader = _Loader(text)
        try:
            self.loader = loader
            loader.get_event()  # the stream's start
            if isinstance(loader.peek_event(), yaml.StreamEndEvent):
                return Node(None, self._place(0))
            loader.get_event()  # the document's start
            root = self._node((), None)
            loader.get_event()  # the document's end
            extra = loader.get_event()
            if not isinstance(extra, yaml.StreamEndEvent):
                raise _Stop("a second document begins; a recipe is one", extra.start_mark)
            return root
        finally:
            loader.dispose()

    def _place(self, line: int) -> Place:
        return Place(self.source, line + 1 if self.numbered else None)

    def _node(self, path: TreePath, line: int | None) -> Node:
        """The node that begins with the next event; `line` is its key's, which is where a reader of the file looks for it."""
        event = self.loader.get_event()
        self._refuse_what_recipes_do_not_need(event, len(path))
        place = self._place(event.start_mark.line if line is None else line)
        if isinstance(event, yaml.ScalarEvent):
            return Node(self._scalar(event, path, place), place)
        self.block_style = self.block_style or not event.flow_style
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(self.loader.peek_event(), yaml.SequenceEndEvent):
                items.append(self._node((*path, len(items)), None))
            self.loader.get_event()
            return Node(items, place)
        return Node(self._mapping(path), place)

    def _refuse_what_recipes_do_not_need(self, event: Any, depth: int) -> None:
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            raise _Stop(
                f"the alias *{event.anchor} is not allowed in a recipe; use `extends`, or write it out", event.start_mark
            )
        if event.anchor is not None:
            raise _Stop(
                f"the anchor &{event.anchor} is not allowed in a recipe; use `extends`, or write it out", event.start_mark
            )
        if event.tag is not None:
            raise _Stop(f"the tag {shortened(event.tag)} is not allowed in a recipe", event.start_mark)
        if depth > MAX_DEPTH:
            raise _Stop(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        if self.nodes > MAX_NODES:
            raise _Stop(f"more than {MAX_NODES:,} values", event.start_mark)

    def _mapping(self, path: TreePath) -> dict[str, Node]:
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(self.loader.peek_event(), yaml.MappingEndEvent):
            event = self.loader.get_event()
            self._refuse_what_recipes_do_not_need(event, len(path))
            line = event.start_mark.line
            if not isinstance(event, yaml.ScalarEvent):
                raise _Stop("a key must be a plain text", event.start_mark)
            key = event.value
            if key in values:
                again = f"the key is given twice in this block: line {lines[key] + 1} and line {line + 1}"
                self.problems.append(Problem(self._place(line), (*path, key), again))
            values[key] = self._node((*path, key), line)
            lines[key] = line
        self.loader.get_event()
        return values

    def _scalar(self, event: Any, path: TreePath, place: Place) -> Any:
        if not event.implicit[0]:  # quoted, or a block of text
            return event.value
        try:
            return read_scalar(event.value)
        except ValueError as error:
            self.problems.append(Problem(place, path, str(error)))
            return None


def read_scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means: None, a boolean, a number or the text itself.

    Raises ValueError for one that YAML 1.1 and 1.2 read differently, and for a number that no float can hold.
    """
    if len(text) > MAX_DIGITS:
        return text
    if NULL.fullmatch(text):
        return None
    if BOOLEAN.fullmatch(text):
        return text[0] in "tT"
    if NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "").lower())
    if INTEGER.fullmatch(text):
        return int(text)
    _refuse_surprises(text)
    if NUMBER.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"the number {shortened(text)} is too large")
        return number
    return text


def _refuse_surprises(text: str) -> None:
    quoted = f"'{text}' in quotes for text"
    if YES_NO.fullmatch(text):
        meant = "true" if text.lower() in ("yes", "on") else "false"
        raise ValueError(f"{text} is {meant} to some YAML readers and text to others; write {meant}, or {quoted}")
    if OLD_NUMBER.fullmatch(text):
        meant = " or ".join(_old_meanings(text))
        raise ValueError(f"{text} is not the same number to all YAML readers; write {meant}, or {quoted}")
    if SEXAGESIMAL.fullmatch(text):
        raise ValueError(f"{text} is a number in base 60 to some YAML readers; write plain digits, or {quoted}")
    if DATE.fullmatch(text):
        raise ValueError(f"{text} is a date to some YAML readers; write {quoted}")


def _old_meanings(text: str) -> list[str]:
    """The decimal numbers that `010`, `0x1F` or `1_000` may mean."""
    sign = "-" if text.startswith("-") else ""
    digits = text.replace("_", "").lstrip("+-")
    if "." in digits:
        meanings = [digits]
    elif digits[:2].lower() in ("0x", "0o", "0b"):
        meanings = [str(int(digits, 0))]
    else:
        meanings = [str(int(digits))]
        if digits.startswith("0") and not set(digits) & set("89"):
            meanings = list(dict.fromkeys([str(int(digits, 8)), *meanings]))
    return [sign + meaning for meaning in meanings]


def shortened(value: Any, limit: int = 60) -> str:
    """A value as it would be written in Python, cut to `limit` characters, for an error message."""
    text = repr(value[: 2 * limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of(value: Any) -> str:
    """What sort of thing a tree's value is, in a recipe writer's words."""
    if value is None:
        return "null"
    kinds = {dict: "block", list: "list", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "text")
