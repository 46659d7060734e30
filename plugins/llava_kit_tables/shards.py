"""Where the members of tar and zip shards lie, grouped into samples: some 50 bytes a sample in memory, found in one pass."""

from __future__ import annotations

import os
import re
import weakref
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llava_kit.core.archive_headers import Member
from llava_kit.core.archives import Opened, list_members, open_archive, read_member
from llava_kit.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("json", "txt")
# Written by programs that can run what they read; here they are not so much as opened.
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt", "ten", "npy", "npz")
_KINDS = ("tar", "stored", "deflated")
MAX_OPEN = 16


class Shards:
    """Members by sample. `read(i)` gives the key of sample i and its members' bytes by ending, in the order of their names.

    Members with endings that are not read are counted in `ignored`. Can be pickled, and used after a fork; what was unpacked to
    a temporary file is removed by the process that did it, when it ends or forgets this.
    """

    def __init__(self, files: Sequence[str]):
        self.files = list(files)
        self.ignored: Counter[str] = Counter()
        self._endings: dict[str, int] = {}
        self._opened: list[Opened] = []
        self._spool = _Spool()
        self._keys, self._key_ends = bytearray(), array("q")
        self._firsts, self._shards = array("q"), array("i")  # of each sample: its first member, its file
        self._offsets, self._sizes, self._packed = array("q"), array("q"), array("q")
        self._kinds, self._member_endings = array("b"), array("h")
        for number, file in enumerate(self.files):
            opened = open_archive(file)
            self._opened.append(opened)
            if opened.temporary:
                self._spool.add(opened.path)
            self._add(number, opened, file)
        self._names = list(self._endings)
        self._files: dict[int, Any] = {}
        self._owner = 0

    def __len__(self) -> int:
        return len(self._firsts)

    def read(self, sample: int) -> tuple[str, list[tuple[str, bytes]]]:
        """Raises DataError for a member that is not what its header says."""
        first = self._firsts[sample]
        last = self._firsts[sample + 1] if sample + 1 < len(self) else len(self._offsets)
        shard = self._shards[sample]
        file = self._file(shard)
        key = self._keys[self._key_ends[sample - 1] if sample else 0 : self._key_ends[sample]].decode("utf-8")
        found = []
        for number in range(first, last):
            ending = self._names[self._member_endings[number]]
            place = (self._offsets[number], self._sizes[number], self._packed[number])
            member = Member(f"{key}.{ending}", *place, _KINDS[self._kinds[number]])
            found.append((ending, read_member(file, member, self.files[shard])))
        return key, found

    def _add(self, shard: int, opened: Opened, shown: str) -> None:
        """The samples of one shard, in the order in which their first members stand."""
        samples: dict[str, list[tuple[str, Member]]] = {}
        for member in list_members(opened, name=shown):
            folder, _, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            last = ending.rpartition(".")[2].lower()
            if not stem or not dot or last not in PICTURES + TEXTS:  # no stem: hidden files, as macOS adds them
                self.ignored[f".{last}" if stem and dot else base[:40]] += 1
                continue
            key = f"{folder}/{stem}" if folder else stem
            samples.setdefault(key, []).append((ending.lower(), member))
        for key, members in samples.items():
            self._keys += key.encode("utf-8")
            self._key_ends.append(len(self._keys))
            self._firsts.append(len(self._offsets))
            self._shards.append(shard)
            for ending, member in sorted(members, key=lambda pair: _by_number(pair[0])):
                self._offsets.append(member.offset)
                self._sizes.append(member.size)
                self._packed.append(member.packed)
                self._kinds.append(_KINDS.index(member.kind))
                self._member_endings.append(self._endings.setdefault(ending, len(self._endings)))
                if len(self._endings) > 30_000:
                    raise DataError(f"{shown}: its members have more than 30,000 endings; expected names as in 0001.jpg")

    def _file(self, shard: int) -> Any:
        if self._owner != os.getpid():  # a forked worker opens its own
            self._files, self._owner = {}, os.getpid()
        if shard not in self._files:
            while len(self._files) >= MAX_OPEN:
                self._files.pop(next(iter(self._files))).close()
            path = self._opened[shard].path
            try:
                self._files[shard] = open(path, "rb")  # noqa: SIM115 - it stays open
            except OSError as error:
                raise DataError(f"{self.files[shard]}: cannot be read: {os.strerror(error.errno or 0)}") from error
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_owner": 0, "_spool": None}


class _Spool:
    """Temporary files that go when this does, or when the program ends; a fork's copy removes nothing."""

    def __init__(self):
        self._paths: list[str] = []
        weakref.finalize(self, _remove, self._paths, os.getpid())

    def add(self, path: str) -> None:
        self._paths.append(path)


def _remove(paths: list[str], owner: int) -> None:
    if os.getpid() == owner:
        for path in paths:
            with suppress(OSError):
                os.unlink(path)


def _by_number(ending: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", ending) if part]
