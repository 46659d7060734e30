"""What tar and zip files hold, listed so that a hostile one is refused before anything of it is used.

Only headers are read (tar: each in turn; zip: its directory), by a parser that knows no more than plain files and folders. What
is refused is refused whole, with one line: names that lead elsewhere, links, devices, sparse files, encryption, names that come
twice, more or larger members than allowed, sizes that the file cannot hold, ratios of a bomb, an end that is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np

from ..errors import DataError, UnsafeError
from . import archive_headers as headers
from .archive_headers import Member

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
_GZIP, _ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ArchiveLimits:
    """Bounds that an archive must keep.

    `max_member_bytes` is what a picture file may have (`image.reader`). A shard has some 10,000 members; a million is the
    whole of a large data set in one file, and its names fit into memory. `max_ratio`: unpacked bytes for each packed one, above
    `bomb_bytes` in all; pictures reach 1.1, JSON 20, a tar of tiny texts 60, bombs 1,000 (deflate) and more (overlaps).
    `max_unpacked_bytes` is for compressed tars alone, which have to be unpacked to a temporary file.
    """

    max_members: int = 1_000_000
    max_member_bytes: int = 128 * 2**20
    max_total_bytes: int = 2**40
    max_unpacked_bytes: int = 8 * 2**30
    bomb_bytes: int = 2**24
    max_ratio: int = 200


DEFAULT = ArchiveLimits()


class Opened(NamedTuple):
    """An archive ready for reading by place: `path` is the file itself, or what it was unpacked to (`temporary`)."""

    path: str
    kind: str
    temporary: bool


def check_name(path: str) -> None:
    """Raises UnsafeError for what is no plain file name: `pipe:` would run a program, a URL would be fetched."""
    scheme = _SCHEME.match(path)
    if scheme and not os.path.exists(path):
        told = "would run a program" if scheme[0].lower() == "pipe:" else "nothing is fetched"
        raise UnsafeError(f"{path[:200]}: begins with {scheme[0]!r}; expected a file on this machine ({told})")


def kind_of(head: bytes) -> str | None:
    """`tar`, `gzip`, `zip`, another packer's name in capitals or not read here, or None; by a file's first 512 bytes."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZIP):
        return "zip"
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            return name
    return "tar" if headers.is_tar(head) else None


