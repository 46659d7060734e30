"""Which way a matrix product goes, cuBLAS or a tile of a Triton kernel: looked up in tables that were measured, never guessed.

cuBLAS and the small kernels run wherever no table has an entry: for LLaVA's projector a fused product gains a few per cent at
best and loses as easily. `tune` measures and writes the user's table; nothing is measured in a step.

`measurements` says where tables lie: shipped ones, and the user's own, whose entries come first. M rows, weights [N, K].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import measurements
from .gemm import TILES, Tile

OPS = ("linear_gelu", "linear_scatter", "linear_dgelu")

# Rows of 1, 2, ... pictures of LLaVA-1.5 (24 x 24 patches), up to a batch of 32 pictures of LLaVA-NeXT with five tiles each.
PICTURE_ROWS = 576
BUCKETS = tuple(PICTURE_ROWS * pictures for pictures in (1, 2, 4, 5, 8, 16, 32, 64, 160))

KIND = "products"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Choice:
    """What runs: a tile of the fused Triton kernel, or, without one, cuBLAS and the small kernels."""

    tile: Tile | None

    def __str__(self) -> str:
        return "cublas" if self.tile is None else str(self.tile)


CUBLAS = Choice(None)


class Key(NamedTuple):
    """What an entry is for; `rows` is one of `BUCKETS`."""

    op: str
    dtype: torch.dtype
    n: int
    k: int
    rows: int

    def __str__(self) -> str:
        return f"{self.op} {_NAMES[self.dtype]} up to {self.rows:,} rows, weight {self.n} x {self.k}"


Table = dict[Key, Choice]


def choose(op: str, device: torch.device, dtype: torch.dtype, m: int, n: int, k: int) -> Choice:
    """What runs `op` for M = `m` rows and a weight [`n`, `k`]; a dictionary is asked, nothing is measured."""
    return _tables(device).get(Key(op, dtype, n, k, bucket(m)), CUBLAS)


def bucket(rows: int) -> int:
    """The first of `BUCKETS` that holds `rows`; above the last one, the last."""
    return next((size for size in BUCKETS if rows <= size), BUCKETS[-1])


def describe(device: torch.device | None = None) -> list[str]:
    """For people: the device, where its tables come from, and what they choose. `device` None: the current CUDA device."""
    if device is None:
        if not torch.cuda.is_available():
            return ["no CUDA device: nothing to choose"]
        device = torch.device("cuda", torch.cuda.current_device())
    name = measurements.device_name(device)
    sources = [f"{kind}: {len(table)} entries" for kind, table in _sources(device) if table]
    if not sources:
        return [f"{name}: no table for this device: cuBLAS and the row kernels"]
    table = _tables(device)
    return [f"{name}: {', '.join(sources)}", *(f"{key}: {table[key]}" for key in sorted(table, key=str))]


def forget() -> None:
    """Reads the tables anew at the next question."""
    _tables.cache_clear()


def save(device: torch.device, table: Mapping[Key, Choice]) -> Path | None:
    """Adds the entries to the user's table of this device, all or nothing, and gives its path; None if it cannot be written."""
    path = measurements.own_path(device, KIND)
    if path is None:
        return None
    merged = {**_entries(path, measurements.read(path, device)), **table}
    entries = [
        {"op": key.op, "dtype": _NAMES[key.dtype], "n": key.n, "k": key.k, "rows": key.rows, "choice": _written(choice)}
        for key, choice in sorted(merged.items(), key=lambda item: str(item[0]))
    ]
    written = measurements.write(device, KIND, {"entries": entries})
    forget()
    return written


@functools.cache
def _tables(device: torch.device) -> Table:
    """All entries for the device, the user's own last: they win."""
    return {key: choice for _, table in _sources(device) for key, choice in table.items()}


def _sources(device: torch.device) -> list[tuple[str, Table]]:
    return [(word, _entries(path, content)) for word, path, content in measurements.read_all(device, KIND)]


def _entries(path: Path, content: dict[str, Any] | None) -> Table:
    if content is None:
        return {}
    try:
        return dict(map(_entry, content["entries"]))
    except (ValueError, KeyError, TypeError) as error:
        measurements.refuse(path, error)
        return {}


def _entry(entry: Any) -> tuple[Key, Choice]:
    key = Key(entry["op"], _DTYPES[entry["dtype"]], int(entry["n"]), int(entry["k"]), int(entry["rows"]))
    if key.op not in OPS or key.rows not in BUCKETS:
        raise ValueError(f"unknown operation or number of rows: {key}")
    if entry["choice"] == "cublas":
        return key, CUBLAS
    tile = Tile(*entry["choice"])
    if tile not in TILES:
        raise ValueError(f"unknown tile {tile}")
    return key, Choice(tile)


def _written(choice: Choice) -> Any:
    return "cublas" if choice.tile is None else list(choice.tile)
