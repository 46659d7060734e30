"""Which way a matrix product goes, cuBLAS or a tile of a Triton kernel: looked up in tables that were measured, never guessed.

cuBLAS and the small kernels run wherever no table has an entry: for LLaVA's projector a fused product gains a few per cent at
best and loses as easily. `tune` measures and writes the user's table; nothing is measured in a step.

Tables are JSON. Those that ship lie in `tables/` of the package (none does until a GPU was measured: a table holds what was
measured on the device that it names, nothing else). The user's own lies under the cache folder:
`$LLAVA_KIT_CACHE/kernels`, else `$XDG_CACHE_HOME/llava_kit/kernels`, else `~/.cache/llava_kit/kernels`, one file for a device
and the versions of torch and Triton; its entries come before shipped ones, and LLAVA_KIT_AUTOTUNE=0 leaves it out. A table for
another device or other versions is not looked at. M rows, weights [N, K].
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from .gemm import TILES, Tile

OPS = ("linear_gelu", "linear_scatter", "linear_dgelu")

# Rows of 1, 2, ... pictures of LLaVA-1.5 (24 x 24 patches), up to a batch of 32 pictures of LLaVA-NeXT with five tiles each.
PICTURE_ROWS = 576
BUCKETS = tuple(PICTURE_ROWS * pictures for pictures in (1, 2, 4, 5, 8, 16, 32, 64, 160))

SHIPPED = Path(__file__).parent.parent / "tables"
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
    return _tables(_device_name(device)).get(Key(op, dtype, n, k, bucket(m)), CUBLAS)


def bucket(rows: int) -> int:
    """The first of `BUCKETS` that holds `rows`; above the last one, the last."""
    return next((size for size in BUCKETS if rows <= size), BUCKETS[-1])


def describe(device: torch.device | None = None) -> list[str]:
    """For people: the device, where its tables come from, and what they choose. `device` None: the current CUDA device."""
    if device is None:
        if not torch.cuda.is_available():
            return ["no CUDA device: nothing to choose"]
        device = torch.device("cuda", torch.cuda.current_device())
    name = _device_name(device)
    sources = [f"{kind}: {len(table)} entries" for kind, table in _sources(name) if table]
    if not sources:
        return [f"{name}: no table for this device: cuBLAS and the row kernels"]
    table = _tables(name)
    return [f"{name}: {', '.join(sources)}", *(f"{key}: {table[key]}" for key in sorted(table, key=str))]


def forget() -> None:
    """Reads the tables anew at the next question."""
    _tables.cache_clear()


def user_table() -> bool:
    """Whether the user's own table is asked."""
    return os.environ.get("LLAVA_KIT_AUTOTUNE") != "0"


def table_path(device: torch.device) -> Path | None:
    """Where the user's table of this device lies or would lie; None where there is no home to write to."""
    return _path(_device_name(device))


def save(device: torch.device, table: Mapping[Key, Choice]) -> Path | None:
    """Adds the entries to the user's table of this device, all or nothing, and gives its path; None if it cannot be written.

    Two processes that write at once leave the table of one of them.
    """
    path = table_path(device)
    if path is None:
        return None
    name = _device_name(device)
    merged = {**_read(path, name), **table}
    entries = [
        {"op": key.op, "dtype": _NAMES[key.dtype], "n": key.n, "k": key.k, "rows": key.rows, "choice": _written(choice)}
        for key, choice in sorted(merged.items(), key=lambda item: str(item[0]))
    ]
    try:
        _replace(path, json.dumps({**_stamp(name), "entries": entries}, indent=1) + "\n")
    except OSError as error:
        warnings.warn(f"the table of kernels could not be written to {path}: {error}", stacklevel=2)
        return None
    forget()
    return path


def _replace(path: Path, text: str) -> None:
    """Writes beside the file and renames: who reads sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


@functools.cache
def _tables(name: str) -> Table:
    """All entries for the device of this name, the user's own last: they win."""
    return {key: choice for _, table in _sources(name) for key, choice in table.items()}


def _sources(name: str) -> list[tuple[str, Table]]:
    shipped = {key: choice for path in sorted(SHIPPED.glob("*.json")) for key, choice in _read(path, name).items()}
    path = _path(name) if user_table() else None
    return [("shipped table", shipped), ("your table", {} if path is None else _read(path, name))]


def _path(name: str) -> Path | None:
    folder, versions = _cache_folder(), f"torch{_minor(torch.__version__)}-triton{_minor(triton.__version__)}"
    return folder and folder / f"{_slug(name)}-{versions}.json"


def _read(path: Path, name: str) -> Table:
    """The entries of one file, if it is for this device and these versions; a broken file is one warning and no entry."""
    try:
        content = json.loads(path.read_text())
        if {key: content[key] for key in _stamp(name)} != _stamp(name):
            return {}
        return dict(map(_entry, content["entries"]))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        warnings.warn(f"{path} is no table of kernels ({problem}) and is not used; delete it or tune again", stacklevel=2)
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


def _stamp(name: str) -> dict[str, str]:
    """What a table was measured with. The last part of a version changes no kernel."""
    return {"device": name, "torch": _minor(torch.__version__), "triton": _minor(triton.__version__)}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


@functools.cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cache_folder() -> Path | None:
    own, shared = os.environ.get("LLAVA_KIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own, "kernels")
    if shared:
        return Path(shared, "llava_kit", "kernels")
    try:
        return Path.home() / ".cache" / "llava_kit" / "kernels"
    except RuntimeError:
        return None