def open_archive(path: str, limits: ArchiveLimits = DEFAULT) -> Opened:
    """The archive at `path`, told by its contents; a compressed tar is unpacked within limits to a temporary file.

    The caller removes what is `temporary`.

    Raises:
        DataError: there is no such file, it is no archive, or damaged.
        UnsafeError: a name that is none, or a compressed tar that is a bomb or larger than allowed.
    """
    check_name(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    kind = kind_of(head)
    if kind in ("tar", "zip"):
        return Opened(path, kind, False)
    if kind == "gzip":
        return Opened(_unpack(path, limits), "tar", True)
    if kind is not None:
        raise DataError(f"{path}: is packed by {kind}; expected {', '.join(ENDINGS)}: pack it again")
    if not head:
        raise DataError(f"{path}: is empty; expected an archive ({', '.join(ENDINGS)})")
    raise DataError(f"{path}: begins with {head[:8].hex(' ')}; expected an archive ({', '.join(ENDINGS)})")


def list_members(opened: Opened, limits: ArchiveLimits = DEFAULT, name: str | None = None) -> Iterator[Member]:
    """The files in the archive, in its order, with the place of their bytes; folders are left out.

    All must have been taken before any is used: names that come twice show at the end. `name` is for messages.

    Raises:
        DataError: it is damaged, breaks off, or holds what is not read here.
        UnsafeError: it leads elsewhere, or would take more than `limits` allow.
    """
    shown = name or opened.path
    packed = os.path.getsize(opened.path)
    hashes, total = array("q"), 0
    with open(opened.path, "rb") as file:
        found = headers.tar_members(file, packed, shown) if opened.kind == "tar" else headers.zip_members(file, packed, shown)
        for member in found:
            _check_place(member, shown)
            total += member.size
            if member.size > limits.max_member_bytes:
                raise UnsafeError(
                    f"{shown}: member {member.name!r} has {member.size:,} bytes; allowed are {limits.max_member_bytes:,}"
                )
            if total > limits.max_total_bytes:
                raise UnsafeError(f"{shown}: holds more than {limits.max_total_bytes:,} bytes, the most that is allowed")
            if _is_bomb(member.size, member.packed, limits):
                raise UnsafeError(
                    f"{shown}: member {member.name!r} unpacks {member.packed:,} bytes to {member.size:,}, as a decompression "
                    f"bomb does; allowed are {limits.max_ratio} for one"
                )
            if _is_bomb(total, packed, limits):
                raise UnsafeError(
                    f"{shown}: unpacks {packed:,} bytes to more than {total:,}, as a decompression bomb does; allowed are "
                    f"{limits.max_ratio} for one"
                )
            hashes.append(hash(member.name))
            if len(hashes) > limits.max_members:
                raise UnsafeError(f"{shown}: holds more than {limits.max_members:,} members; expected smaller shards")
            yield member
    _check_twice(opened, hashes, shown)


def read_member(file: IO[bytes], member: Member, name: str = "archive") -> bytes:
    """The bytes of a member out of the opened archive; never more than its header declares.

    Raises DataError for one that is not what its header says.
    """
    if member.kind == "tar":
        found = os.pread(file.fileno(), member.size, member.offset)
    else:
        found = headers.read_zip_member(file, member, name)
    if len(found) != member.size:
        raise DataError(f"{name}: member {member.name!r} has {len(found):,} bytes; its header declares {member.size:,}")
    return found


def _check_place(member: Member, shown: str) -> None:
    """Raises UnsafeError for a name that would lead out of the folder in which the archive is unpacked."""
    told = member.name.replace("\\", "/")
    if told.startswith("/") or re.match(r"[A-Za-z]:", told):
        raise UnsafeError(f"{shown}: member {member.name[:200]!r} has an absolute name; expected names within the archive")
    if ".." in told.split("/"):
        raise UnsafeError(f"{shown}: member {member.name[:200]!r} leads out of the archive; expected names within it")


def _is_bomb(size: int, packed: int, limits: ArchiveLimits) -> bool:
    return size > limits.bomb_bytes and size > packed * limits.max_ratio


def _check_twice(opened: Opened, hashes: array[int], shown: str) -> None:
    """Raises DataError for a name that comes twice. Hashes alone were kept; where two are equal the names are read again."""
    values, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
    doubted = set(values[counts > 1].tolist())
    if not doubted:
        return
    seen: set[str] = set()
    with open(opened.path, "rb") as file:
        size = os.path.getsize(opened.path)
        found = headers.tar_members(file, size, shown) if opened.kind == "tar" else headers.zip_members(file, size, shown)
        for member in found:
            if hash(member.name) in doubted:
                if member.name in seen:
                    raise DataError(f"{shown}: member {member.name!r} comes twice; which is meant cannot be known")
                seen.add(member.name)


def _unpack(path: str, limits: ArchiveLimits) -> str:
    """A temporary file with what the gzip file holds. Nothing is left behind when it is refused."""
    packed, total = os.path.getsize(path), 0
    descriptor, target = tempfile.mkstemp(prefix="llava-kit-", suffix=".tar")
    try:
        free = shutil.disk_usage(target).free
        with os.fdopen(descriptor, "wb") as out, open(path, "rb") as file:
            for block in _inflated(file, path):
                if not total and not headers.is_tar(block[:512]):
                    raise DataError(f"{path}: is a gzip file, but not of a tar; expected {', '.join(ENDINGS)}")
                total += len(block)
                if _is_bomb(total, packed, limits):
                    raise UnsafeError(
                        f"{path}: unpacks {packed:,} bytes to more than {total:,}, as a decompression bomb does; allowed are "
                        f"{limits.max_ratio} for one"
                    )
                if total > min(limits.max_unpacked_bytes, free):
                    room = f"{free:,} are free there" if free < limits.max_unpacked_bytes else "the most that is allowed"
                    raise UnsafeError(
                        f"{path}: would take more than {min(limits.max_unpacked_bytes, free):,} bytes in "
                        f"{os.path.dirname(target)!r} ({room}); unpack it with `gzip -d` and name the .tar, "
                        "which is read in place"
                    )
                out.write(block)
    except BaseException:
        os.unlink(target)
        raise
    return target


def _inflated(file: IO[bytes], path: str) -> Iterator[bytes]:
    """What a gzip file holds, a megabyte at a time; several gzip files in a row count as one (RFC 1952, 2.2)."""
    machine, finished = zlib.decompressobj(31), False
    data = b""
    while True:
        data = data or file.read(_BLOCK)
        if not data:
            break
        if finished:
            if not data.strip(b"\0"):  # filling at the end, as tapes have it
                data = b""
                continue
            machine, finished = zlib.decompressobj(31), False
        try:
            block = machine.decompress(data, _BLOCK)
        except zlib.error as error:
            raise DataError(f"{path}: is damaged ({error}); copy it again") from None
        finished = machine.eof
        data = machine.unused_data if finished else machine.unconsumed_tail
        if block:
            yield block
    if not finished:
        raise DataError(f"{path}: breaks off before its end; copy it again")
