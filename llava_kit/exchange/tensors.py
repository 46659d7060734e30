"""Tensors by name, read one at a time: from a folder's files, or from other tensors renamed, joined, or added to."""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, first_line, shorten

SAFETENSORS, PICKLES = (".safetensors",), (".bin", ".pt", ".pth")

# Number types by the names that safetensors files give them; others (whole numbers, 8-bit floats) are no weights of ours.
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Tensors(ABC):
    """Tensors by name. `read` gives a new tensor on the CPU, so that one at a time is in memory."""

    where: str
    """The folder or file, for messages."""

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every name with its shape; no data is read."""

    @abstractmethod
    def read(self, name: str) -> Tensor: ...

    def __contains__(self, name: str) -> bool:
        return name in self.shapes()


class FileTensors(Tensors):
    """The tensors of some files of one folder. Safetensors are read lazily; a pickle is read whole, with `weights_only`."""

    def __init__(self, files: Sequence[Path], *, where: Path | None = None):
        self.where = str(where or files[0].parent)
        self._home: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        wrong: list[str] = []
        for file in files:
            for name, shape in _shapes_of(file, wrong).items():
                if name in self._home:
                    wrong.append(f"tensor {name!r} is in {self._home[name].name} and in {file.name}")
                self._home[name], self._shapes[name] = file, shape
        if wrong:
            raise CheckpointError(f"{self.where}: the weights cannot be used: {shorten(wrong)}")

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        file = self._home[name]
        if file.suffix in PICKLES:
            # A copy: a view would keep the whole pickle's storage in memory.
            return _load_pickle(file)[name].clone()
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(name)


class MemoryTensors(Tensors):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        self.where, self._tensors = where, tensors

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


class RenamedTensors(Tensors):
    """Some of another's tensors under new names: `names` maps new to old."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self.where, self._tensors, self._names = tensors.where, tensors, dict(names)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = self._tensors.shapes()
        return {new: shapes[old] for new, old in self._names.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors.read(self._names[name])


class JoinedTensors(Tensors):
    """The tensors of several; of two of the same name the one of the later source counts."""

    def __init__(self, sources: Iterable[Tensors]):
        self._sources = list(sources)
        self.where = " with ".join(dict.fromkeys(source.where for source in self._sources))
        self._home = {name: source for source in self._sources for name in source.shapes()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: source.shapes()[name] for name, source in self._home.items()}

    def read(self, name: str) -> Tensor:
        return self._home[name].read(name)


def below(tensors: Tensors, *prefixes: str) -> RenamedTensors:
    """The tensors whose names begin with one of `prefixes`, that beginning left out."""
    names = {}
    for name in tensors.shapes():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is not None:
            names[name.removeprefix(prefix)] = name
    return RenamedTensors(tensors, names)


def weight_files(folder: Path, *stems: str) -> list[Path]:
    """The weight files of a folder: those of its index, or its single file; safetensors before pickles; empty when it has none.

    `stems`: beginnings of their names, `model` and `pytorch_model` by default.

    Raises `CheckpointError` for an index that cannot be read, or that names files which are not there.
    """
    for suffix in (*SAFETENSORS, *PICKLES[:1]):
        for stem in stems or ("model", "pytorch_model"):
            index = folder / f"{stem}{suffix}.index.json"
            if index.is_file():
                return _indexed(index)
            if (folder / f"{stem}{suffix}").is_file():
                return [folder / f"{stem}{suffix}"]
    return []


def _indexed(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: expected a `weight_map` of tensor names to file names ({first_line(error)})"
        ) from error
    missing = [name for name in names if Path(str(name)).name != name or not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index}: names files that are not in that folder: {shorten([repr(name) for name in missing])}")
    files = [index.parent / name for name in names]
    if files[0].suffix in SAFETENSORS:
        held = {name: file.name for file in files for name in _shapes_of(file, [])}
        lost = [f"tensor {name!r} is not in {file}" for name, file in weight_map.items() if held.get(name) != file]
        if lost:
            raise CheckpointError(f"{index}: does not fit its files: {shorten(lost)}")
    return files


def _shapes_of(file: Path, wrong: list[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a file; what is wrong with it is added to `wrong`."""
    if file.suffix in PICKLES:
        found = _load_pickle(file)
        wrong += [
            f"{file.name}: tensor {name!r} is of type {tensor.dtype}; expected floating-point numbers"
            for name, tensor in found.items()
            if not tensor.is_floating_point() and not _is_buffer(name)
        ]
        return {name: tuple(tensor.shape) for name, tensor in found.items()}
    try:
        with safe_open(file, framework="pt") as handle:
            shapes = {}
            for name in handle.keys():  # noqa: SIM118 (no mapping: it has keys() alone)
                part = handle.get_slice(name)
                if part.get_dtype() not in _FLOATS and not _is_buffer(name):
                    wrong.append(
                        f"{file.name}: tensor {name!r} is of type {part.get_dtype()}; expected one of {', '.join(_FLOATS)}"
                    )
                shapes[name] = tuple(part.get_shape())
            return shapes
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({first_line(error)}); is it whole?") from error


def _is_buffer(name: str) -> bool:
    """Whole numbers that old checkpoints carry along: positions, not weights."""
    return name.endswith("position_ids")


@lru_cache(maxsize=1)  # one shard at a time stays in memory
def _load_pickle(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_can_map(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds more than tensors (objects or code), and is not opened; ask its author for safetensors"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{file}: cannot be read as tensors ({first_line(error)}); is it whole?") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{file}: expected tensors by name, found {type(found).__name__} with other things in it")
    return dict(found)


def _can_map(file: Path) -> bool:
    """Whether the file is in torch's zip form, whose tensors can stay on the disk until they are used."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
