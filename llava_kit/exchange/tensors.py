"""Tensors by name, read one at a time: from a folder's files, or from other tensors renamed, joined, or added to."""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, first_line, shorten

SAFETENSORS, PICKLES = (".safetensors",), (".bin", ".pt", ".pth")

# Number types by the names that safetensors files give them; others (whole numbers, 8-bit floats) are no weights of ours.
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_KINDS = {dtype: kind for kind, dtype in _FLOATS.items()}


class Tensors(ABC):
    """Tensors by name. `read` gives a new tensor on the CPU, so that one at a time is in memory."""

    where: str
    """The folder or file, for messages."""

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every name with its shape; no data is read."""

    @abstractmethod
    def read(self, name: str) -> Tensor: ...

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """How the tensor is stored; no data is read."""

    def __contains__(self, name: str) -> bool:
        return name in self.shapes()


class FileTensors(Tensors):
    """The tensors of some files of one folder.

    Safetensors are read lazily; so are pickles in torch's zip form, which are mapped into memory; older pickles are read whole,
    one at a time. Pickles are opened with `weights_only`, so that no code in them runs.

    Raises `CheckpointError` naming everything that is wrong with the files.
    """

    def __init__(self, files: Sequence[Path], *, where: Path | None = None):
        self.where = str(where or files[0].parent)
        self._home: dict[str, Path] = {}
        self._facts: dict[str, _Facts] = {}
        self._pickles = _Pickles()
        wrong: list[str] = []
        for file in files:
            for name, facts in self._look(file).items():
                if name in self._home:
                    wrong.append(f"tensor {name!r} is in {self._home[name].name} and in {file.name}")
                self._home[name], self._facts[name] = file, facts
                wrong += _wrong_with(f"{file.name}: tensor {name!r}", facts, is_buffer=name.endswith("position_ids"))
        if wrong:
            raise CheckpointError(f"{self.where}: the weights cannot be used: {shorten(wrong)}")

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: facts.shape for name, facts in self._facts.items()}

    def read(self, name: str) -> Tensor:
        file = self._home[name]
        if file.suffix in PICKLES:
            # A copy: a view would keep the whole pickle's storage in memory.
            return self._pickles.open(file)[name].clone()
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        return _FLOATS.get(self._facts[name].kind, torch.int64)  # the only others that are let in are positions

    def _look(self, file: Path) -> dict[str, _Facts]:
        if file.suffix in PICKLES:
            return {
                name: _Facts(tuple(tensor.shape), _KINDS.get(tensor.dtype, str(tensor.dtype)))
                for name, tensor in self._pickles.open(file).items()
            }
        return _look_into_safetensors(file)


class MemoryTensors(Tensors):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        self.where, self._tensors = where, tensors

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype


class RenamedTensors(Tensors):
    """Some of another's tensors under new names: `names` maps new to old."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self.where, self._tensors, self._names = tensors.where, tensors, dict(names)
        shapes = tensors.shapes()
        self._shapes = {new: shapes[old] for new, old in self._names.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        return self._tensors.read(self._names[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors.dtype(self._names[name])


class JoinedTensors(Tensors):
    """The tensors of several; of two of the same name the one of the later source counts."""

    def __init__(self, sources: Iterable[Tensors]):
        self._sources = list(sources)
        self.where = " with ".join(dict.fromkeys(source.where for source in self._sources))
        self._home = {name: source for source in self._sources for name in source.shapes()}
        shapes = {id(source): source.shapes() for source in self._sources}
        self._shapes = {name: shapes[id(source)][name] for name, source in self._home.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        return self._home[name].read(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._home[name].dtype(name)


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
        held = {name: file.name for file in files for name in _look_into_safetensors(file)}
        lost = [f"tensor {name!r} is not in {file}" for name, file in weight_map.items() if held.get(name) != file]
        if lost:
            raise CheckpointError(f"{index}: does not fit its files: {shorten(lost)}")
    return files


class _Facts(NamedTuple):
    """A tensor's shape, and its kind of number as safetensors files call it."""

    shape: tuple[int, ...]
    kind: str


def _wrong_with(what: str, facts: _Facts, *, is_buffer: bool) -> list[str]:
    if facts.kind not in _FLOATS and not is_buffer:  # positions, which old checkpoints carry along, are no weights
        return [f"{what} is of type {facts.kind}; expected one of {', '.join(_FLOATS)}"]
    if 0 in facts.shape:
        # DeepSpeed's ZeRO-3 leaves such stumps when its parameters were not gathered before they were saved.
        return [f"{what} is empty (shape {facts.shape}): the run that wrote it was sharded and did not gather its weights"]
    return []


def _look_into_safetensors(file: Path) -> dict[str, _Facts]:
    try:
        with safe_open(file, framework="pt") as handle:
            parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping: it has keys() alone)
            return {name: _Facts(tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({first_line(error)}); is it whole?") from error


class _Pickles:
    """Opened pickles: those whose tensors stay on the disk, and of the others the last one."""

    def __init__(self):
        self._mapped: dict[Path, dict[str, Tensor]] = {}
        self._last: tuple[Path, dict[str, Tensor]] | None = None

    def open(self, file: Path) -> dict[str, Tensor]:
        if file in self._mapped:
            return self._mapped[file]
        if self._last is not None and self._last[0] == file:
            return self._last[1]
        self._last = None  # freed before the next one is read
        mapped = _is_zip(file)
        tensors = read_pickle(file, mapped=mapped)
        if mapped:
            self._mapped[file] = tensors
        else:
            self._last = file, tensors
        return tensors


def read_pickle(file: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a pickle, by name; `mapped`: they stay on the disk until they are used.

    Raises `CheckpointError` for a file that holds anything but tensors by name, or that is not whole; nothing in it is run.
    """
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: cannot be read as tensors alone: it holds objects or code, which are not opened, or it is damaged; ask "
            "its author for safetensors"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{file}: cannot be read as tensors ({first_line(error)}); is it whole?") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{file}: expected tensors by name, found {type(found).__name__} with other things in it")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _is_zip(file: Path) -> bool:
    """Whether the file is in torch's zip form, whose tensors can stay on the disk until they are used."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
