"""Rows of Parquet files as samples, by number: a slice of a row group is decoded at a time, and a few of them are kept."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llava_kit.core.conversation import Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError, first_line

from . import ParquetOptions
from .columns import Columns, choose_columns
from .files import find_files, fingerprint_files, root_of, source_of
from .library import need
from .rows import RowReader

# A slice that is decoded at once; a photograph has some 100 KB, so that a slice holds some eighty rows of one.
SLICE_BYTES = 8 * 2**20
MAX_SLICE_ROWS = 4096
# Values that are stored once and meant a million times are a bomb: so much a slice may take if all were as long as the longest
# can be. (Lists of such values within one row are not bounded.)
MAX_SLICE_BYTES = 256 * 2**20
# Files that are open at a time; each has its footer in memory.
MAX_OPEN = 16


class ParquetSource(DataSource):
    """Samples by number from one or many files. Memory holds where row groups begin, and the rows that were decoded last."""

    def __init__(self, options: ParquetOptions):
        parquet = need("pyarrow.parquet", "a Parquet file")
        self.options = options
        self.files = find_files(options.path, (".parquet",), options.split)
        self.columns, counts = _survey(parquet, self.files, options)
        self._begins = np.cumsum([0, *(count for _, _, count in counts)])
        self._groups = np.array([(file, group) for file, group, _ in counts], np.int32).reshape(-1, 2)
        self._reader = RowReader(options, root_of(self.files), source_of(options.path, self.files))
        self._rows = _RowGroups(self.files, self.columns.used(), options.cache_megabytes * 2**20)
        if not len(self):
            raise DataError(f"{self.files[0]}: found no rows in {len(self.files)} files; expected at least one")

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self))[index]
        place = int(np.searchsorted(self._begins, number, side="right")) - 1
        file, group = self._groups[place].tolist()
        try:
            row = self._rows.row(file, group, number - int(self._begins[place]))
        except _Undecodable as error:
            told = f"row {number}: {self.files[file]}: row group {group} cannot be decoded: {error}"
            raise SampleError("bad_row", told, sample_id=f"row {number}") from None
        return self._reader.sample(row, self.columns, number)

    def fingerprint(self) -> str:
        return f"{fingerprint_files(self.files)}:{self.options.picture_place}:{'|'.join(self.columns.used())}"


class _Undecodable(Exception):
    """The bytes of a row group are not what its footer says."""


class _Cursor(NamedTuple):
    """Where decoding stopped: going on from here costs nothing, going back begins the row group again."""

    file: int
    group: int
    batches: Iterator[Any]


class _RowGroups:
    """Rows out of row groups. Can be pickled, and used after a fork."""

    def __init__(self, files: Sequence[str], columns: Sequence[str], cache_bytes: int):
        self.files, self.columns, self.cache_bytes = list(files), list(columns), cache_bytes
        self._forget()

    def row(self, file: int, group: int, row: int) -> dict[str, Any]:
        """Row `row` of the row group, the columns that are used."""
        if self._owner != os.getpid():  # a forked worker must share neither place nor cache
            self._forget()
        for key in reversed(self._slices):
            start, batch = key[2], self._slices[key]
            if key[:2] == (file, group) and start <= row < start + batch.num_rows:
                self._slices.move_to_end(key)
                return _plain(batch, row - start)
        while True:
            start, batch = self._decode(file, group, row)
            if row < start + batch.num_rows:
                return _plain(batch, row - start)

    def _decode(self, file: int, group: int, row: int) -> tuple[int, Any]:
        """The next slice of the row group, beginning again where `row` lies behind."""
        try:
            if self._cursor is None or self._cursor[:2] != (file, group) or row < self._next:
                self._cursor, self._next = _Cursor(file, group, self._batches(file, group)), 0
            batch = next(self._cursor.batches)
        except _Undecodable:
            raise
        except Exception as error:  # pyarrow's own errors, and the end before the footer's count
            self._cursor = None
            raise _Undecodable("ends early" if isinstance(error, StopIteration) else first_line(error)) from None
        start, self._next = self._next, self._next + batch.num_rows
        self._slices[file, group, start] = batch
        while len(self._slices) > 1 and sum(kept.nbytes for kept in self._slices.values()) > self.cache_bytes:
            self._slices.popitem(last=False)
        return start, batch

    def _batches(self, file: int, group: int) -> Iterator[Any]:
        opened = self._open(file)
        told = opened.metadata.row_group(group)
        chunks = [told.column(number) for number in range(told.num_columns)]
        used = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in self.columns]
        size = sum(chunk.total_uncompressed_size for chunk in used)
        repeated = sum(chunk.total_uncompressed_size for chunk in used if _may_repeat(chunk))
        usual = SLICE_BYTES * told.num_rows // max(size, 1)
        rows = max(1, min(MAX_SLICE_ROWS, usual, MAX_SLICE_BYTES // max(repeated, 1)))
        return opened.iter_batches(rows, row_groups=[group], columns=self.columns, use_threads=False)

    def _open(self, file: int) -> Any:
        if file not in self._opened:
            while len(self._opened) >= MAX_OPEN:
                self._opened.popitem(last=False)
            parquet = need("pyarrow.parquet", "a Parquet file")
            try:
                # Read as it is used: with `pre_buffer` a whole row group would be in memory at once.
                self._opened[file] = parquet.ParquetFile(self.files[file], buffer_size=1 << 20, pre_buffer=False)
            except Exception as error:
                raise _Undecodable(first_line(error)) from None
        self._opened.move_to_end(file)
        return self._opened[file]

    def _forget(self) -> None:
        self._opened: OrderedDict[int, Any] = OrderedDict()
        self._slices: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._cursor: _Cursor | None = None
        self._next, self._owner = 0, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "columns": self.columns, "cache_bytes": self.cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _may_repeat(chunk: Any) -> bool:
    """Whether values of any length are stored once and meant often."""
    return chunk.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in encoding for encoding in chunk.encodings)


def _plain(batch: Any, row: int) -> dict[str, Any]:
    try:
        return batch.slice(row, 1).to_pylist()[0]
    except (ValueError, UnicodeError) as error:
        raise _Undecodable(first_line(error)) from None


def _survey(parquet: Any, files: Sequence[str], options: ParquetOptions) -> tuple[Columns, list[tuple[int, int, int]]]:
    """What the columns are, and (file, row group, rows) of all row groups; every file must have the columns of the first."""
    from .arrow_kinds import kinds_of

    first: Columns | None = None
    counts, problems = [], []
    for number, file in enumerate(files):
        try:
            with parquet.ParquetFile(file) as opened:
                kinds = kinds_of(opened.schema_arrow)
                counts += [
                    (number, group, opened.metadata.row_group(group).num_rows)
                    for group in range(opened.metadata.num_row_groups)
                ]
        except Exception as error:
            problems.append(f"{file}: is no Parquet file that can be read ({first_line(error)})")
            continue
        if first is None:
            first, expected = choose_columns(kinds, options.fields, file), kinds
        lacks = [name for name in first.used() if kinds.get(name) != expected[name]]
        if lacks:
            told = ", ".join(f"{name!r} is {kinds.get(name, 'missing')}, not {expected[name]}" for name in lacks)
            problems.append(f"{file}: has other columns than {files[0]}: {told}")
    if problems or first is None:
        more = f"; and {len(problems) - 5} more files" if len(problems) > 5 else ""
        raise DataError("\n".join(problems[:5]) + more)
    return first, counts
