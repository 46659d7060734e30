"""Which source reads a file or folder that a user names without saying what it is: every source is asked."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ..core.json_object import section_names
from ..errors import DataError, PluginError
from ..image.header import format_of
from ..recipe.schema import Part
from ..registry.manager import default_registry
from ..registry.registry import Registry

HEAD_BYTES = 4096
_PATTERNS = "*?[{"
"""What a path holds that stands for several files (`shard-{000..010}.tar`); sources tell those by their endings."""


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
        if os.path.isdir(path) or (not os.path.exists(path) and any(mark in path for mark in _PATTERNS)):
            return b""
        if stat.S_ISFIFO(os.stat(path).st_mode):  # what is read of it is gone, and without a writer it waits for ever
            raise DataError(f"{path}: is a pipe; data are read more than once, so write them to a file first")
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error


def _looks(path: str, head: bytes) -> str:
    """What a person would say of the file, and what helps."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        if not names:
            return "an empty folder"
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        return f"a folder with {', '.join(map(repr, names[:_NAMES]))}{more}; name a file in it, if one has the rows"
    if not os.path.exists(path):
        return "a pattern of files"
    if not head:
        return "an empty file"
    if b"".join(head.split()) == b"[]":
        return "an empty list: it has no rows"
    for begins, told in _BEGINNINGS.items():
        if head.startswith(begins):
            return told
    picture = format_of(head)
    if picture == "HTML":
        return "a web page (HTML), perhaps of a download that failed or wanted a login; fetch the file itself"
    if picture is not None:
        return f"a file of {picture}"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if b"\0" in head[:1024]:
        return f"a file of bytes that begins with {head[:8].hex(' ')}"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # the head may end within a letter
            byte = f"its byte {error.start} is 0x{head[error.start]:02x}"
            return f"a text that is not UTF-8 ({byte}), perhaps {_iconv('WINDOWS-1252')}"
    names = section_names(head)
    if names:
        return f"a JSON object with the keys {', '.join(map(repr, names[:_NAMES]))}{', ...' if len(names) > _NAMES else ''}"
    return f"a text that begins with {head[:60].decode('utf-8', 'replace')!r}"


def _iconv(encoding: str) -> str:
    return f"{encoding}: iconv -f {encoding} -t UTF-8 OLD > NEW"


# So many names are shown of what there are more of.
_NAMES = 5
_BEGINNINGS = {
    b"\x1f\x8b": "a gzip file; unpack it first: gunzip FILE (or tar -xzf FILE)",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file; unpack it first: bunzip2 FILE",
    b"\xfd7zXZ": "an xz file; unpack it first: unxz FILE",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it first: unzstd FILE",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    **{bytes((0x80, protocol)): "a pickle" for protocol in (2, 3, 4, 5)},
    b"SQLite format 3": "a database of SQLite",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself; run `git lfs pull`",
    b"\xff\xfe": f"a text in {_iconv('UTF-16')}",
    b"\xfe\xff": f"a text in {_iconv('UTF-16')}",
}
