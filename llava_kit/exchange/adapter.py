"""LoRA adapters: low-rank pairs by the names of the weights they belong to, merged by arithmetic while weights are read.

W [out, in], A [r, in], B [out, r]: the merged weight is W + scale * B A. No peft is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.checkpoint import fetch_checkpoint
from ..errors import CheckpointError, PluginError, first_line, shorten
from .foreign import Foreign
from .layouts import NEWLINE, Place, from_original, from_transformers
from .tensors import FileTensors, Tensors, weight_files

ADAPTER_CONFIG = "adapter_config.json"
_STEM = "adapter_model"

_LINEAR = re.compile(r"(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight")
_EMBEDDING = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.[^.]+)?")
# Wrappers that peft puts into names: of a module saved whole, of a wrapped module's own weight.
_WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|original_module|base_layer)(?=\.)")
_PREFIX = "base_model.model."
# A LLaVA of transformers, whose names differ from those of the language model alone or of an original checkpoint.
_TRANSFORMERS = re.compile(
    r"(model\.)?(language_model|multi_modal_projector|vision_tower\.(encoder|embeddings|vision_model))\."
)


class Pair(NamedTuple):
    """The two factors by their names in the file, and whether they are an embedding's (then A is [r, rows], B [width, r])."""

    a: str
    b: str
    embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, by places: component and canonical name of the weight (see `layouts`).

    pairs   the low-rank factors of a weight
    whole   tensors that take the place of the base's (`modules_to_save`, biases)
    config  of `adapter_config.json`
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Tensors
    pairs: Mapping[Place, Pair]
    whole: Mapping[Place, str]

    @property
    def targets(self) -> tuple[str, ...]:
        """The last words of the adapted modules' names, each once, in order: `q_proj`, `v_proj`, ..."""
        return tuple(dict.fromkeys(_module(place).rpartition(".")[2] for place in self.pairs))

    @property
    def rank(self) -> int:
        """The largest rank of the pairs."""
        return max((self.rank_of(place) for place in self.pairs), default=0)

    def rank_of(self, place: Place) -> int:
        return self.tensors.shapes()[self.pairs[place].a][0]

    def scale(self, place: Place) -> float:
        """What the product of a weight's factors is multiplied with: alpha / r, or alpha / sqrt(r) for rank-stabilised ones."""
        alpha = _by_pattern(self.config.get("alpha_pattern"), _module(place), self.config.get("lora_alpha", 8))
        rank = self.rank_of(place)
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, place: Place) -> tuple[Tensor, Tensor]:
        """A [r, in] and B [out, r] of a weight, as stored."""
        pair = self.pairs[place]
        return self.tensors.read(pair.a), self.tensors.read(pair.b)

    def change(self, place: Place) -> Tensor:
        """What is added to a weight, in its own orientation, float32."""
        a, b = self.factors(place)
        change = self.scale(place) * (b.float() @ a.float())
        return change.T if self.pairs[place].embedding or self.config.get("fan_in_fan_out") else change

    def shape_of_change(self, place: Place) -> tuple[int, ...]:
        """The shape of the weight that a pair fits."""
        shapes, pair = self.tensors.shapes(), self.pairs[place]
        rows, columns = shapes[pair.b][0], shapes[pair.a][1]
        return (columns, rows) if pair.embedding or self.config.get("fan_in_fan_out") else (rows, columns)


class MergedTensors(Tensors):
    """A component's tensors with an adapter merged into them: the sum in float32, kept in the type of the base's weight."""

    def __init__(self, base: Tensors, adapter: Adapter, component: str):
        self.where = f"{base.where} with the adapter of {adapter.folder}"
        self.base, self._adapter, self._component = base, adapter, component
        whole = {place.name: name for place, name in adapter.whole.items() if place.component == component}
        self._whole = whole
        shapes = adapter.tensors.shapes()
        self._shapes = {**base.shapes(), **{name: shapes[stored] for name, stored in whole.items()}}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        return self.base.dtype(name) if name in self.base else self._adapter.tensors.dtype(self._whole[name])

    def read(self, name: str) -> Tensor:
        stored = self._whole.get(name)
        weight = self.base.read(name) if stored is None else self._adapter.tensors.read(stored)
        place = Place(self._component, name)
        if place not in self._adapter.pairs:
            return weight
        return (weight.float() + self._adapter.change(place)).to(weight.dtype)


