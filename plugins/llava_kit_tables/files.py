"""The files that a path means: one, a folder of them, a pattern, a list of shards in braces, or a list of all these."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

from llava_kit.core.archives import check_name
from llava_kit.errors import DataError, suggest

# More than this no folder of shards has; a range in braces could name any number.
MAX_FILES = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
# How the hub calls the files of a split: train-00000-of-00012.parquet, test.tar, validation/0001.tar.
_SPLIT = re.compile(r"(train|training|test|testing|validation|valid|val|dev|eval)(?=[-_.\d]|$)", re.IGNORECASE)
_SAME = {"training": "train", "testing": "test", "valid": "validation", "val": "validation", "dev": "validation"}
# Of each file so much of its beginning and its end is looked at for the fingerprint: the footer of a Parquet file and the
# directory of a zip are there, with the places and sizes of all that is between.
_SAMPLE_BYTES = 1 << 16
# `dataset.json` says in its first line whose it is.
_HEAD = 200


def find_files(paths: str | Sequence[str], endings: tuple[str, ...], split: str | None = None) -> list[str]:
    """The files, in the order named and within a folder or pattern by name; each stands once.

    `split` keeps those whose name (or folder) begins so.

    Raises:
        DataError: nothing is there, with the nearest name; or the files are of several splits and none was chosen.
        UnsafeError: a path that is a URL or would run a program (`pipe:`).
    """
    found: dict[str, None] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        for name in _expand(path):
            found.update(dict.fromkeys(_files_of(name, endings)))
            if len(found) > MAX_FILES:
                raise DataError(f"{path}: names more than {MAX_FILES:,} files; expected fewer")
    if not found:
        raise DataError("found an empty list of files; expected at least one")
    return _of_split(list(found), split)


def fingerprint_files(paths: Sequence[str]) -> str:
    """A hash of the files' names, sizes, beginnings and ends; what changes only in the middle of one goes unnoticed."""
    digest = hashlib.sha256()
    for path in paths:
        size = os.path.getsize(path)
        digest.update(f"{os.path.basename(path)}:{size};".encode("utf-8", "surrogateescape"))
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def name_of(paths: str | Sequence[str]) -> str:
    """What the data are called when nobody said it: the file's or folder's own name without its ending."""
    first = paths if isinstance(paths, str) else paths[0]
    base = os.path.basename(os.path.abspath(first))
    return re.split(r"[.*{\[]", base)[0].strip("-_") or os.path.basename(os.path.dirname(os.path.abspath(first)))


def source_of(paths: str | Sequence[str], files: Sequence[str]) -> str:
    """The usual tag `source` of their rows: `name_of`, or nothing for files of `data convert`, whose rows say it themselves."""
    try:
        with open(os.path.join(os.path.dirname(files[0]), "dataset.json"), "rb") as file:
            return "" if b'"llava_kit_dataset"' in file.read(_HEAD) else name_of(paths)
    except OSError:
        return name_of(paths)


def root_of(files: Sequence[str]) -> str:
    """The folder that all files are in."""
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    return os.path.commonpath(folders)


def _expand(path: str) -> Iterator[str]:
    """`a-{000..002}.tar` and `{a,b}.tar` written out; a file that is called so is itself."""
    if os.path.exists(path):
        yield path
        return
    if span := _RANGE.search(path):
        first, last = int(span[1]), int(span[2])
        if last < first or last - first >= MAX_FILES:
            raise DataError(f"{path}: the range {span[0]} has no or too many numbers; expected as in {{000..010}}")
        for number in range(first, last + 1):
            yield from _expand(f"{path[: span.start()]}{number:0{len(span[1])}d}{path[span.end() :]}")
    elif choice := _CHOICE.search(path):
        for word in choice[1].split(","):
            yield from _expand(path[: choice.start()] + word + path[choice.end() :])
    else:
        yield path


def _files_of(path: str, endings: tuple[str, ...]) -> list[str]:
    check_name(path)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        found = sorted(name for name in inside if name.lower().endswith(endings) and not os.path.basename(name).startswith("."))
        if not found:
            raise DataError(f"{path}: is a folder without files that end in {' or '.join(endings)}")
        return found
    if glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not found:
            raise DataError(f"{path}: no file is called so (relative to {os.getcwd()!r})")
        return found
    folder = os.path.dirname(path) or "."
    near = suggest(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else f"there is no folder {folder!r}"
    raise DataError(f"{path}: there is no such file or folder (relative to {os.getcwd()!r}); {near[:300]}")


def _of_split(files: list[str], split: str | None) -> list[str]:
    named = {file: _split_of(file) for file in files}
    splits = sorted({name for name in named.values() if name})
    if split is None:
        if len(splits) > 1 and all(named.values()):
            counted = ", ".join(f"{name} ({list(named.values()).count(name)} files)" for name in splits)
            raise DataError(f"{os.path.dirname(files[0])}: holds the splits {counted}; say which, as in split={splits[-1]}")
        return files
    wanted = _SAME.get(split.lower(), split.lower())
    kept = [file for file, name in named.items() if name == wanted] or [
        file for file in files if os.path.basename(file).startswith(split)
    ]
    if not kept:
        raise DataError(f"{os.path.dirname(files[0])}: has no files of split {split!r}; {suggest(split, splits)}")
    return kept


def _split_of(file: str) -> str | None:
    """The split by the file's name, or by that of its folder."""
    for name in (os.path.basename(file), os.path.basename(os.path.dirname(file))):
        if found := _SPLIT.match(name):
            return _SAME.get(found[0].lower(), found[0].lower())
    return None
