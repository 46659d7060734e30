"""What the columns of an Arrow schema hold, in the words of `columns`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as types

from .columns import Kind, is_turn


def kinds_of(schema: Any) -> dict[str, Kind]:
    """Kind by column, in the order of the schema."""
    return {field.name: kind_of_type(field.type) for field in schema}


def kind_of_type(type: Any) -> Kind:
    """The kind of one Arrow type."""
    if isinstance(type, pa.BaseExtensionType):
        type = type.storage_type
    if types.is_dictionary(type):
        type = type.value_type
    if _is_text(type):
        return "text"
    if types.is_integer(type) or types.is_floating(type) or types.is_boolean(type):
        return "number"
    if _is_binary(type):
        return "bytes"
    if types.is_struct(type):
        return "picture" if "bytes" in _keys(type) else "other"
    if _is_list(type):
        inner = type.value_type
        if types.is_struct(inner) and is_turn(_keys(inner)):
            return "turns"
        kind = kind_of_type(inner)
        return "texts" if kind == "text" else kind if kind in ("picture", "bytes") else "other"
    return "other"


def _keys(type: Any) -> list[str]:
    return [type.field(number).name for number in range(type.num_fields)]


def _is_text(type: Any) -> bool:
    return types.is_string(type) or types.is_large_string(type) or types.is_string_view(type)


def _is_binary(type: Any) -> bool:
    return types.is_binary(type) or types.is_large_binary(type) or types.is_binary_view(type)


def _is_list(type: Any) -> bool:
    return types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type)
