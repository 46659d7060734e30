"""The headers of tar (POSIX.1-1988 and -2001, GNU's long names) and zip (APPNOTE 6.3) files, read and not believed.

Every number is held against the size of the file before anything is read by it.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from ..errors import DataError, UnsafeError

_SECTOR = 512
# A name, or a list of attributes, that is longer serves no file system (Linux ends paths at 4 KB).
_MAX_NOTE = 1 << 16
_REGULAR, _FOLDER, _SPARSE = b"0\07", b"5", b"S"
_LINKS = {ord("1"): "a hard link", ord("2"): "a symbolic link"}
_DEVICES = {ord("3"): "a device", ord("4"): "a device", ord("6"): "a pipe"}
# What macOS and tapes add about a file, which is no file.
_NOTES_TO_SKIP = b"gVNMX"

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "AES encryption"}
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF


class Member(NamedTuple):
    """A file in an archive: its name, where it begins (tar: its bytes; zip: its own header), its size, and packed size."""

    name: str
    offset: int
    size: int
    packed: int
    kind: str
    """`tar`, `stored` or `deflated`."""


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header, by its checksum; an archive of nothing is zeros."""
    if len(head) < _SECTOR:
        return False
    if not head.strip(b"\0"):
        return True
    return _checksum_fits(head[:_SECTOR])


