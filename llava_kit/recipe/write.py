"""A recipe as plain values, and as YAML that reads back as the same recipe."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel

from .blocks import Part
from .prepare import DataRecipe
from .reader import read_scalar
from .schema import Recipe

LINE_WIDTH = 120

LINE_ENDS = re.compile("[\\r\\x85\\u2028\\u2029\\ufeff]")
"""Letters that end a line in YAML 1.1, or vanish: only double quotes, which escape them, keep them."""


def recipe_to_yaml(recipe: Recipe | DataRecipe) -> str:
    """The recipe in full, defaults included, without `extends`: what a run's folder keeps. It reads back as an equal recipe."""
    return yaml.dump(
        as_values(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=LINE_WIDTH
    )


def as_values(model: BaseModel) -> dict[str, Any]:
    """A checked block as dicts, lists, texts and numbers. A null that is the key's default is left out."""
    if isinstance(model, Part):
        return {"type": model.type, **_values(model.options)}
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None or field.is_required() or field.get_default(call_default_factory=True) is not None:
            found[field.alias or name] = _values(value)
    return found


def _values(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return as_values(value)
    if isinstance(value, dict):
        return {str(key): _values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_values(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(getattr(value, "value", value))  # a path, or a member of an enumeration


class _Dumper(yaml.SafeDumper):
    """Never writes an anchor, and quotes every text that our reader would not take for that text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    try:
        same = read_scalar(text) == text
    except ValueError:
        same = False
    style = '"' if LINE_ENDS.search(text) else None if same else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
