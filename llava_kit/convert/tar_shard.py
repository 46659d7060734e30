"""A shard of WebDataset: for each sample `<key>.json`, and its pictures as `<key>.0.jpg`, `<key>.1.png`, ... beside it.

The JSON is one of LLaVA's rows, whose pictures are called by their names in the shard. Times and owners are left out of the
archive, so that the same samples give the same bytes.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ..core.conversation import Sample
from ..store.row import row_of
from .sinks import UNFINISHED, Shown, Sink, json_text, pictures_only


class TarSink(Sink):
    """Writes samples to a tar archive that appears under its name when it is whole; none without samples."""

    def __init__(self, folder: Path, shard: str):
        self._path = folder / shard
        self._unfinished = folder / UNFINISHED / f"{os.getpid()}-{shard}"
        self._tar: tarfile.TarFile | None = None

    def add(self, index: int, sample: Sample, shown: Sequence[Shown]) -> None:
        pictures = pictures_only(shown, "webdataset")
        key = f"{index:09}"
        names = [f"{key}.{number}.{picture.ending}" for number, picture in enumerate(pictures)]
        row = json_text(row_of(sample, names)).encode("utf-8", "backslashreplace")
        self._write(f"{key}.json", row)
        for name, picture in zip(names, pictures, strict=True):
            self._write(name, picture.data)

    def _write(self, name: str, data: bytes) -> None:
        if self._tar is None:
            self._tar = tarfile.open(self._unfinished, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> bytes:
        if self._tar is not None:
            self._tar.close()
            os.replace(self._unfinished, self._path)
        return b""