def tar_members(file: IO[bytes], size: int, shown: str) -> Iterator[Member]:
    """The files of a tar of `size` bytes, in order. Raises DataError and UnsafeError as `archives.list_members` does."""
    place, long_name, attributes = 0, None, {}
    while True:
        header = os.pread(file.fileno(), _SECTOR, place)
        if len(header) < _SECTOR:
            raise DataError(f"{shown}: breaks off at byte {place:,}: its end mark is missing; copy it again")
        if not header.strip(b"\0"):
            return
        if not _checksum_fits(header):
            raise DataError(f"{shown}: is damaged at byte {place:,}: no header of a member; copy it again")
        kind, length = header[156], _number(header[124:136], shown, place)
        if "size" in attributes and attributes["size"].isdecimal():
            length = int(attributes["size"][:20])
        data = place + _SECTOR
        after = data + -(-length // _SECTOR) * _SECTOR
        holds_data = kind not in _FOLDER and kind not in _LINKS and kind not in _DEVICES
        if holds_data and data + length > size:
            name = long_name or attributes.get("path") or _text(header[:100])
            raise DataError(
                f"{shown}: member {name[:200]!r} declares {length:,} bytes, and the file ends {max(0, size - data):,} bytes "
                "after its header; the copy is not complete, or the header lies"
            )
        if kind in b"xLK" and length > _MAX_NOTE:
            raise UnsafeError(f"{shown}: byte {place:,}: a name of {length:,} bytes; allowed are {_MAX_NOTE:,}")
        if kind == ord("L"):
            long_name, place = _text(os.pread(file.fileno(), length, data)), after
            continue
        if kind == ord("x"):
            attributes, place = _attributes(os.pread(file.fileno(), length, data)), after
            continue
        if kind in _NOTES_TO_SKIP or kind == ord("K"):
            place = after
            continue
        name = long_name or attributes.get("path") or _tar_name(header)
        if kind in _SPARSE or any(key.startswith("GNU.sparse") for key in attributes):
            raise UnsafeError(f"{shown}: member {name[:200]!r} is sparse (holes that are not stored); expected plain files")
        if told := _LINKS.get(kind) or _DEVICES.get(kind):
            raise UnsafeError(f"{shown}: member {name[:200]!r} is {told}; expected plain files and folders")
        if kind in _REGULAR and not name.endswith("/"):
            yield Member(_clean(name), data, length, length, "tar")
        elif kind not in _FOLDER and kind not in _REGULAR:
            raise DataError(f"{shown}: member {name[:200]!r} is of kind {chr(kind)!r}; expected plain files and folders")
        long_name, attributes = None, {}
        place = after if kind in _REGULAR else data


def zip_members(file: IO[bytes], size: int, shown: str) -> Iterator[Member]:
    """The files of a zip of `size` bytes, by its directory. Raises as `tar_members` does."""
    start, length = _directory(file, size, shown)
    begins, stops = array("q"), array("q")
    place, end = start, start + length
    while place < end:
        entry = os.pread(file.fileno(), _ENTRY.size, place)
        if len(entry) < _ENTRY.size or not entry.startswith(b"PK\x01\x02"):
            raise DataError(f"{shown}: its directory is damaged at byte {place:,}; copy it again")
        fields = _ENTRY.unpack(entry)
        flags, method, packed, unpacked, name_size, extra_size, note_size = *fields[3:5], *fields[8:13]
        attributes, offset = fields[15], fields[16]
        tail = os.pread(file.fileno(), name_size + extra_size, place + _ENTRY.size)
        name = tail[:name_size].decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
        unpacked, packed, offset = _wide(tail[name_size:], unpacked, packed, offset)
        place += _ENTRY.size + name_size + extra_size + note_size
        if name.endswith("/"):
            continue
        _check_entry(name, flags, method, attributes, shown)
        if offset + _LOCAL.size + packed > start or (method == _STORED and packed != unpacked):
            raise DataError(
                f"{shown}: member {name[:200]!r} declares bytes that the file does not have; it is damaged, or lies"
            )
        begins.append(offset)
        stops.append(offset + _LOCAL.size + packed)
        yield Member(_clean(name), offset, unpacked, packed, "stored" if method == _STORED else "deflated")
    order = np.argsort(np.frombuffer(begins, np.int64))
    first, last = np.frombuffer(begins, np.int64)[order], np.frombuffer(stops, np.int64)[order]
    if (first[1:] < last[:-1]).any():
        raise UnsafeError(f"{shown}: members lie over each other, as in a decompression bomb; expected each in its own place")


def read_zip_member(file: IO[bytes], member: Member, shown: str) -> bytes:
    """The unpacked bytes of a member, at most one more than declared."""
    header = os.pread(file.fileno(), _LOCAL.size, member.offset)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise DataError(f"{shown}: member {member.name!r} is not where the directory says; it is damaged")
    name_size, extra_size = _LOCAL.unpack(header)[9:11]
    packed = os.pread(file.fileno(), member.packed, member.offset + _LOCAL.size + name_size + extra_size)
    if member.kind == "stored":
        return packed
    try:
        return zlib.decompressobj(-15).decompress(packed, member.size + 1)
    except zlib.error as error:
        raise DataError(f"{shown}: member {member.name!r} is damaged ({error}); copy the archive again") from None


def _checksum_fits(header: bytes) -> bool:
    """The sum of a header's bytes, its own place counted as spaces, stands at 148; old programs counted signed bytes."""
    try:
        declared = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    counted = header[:148] + b" " * 8 + header[156:_SECTOR]
    # The second sum is slow, and has been needed by no program of the last thirty years.
    return declared == sum(counted) or declared == sum(byte - 256 * (byte > 127) for byte in counted)


def _number(field: bytes, shown: str, place: int) -> int:
    """An octal number, or one of 88 bits after a byte of 0x80 (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    else:
        try:
            value = int(field.strip(b" \0") or b"0", 8)
        except ValueError:
            value = -1
    if value < 0:
        raise DataError(f"{shown}: is damaged at byte {place:,}: a member's size is no number; copy it again")
    return value


def _attributes(note: bytes) -> dict[str, str]:
    """Records `length key=value` of a POSIX.1-2001 header."""
    found = {}
    while note:
        length, space, _ = note.partition(b" ")
        if not space or not length.isdigit() or len(length) > 9 or not len(length) < int(length) <= len(note):
            break
        key, _, value = note[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        found[_text(key)] = _text(value)
        note = note[int(length) :]
    return found


def _tar_name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _clean(name: str) -> str:
    """Without the `./` that `tar` puts before names."""
    while name.startswith("./"):
        name = name[2:]
    return name


def _directory(file: IO[bytes], size: int, shown: str) -> tuple[int, int]:
    """Where a zip's directory begins, and its length."""
    tail_at = max(0, size - _EOCD.size - _FULL16)
    tail = os.pread(file.fileno(), size - tail_at, tail_at)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _EOCD.size:
        raise DataError(f"{shown}: breaks off: its directory, which stands at the end, is missing; copy it again")
    fields = _EOCD.unpack_from(tail, found)
    if not {fields[1], fields[2]} <= {0, _FULL16}:
        raise DataError(f"{shown}: is one piece of a zip in several; put them together (`zip -s 0 --out whole.zip`)")
    length, start, end = fields[5], fields[6], tail_at + found
    if _FULL32 in (length, start) or _FULL16 in fields[3:5]:
        locator = os.pread(file.fileno(), 20, max(0, end - 20))
        if locator.startswith(b"PK\x06\x07"):
            at = int.from_bytes(locator[8:16], "little")
            record = os.pread(file.fileno(), _EOCD64.size, at) if at < size else b""
            if len(record) == _EOCD64.size and record.startswith(b"PK\x06\x06"):
                *_, length, start = _EOCD64.unpack(record)
                end = at
    if start + length > end:
        raise DataError(f"{shown}: its directory declares {length:,} bytes at {start:,}; the file has {size:,}: it is damaged")
    return start, length


def _wide(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The numbers that do not fit into 32 bits stand in the extra field 1, in this order."""
    place = 0
    while place + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, place)
        if tag == 1:
            numbers = iter(
                struct.unpack_from(f"<{length // 8}Q", extra[place + 4 : place + 4 + length // 8 * 8].ljust(length, b"\0"))
            )
            unpacked, packed, offset = (
                next(numbers, value) if value == _FULL32 else value for value in (unpacked, packed, offset)
            )
            break
        place += 4 + length
    return unpacked, packed, offset


def _check_entry(name: str, flags: int, method: int, attributes: int, shown: str) -> None:
    if flags & 0x2041:  # encrypted, strongly, or with a hidden directory
        raise DataError(f"{shown}: member {name[:200]!r} is encrypted; expected an archive without a password")
    mode = attributes >> 16
    if stat.S_ISLNK(mode):
        raise UnsafeError(f"{shown}: member {name[:200]!r} is a symbolic link; expected plain files and folders")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeError(f"{shown}: member {name[:200]!r} is a device; expected plain files and folders")
    if method not in (_STORED, _DEFLATED):
        told = _METHODS.get(method, f"method {method}")
        raise DataError(f"{shown}: member {name[:200]!r} is packed by {told}; expected stored or deflated: pack it again")