def is_adapter(folder: Path) -> bool:
    """Whether an adapter lies in the folder."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter(folder: Path, place_of: Callable[[str], Place | None] | None = None) -> Adapter:
    """The adapter in a folder of peft: of a language model, of an original LLaVA, or of a LLaVA of transformers.

    `place_of`: whose names they are, where neither of these is meant.

    Raises `CheckpointError` for another method than LoRA, for files that are missing or damaged, and for tensors that are no
    pairs; everything that is wrong is told at once.
    """
    config = _read_config(folder)
    files = weight_files(folder, _STEM)
    if not files:
        raise CheckpointError(f"{folder}: found {ADAPTER_CONFIG}, but neither {_STEM}.safetensors nor {_STEM}.bin")
    tensors = FileTensors(files)
    halves: dict[Place, dict[str, str]] = {}
    embeddings: set[Place] = set()
    whole: dict[Place, str] = {}
    wrong: list[str] = []
    bare = {name: name.removeprefix(_PREFIX) for name in tensors.shapes()}
    if place_of is None:
        place_of = from_transformers if any(_TRANSFORMERS.match(name) for name in bare.values()) else from_original
    for name, short in bare.items():
        found = _LINEAR.fullmatch(short) or _EMBEDDING.fullmatch(short)
        place = place_of(f"{found[1]}.weight" if found else _WRAPPERS.sub("", short))
        if place is None or ".lora_" in place.name:
            wrong.append(f"tensor {name!r} is neither half of a low-rank pair nor a weight of a LLaVA model")
        elif found is None:
            whole[place] = name
        else:
            halves.setdefault(place, {})[found[2]] = name
            if ".lora_embedding_" in short:
                embeddings.add(place)
    pairs = {place: Pair(half["A"], half["B"], place in embeddings) for place, half in halves.items() if len(half) == 2}
    wrong += [f"tensor {next(iter(half.values()))!r} lacks its other half" for half in halves.values() if len(half) == 1]
    shapes = tensors.shapes()
    for pair in pairs.values():
        a, b = shapes[pair.a], shapes[pair.b]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            wrong.append(f"{pair.a!r} of shape {a} and {pair.b!r} of shape {b} are no low-rank pair")
    if not (pairs or whole or wrong):
        wrong.append("it holds no tensors")
    if wrong:
        raise CheckpointError(f"{folder}: the adapter cannot be used: {shorten(wrong)}")
    return Adapter(folder, config, tensors, pairs, whole)


def merged(bases: Mapping[str, Tensors], adapter: Adapter) -> dict[str, Tensors]:
    """The components' tensors (by canonical names) with the adapter merged into them.

    Raises `CheckpointError` naming every weight that the adapter is for and the base does not have, or has in another shape.
    """
    wrong = list(_misfits(bases, adapter))
    if wrong:
        raise CheckpointError(f"{adapter.folder}: the adapter does not fit its base: {shorten(sorted(wrong))}")
    return {component: MergedTensors(base, adapter, component) for component, base in bases.items()}


def adapted(foreign: Foreign, adapter: Adapter) -> Foreign:
    """A described checkpoint with the adapter merged into it.

    Raises `CheckpointError` when the adapter is for other weights.
    """
    newline = Place(NEWLINE, NEWLINE)
    return replace(
        foreign,
        layout=f"{foreign.layout}, a LoRA adapter merged",
        folder=adapter.folder,
        tensors=merged(foreign.tensors, adapter),
        newline=(adapter.tensors, adapter.whole[newline]) if newline in adapter.whole else foreign.newline,
        notes=(*foreign.notes, f"base: {foreign.folder}"),
    )


def need_base(adapter: Adapter, base: str | None) -> Path:
    """The folder of the model that the adapter was trained on.

    Raises `CheckpointError` when nobody named it, or it cannot be had.
    """
    if base is None:
        name = adapter.config.get("base_model_name_or_path")
        raise CheckpointError(
            f"{adapter.folder}: holds a LoRA adapter; the model that it was trained on must be given with the option `base`"
            + (f"; adapter_config.json names {name!r}" if name else "")
        )
    try:
        return fetch_checkpoint(base)
    except PluginError as error:
        raise CheckpointError(f"base: {error}") from error


def _misfits(bases: Mapping[str, Tensors], adapter: Adapter) -> Iterable[str]:
    known = {component: base.shapes() for component, base in bases.items()}
    for place in adapter.pairs:
        said = f"{place.component.replace('_', ' ')}: {place.name!r}"
        shape = known.get(place.component, {}).get(place.name)
        if place in adapter.whole:
            shape = adapter.tensors.shapes()[adapter.whole[place]]
        fits = adapter.shape_of_change(place)
        if shape is None:
            yield f"{said} is not in the base"
        elif tuple(shape) != fits:
            yield f"{said}: found a pair for shape {fits}, the base has {tuple(shape)}"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as an adapter's config ({first_line(error)})") from error
    wrong = []
    if kind != "LORA":
        wrong.append(f"peft_type: found {kind!r}, expected 'LORA'")
    for key in ("use_dora", "lora_bias", "use_qalora"):
        if config.get(key):
            wrong.append(f"{key}: found true; only plain and rank-stabilised LoRA can be merged")
    if wrong:
        raise CheckpointError(f"{path}: cannot be used: {'; '.join(wrong)}")
    return config


def _module(place: Place) -> str:
    return place.name.removesuffix(".weight")


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """peft's rule: a key holds for the modules whose name ends in it; it may be a regular expression."""
    return next((value for key, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)), default)
