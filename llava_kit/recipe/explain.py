"""A validation error as a recipe's writer wants it told: at which key, what was found, what was expected, what was meant."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from llava_kit.errors import hidden, nearest, suggest

from ..image.options import FOREIGN_KEYS
from .reader import kind_of, shortened
from .tree import Node, Path, Problem, find, place_of

EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a block of keys",
    "model": "a block of keys",
    "path": "a path",
}
"""What pydantic's error types begin with, in a recipe writer's words."""

BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "multiple_of": "a multiple of {multiple_of}",
}


@dataclass(frozen=True)
class _Fault:
    """One of pydantic's errors: `path` as in the recipe, `arm` the member of a union that said it (or none)."""

    path: Path
    union: Path | None
    arm: str
    error: Any


def explain(
    error: ValidationError, model: type[BaseModel], tree: Node, prefix: Path = (), root: Node | None = None
) -> list[Problem]:
    """The problems of `tree`, which did not validate as `model`. `prefix` is its path in the whole recipe `root`."""
    faults = _without_idle_arms([_fault(e, tree) for e in error.errors(include_url=False)])
    whole = tree if root is None else root
    found: list[Problem] = []
    missing_but_meant: set[Path] = set()
    for fault in faults:
        if fault.error["type"] == "extra_forbidden":
            names = names_at(model, fault.path[:-1])
            meant = nearest(str(fault.path[-1]), names)
            if meant is not None:
                missing_but_meant.add((*fault.path[:-1], meant))
            key = str(fault.path[-1])
            message = f"unknown key; {FOREIGN_KEYS.get(key) or suggest(key, names)}"
        else:
            message = _message(fault, find(tree, fault.path))
        found.append(Problem(place_of(whole, (*prefix, *fault.path)), (*prefix, *fault.path), message))
    told_elsewhere = {(*prefix, *path) for path in missing_but_meant}
    return [p for p in found if not (p.path in told_elsewhere and p.message == MISSING)]


MISSING = "this key is missing"


def _fault(error: Any, tree: Node) -> _Fault:
    """Pydantic's location mixes keys with names of union members; only keys lead anywhere in the tree."""
    path: list[str | int] = []
    union: Path | None = None
    arm = ""
    here: Node | None = tree
    steps = error["loc"]
    for number, step in enumerate(steps):
        below = None if here is None else find(here, (step,))
        last = number == len(steps) - 1
        if below is not None or (last and error["type"] in ("missing", "extra_forbidden")):
            path.append(step)
            here = below
        elif step != "[key]":
            union, arm = tuple(path), str(step)
    return _Fault(tuple(path), union, arm, error)


def _without_idle_arms(faults: list[_Fault]) -> list[_Fault]:
    """Of a union's members, those that the value was not meant for are silent; if none was near, one line names them all."""
    kept: list[_Fault] = []
    for fault in faults:
        siblings = [other for other in faults if fault.union is not None and other.union == fault.union]
        if not siblings or not _wrong_kind(fault):
            kept.append(fault)
        elif all(map(_wrong_kind, siblings)) and fault is siblings[0]:
            expected = " or ".join(dict.fromkeys(filter(None, map(_expected, siblings))))
            kept.append(_Fault(fault.path, None, "", {**fault.error, "expected": expected}))
    return kept


def _wrong_kind(fault: _Fault) -> bool:
    return fault.path == fault.union and _expected(fault) is not None


def _expected(fault: _Fault) -> str | None:
    kind, _, rest = fault.error["type"].partition("_")
    if rest in ("type", "parsing", "attributes_type", "parsing_size", "from_float") or fault.error["type"] == "is_instance_of":
        return EXPECTED.get(kind)
    if fault.error["type"] == "literal_error":
        return _choices(fault.error)
    return None


def _choices(error: Any) -> str:
    """The values that a key may have, booleans as YAML writes them."""
    return error["ctx"]["expected"].replace("False", "false").replace("True", "true")


def _message(fault: _Fault, node: Node | None) -> str:
    error = fault.error
    kind = error["type"]
    if kind == "missing":
        return MISSING
    value = error["input"] if node is None else node.value
    found = f"a {kind_of(value)}" if isinstance(value, dict | list) else "null" if value is None else _as_written(value)
    found = "[hidden]" if _is_secret(fault.path) else hidden(found)
    if kind == "literal_error" and isinstance(value, str):
        choices = [choice.strip().strip("'") for choice in _choices(error).replace(" or ", ", ").split(", ")]
        return f"expected {_choices(error)}, found {found}; {suggest(value, choices)}"
    expected = error.get("expected") or _expected(fault)
    if expected is not None:
        quotes = "; write text in quotes" if expected == "text" and not isinstance(value, dict | list | type(None)) else ""
        return f"expected {expected}, found {found}{quotes}"
    if kind in BOUNDS:
        bounds = {
            name: f"{bound:g}" if isinstance(bound, int | float) else bound for name, bound in error.get("ctx", {}).items()
        }
        return f"must be {BOUNDS[kind].format(**bounds)}, found {found}"
    if kind in ("value_error", "assertion_error"):
        return f"{error['msg'].partition(', ')[2] or error['msg']} (found {found})"
    return f"{error['msg'][:1].lower()}{error['msg'][1:].replace('Input should', 'should')}, found {found}"


def _is_secret(path: Path) -> bool:
    """Whether a key may stand at this place, be it by mistake: `key_env` wants the name of a variable."""
    return bool(path) and path[-1] in ("key_env", "api_key", "token", "password", "secret")


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shortened(value)


def names_at(model: Any, path: Path) -> list[str]:
    """The keys that the block at `path` may have, by the fields of the pydantic `model`."""
    names: set[str] = set()
    for candidate in _models(model):
        if not path:
            names.update(field.alias or name for name, field in candidate.model_fields.items())
            continue
        for name, field in candidate.model_fields.items():
            if path[0] == (field.alias or name):
                names.update(_names_in(field.annotation, path[1:]))
    return sorted(names)


def _names_in(annotation: Any, path: Path) -> Iterable[str]:
    """`names_at` below a field: through containers, which take one step of the path, and members of unions, which take none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _names_in(get_args(annotation)[0], path)
    if origin in (Union, types.UnionType):
        return [name for arm in get_args(annotation) for name in _names_in(arm, path)]
    if origin in (dict, list, tuple, set, frozenset):
        inner = [arg for arg in get_args(annotation) if arg is not Ellipsis]
        return [name for arg in inner[-1:] for name in _names_in(arg, path[1:])] if path and inner else []
    return names_at(annotation, path)


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
