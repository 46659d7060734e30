"""Folders that appear whole or not at all, and that can prove later that nothing in them has changed.

A folder is written beside its place, flushed to the disk, given a manifest (size and sha256 of every file) and only then
renamed to its name. Whatever instant the machine stops at, the name holds a whole folder or none, and an older folder is
untouched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
TEMPORARY = ".tmp"
REPLACED = ".old"
# How much of a file is hashed at a time: large enough that Python's share of the time is nothing, small enough for any memory.
HASH_BYTES = 1 << 22


def write_folder(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Make the folder `path` with what `write(temporary_folder)` puts into it; a folder already there is replaced.

    Raises `CheckpointError` when the disk is full or cannot be written to; nothing half-written stays behind.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        _remove(temporary)
        temporary.mkdir(parents=True)
        write(temporary)
        _write_manifest(temporary)
        _put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); nothing half-written was left and older folders are untouched; free some "
            "space there or choose another `output`"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file so that its name holds the old text or the new, never half of either."""
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` of a value as JSON; NaN is refused, since no other reader would take it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def verify_folder(path: str | Path) -> None:
    """Raise `CheckpointError`, naming the file with what was expected and found, unless the folder is as it was written."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder")
    expected = _read_manifest(path)
    found = {_name(path, file): file for file in _files(path)}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise CheckpointError(f"{path / missing[0]}: expected by {MANIFEST}, but the file is missing")
    foreign = sorted(found.keys() - expected.keys())
    if foreign:
        raise CheckpointError(f"{path / foreign[0]}: found, but {MANIFEST} does not name it; move it elsewhere")
    for name, file in sorted(found.items()):
        _verify_file(file, expected[name])


def is_whole(path: str | Path) -> bool:
    """Whether `verify_folder` has nothing to say against the folder."""
    try:
        verify_folder(path)
    except (CheckpointError, OSError):
        return False
    return True


def sweep(parent: str | Path) -> list[str]:
    """Remove what an interrupted `write_folder` or `write_text` left in `parent`; the names removed.

    A folder that was being replaced when the machine stopped gets its name back.
    """
    parent = Path(parent)
    removed = []
    for leftover in sorted(parent.glob(f"*{REPLACED}")):
        original = leftover.with_name(leftover.name.removesuffix(REPLACED))
        if not (leftover / MANIFEST).is_file():
            continue  # not one of ours
        if original.exists():
            _discard(leftover)
            removed.append(leftover.name)
        else:
            os.replace(leftover, original)
    for leftover in sorted(parent.glob(f"*{TEMPORARY}")):
        _remove(leftover)
        removed.append(leftover.name)
    return removed


def _put_in_place(temporary: Path, path: Path) -> None:
    old = path.with_name(path.name + REPLACED)
    _discard(old)
    if path.exists():
        os.replace(path, old)
    os.replace(temporary, path)
    _flush(path.parent)
    _discard(old)


def _discard(old: Path) -> None:
    """Remove a replaced folder, renamed first: half removed under its own name it could not be told from a stranger's."""
    if old.exists():
        temporary = old.with_name(old.name + TEMPORARY)
        _remove(temporary)
        os.replace(old, temporary)
        _remove(temporary)


def _write_manifest(folder: Path) -> None:
    files = {}
    for file in _files(folder):
        _flush(file)
        files[_name(folder, file)] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        files = {
            str(name): {"size": int(entry["size"]), "sha256": str(entry["sha256"])} for name, entry in manifest["files"].items()
        }
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: has no {MANIFEST}, so it was never finished, or is not one of ours") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged, it cannot be read as a manifest ({error})") from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{file}: found format {manifest.get('format')!r}, expected {FORMAT}; update llava_kit")
    return files


def _verify_file(file: Path, expected: dict[str, Any]) -> None:
    size = file.stat().st_size
    if size != expected["size"]:
        raise CheckpointError(f"{file}: expected {expected['size']} bytes, found {size}; the file is damaged")
    digest = _sha256(file)
    if digest != expected["sha256"]:
        raise CheckpointError(f"{file}: expected sha256 {expected['sha256']}, found {digest}; the file is damaged")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if not file.is_dir() and file != folder / MANIFEST)


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
