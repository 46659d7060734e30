"""Tensors into safetensors shards with an index, one shard in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..assemble.files import write_json
from ..errors import LlavaKitError

INDEX = "model.safetensors.index.json"
MAX_SHARD_SIZE = "5GB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Progress = Callable[[int, int], None]
"""(bytes written, bytes in all)"""


@dataclass(frozen=True)
class Piece:
    """A tensor that will be written: `read()` gives it, in any type and on any device; it is written as `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def piece(name: str, tensor: Tensor, dtype: torch.dtype) -> Piece:
    """A tensor that is in memory, under a new name."""
    return Piece(name, tuple(tensor.shape), dtype, lambda: tensor)


def read_size(text: str | int) -> int:
    """`5GB`, `800MB`, `1.5GiB` or a number of bytes, as bytes. Raises `LlavaKitError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    unit = found[2].upper() if found else ""
    if found is None or (unit and unit not in _UNITS) or float(found[1]) <= 0:
        raise LlavaKitError(f"max_shard_size: found {text!r}; expected a size such as 5GB, 800MB or 2GiB")
    return max(1, int(float(found[1]) * _UNITS.get(unit, 1)))


def told_size(num_bytes: float) -> str:
    """A size for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def write_shards(folder: Path, pieces: Sequence[Piece], *, max_bytes: int, progress: Progress | None = None) -> int:
    """Write the pieces, in order, to `model.safetensors` or to shards of at most `max_bytes` with an index; the bytes written.

    A tensor that is larger than `max_bytes` gets a shard of its own.
    """
    shards = _divide(pieces, max_bytes)
    total, done = sum(each.num_bytes for each in pieces), 0
    homes: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for each in shard:
            tensor = _ready(each)
            # safetensors refuses two names for one memory; a reader that knows of no tie wants both.
            shared = any(tensor.data_ptr() == other.data_ptr() and tensor.numel() for other in tensors.values())
            tensors[each.name] = tensor.clone() if shared else tensor
        save_file(tensors, folder / name, metadata={"format": "pt"})
        # safetensors lets nobody else read what it writes; a model is served by other users than made it.
        (folder / name).chmod(folder.stat().st_mode & 0o666)
        homes.update(dict.fromkeys(tensors, name))
        done += sum(each.num_bytes for each in shard)
        if progress is not None:
            progress(done, total)
    if len(shards) > 1:
        parameters = sum(prod(each.shape) for each in pieces)
        metadata = {"total_parameters": parameters, "total_size": total}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(sorted(homes.items()))})
    return total


def _divide(pieces: Sequence[Piece], max_bytes: int) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    filled = 0
    for each in pieces:
        if shards[-1] and filled + each.num_bytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(each)
        filled += each.num_bytes
    return shards


def _ready(each: Piece) -> Tensor:
    """On the CPU, in its type, with memory of its own order; a copy only where one of these needs it."""
    tensor = each.read().detach().to("cpu", each.dtype).contiguous()
    assert tuple(tensor.shape) == each.shape, f"{each.name}: {tuple(tensor.shape)} is not {each.shape}"
    return tensor
