"""Which source reads a file or folder that a user names without saying what it is: every source is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import DataError, PluginError
from ..recipe.schema import Part
from ..registry.manager import default_registry
from ..registry.registry import Registry

HEAD_BYTES = 4096


def recognise(
    path: str, options: Mapping[str, Any] | None = None, type: str | None = None, registry: Registry | None = None
) -> Part:
    """The source block that reads `path`, with `options` laid over what the source itself found out.

    `type` names the source where several formats look alike (VQAv2 and OKVQA).

    Raises:
        DataError: there is no such file; or no source knows it, or several do: what it begins with, and what is known.
        PluginError: there is no source of that `type`.
    """
    known = default_registry() if registry is None else registry
    head = _head(path)
    if type is not None:
        entry = known.get("source", type)
        found = _ask(entry, path, head)
        if found is None and "path" in getattr(entry.options, "model_fields", {}):
            found = {"path": path}  # it was named: its own errors tell best what is wrong
        if found is None:
            raise DataError(f"{path}: the source {type!r} reads no path; its options: `llava-kit plugins show {type}`")
        return _part(type, found, options)
    answers = {entry.name: found for entry in known.entries("source") if (found := _ask(entry, path, head)) is not None}
    if len(answers) == 1:
        ((name, found),) = answers.items()
        return _part(name, found, options)
    if answers:
        raise DataError(f"{path}: could be {' or '.join(map(repr, answers))}; say which with --from NAME")
    readers = [entry.name for entry in known.entries("source") if entry.recognise is not None]
    raise DataError(
        f"{path}: is no format that is known: {_looks(path, head)}; known are {', '.join(readers)} (`llava-kit plugins list`); "
        f"if it is one of these, say --from NAME{known.missing_hint()}"
    )


def _part(type: str, found: Mapping[str, Any], options: Mapping[str, Any] | None) -> Part:
    return Part.model_validate({"type": type, **found, **(options or {})})


def _ask(entry: Any, path: str, head: bytes) -> Mapping[str, Any] | None:
    if entry.recognise is None:
        return None
    try:
        return entry.recognise(path, head)
    except Exception as error:
        raise PluginError(f"plugin {entry.plugin}: its look at {path} failed ({type(error).__name__}: {error})") from error


def _head(path: str) -> bytes:
    try:
        if os.path.isdir(path):
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error


def _looks(path: str, head: bytes) -> str:
    """What a person would say of the file."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))[:5]
        return f"a folder with {', '.join(map(repr, names))}, ..." if names else "an empty folder"
    if not head:
        return "an empty file"
    if b"\0" in head[:1024]:
        return f"a file of bytes that begins with {head[:8].hex(' ')}"
    return f"a text that begins with {head[:60].decode('utf-8', 'replace')!r}"
