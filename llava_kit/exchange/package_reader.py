"""Packages of ours, which `export/package.py` writes: folders that say how to build their parts, and hold all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..assemble.parts import Assembly, assemble, build_part, make_tiler
from ..assemble.weights import misfits
from ..core.checkpoint import read_json
from ..core.connector import Connector
from ..core.encoder import Encoder
from ..core.tiles import Grid
from ..errors import CheckpointError, shorten
from ..image.tiling import Tiler
from ..model.side_by_side import SideBySideEncoder
from ..recipe.schema import COMPONENTS, Model, Part
from .tensors import FileTensors, weight_files

DESCRIPTION = "llava_kit.json"
FORMAT = 1
# Stands for the package's own folder in the description.
HERE = "{folder}"


def is_package(folder: Path) -> bool:
    return (folder / DESCRIPTION).is_file()


def load_package(folder: str | Path, *, device: str | torch.device | None = None, dtype: str | None = None) -> Assembly:
    """The model in a package. Raises `CheckpointError` naming what is missing, damaged, or of another shape."""
    folder = Path(folder)
    block = _read_block(folder)
    if dtype is not None:
        block = with_type(block, dtype)
    assembly = assemble(block, weights=False, seed=0)
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: found no weights; expected model.safetensors, or its shards with their index")
    stored = FileTensors(files)
    names = language_names(assembly)
    for component in COMPONENTS:
        state = getattr(assembly.model, component).state_dict()
        places = {own: f"{component}.{names.get(own, own) if component == 'language_model' else own}" for own in state}
        _fill(folder, state, places, stored)
    if assembly.model.newline is not None:
        _fill(folder, {"newline": assembly.model.newline.data}, {"newline": "newline"}, stored)
    if device is not None:
        assembly.model.to(device)
    assembly.model.eval()
    return assembly


class Vision(NamedTuple):
    """The half of a package that sees, without weights."""

    encoder: Encoder
    connector: Connector
    tiler: Tiler
    side: Grid


def build_vision(folder: str | Path, text_width: int) -> Vision:
    """Encoder and connector of a package, freshly initialised, for a program that brings its own language model."""
    block = _read_block(Path(folder))
    parts = [build_part("encoder", part, weights=False) for part in encoder_parts(block)]
    encoder = parts[0] if len(parts) == 1 else SideBySideEncoder(parts)
    neighbours: dict[str, Any] = {"vision_width": encoder.spec.width, "text_width": text_width, "grid": encoder.spec.grid}
    connector = build_part("connector", block.connector, **neighbours)
    return Vision(encoder, connector, make_tiler(encoder, block.tiling), connector.output_grid(encoder.spec.grid))


def _read_block(folder: Path) -> Model:
    found = read_json(folder / DESCRIPTION)
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: found format {found.get('format')!r}, expected {FORMAT}; update llava_kit"
        )
    return Model.model_validate(_resolved(found["model"], str(folder.absolute())))


def _fill(folder: Path, state: Mapping[str, Tensor], places: Mapping[str, str], stored: FileTensors) -> None:
    wanted = {places[own]: tensor for own, tensor in state.items()}
    there = {name: torch.empty(stored.shapes()[name], device="meta") for name in wanted if name in stored}
    wrong = misfits(there, wanted)
    if wrong:
        raise CheckpointError(f"{folder}: the weights do not fit {DESCRIPTION}: {shorten(wrong)}")
    with torch.no_grad():
        for own, tensor in state.items():
            tensor.copy_(stored.read(places[own]))


def language_names(assembly: Assembly) -> Mapping[str, str]:
    published = assembly.model.language_model.published()
    return {} if published is None else published.names


def encoder_parts(block: Model) -> tuple[Part, ...]:
    return block.encoder if isinstance(block.encoder, tuple) else (block.encoder,)


def with_type(block: Model, dtype: str) -> Model:
    """The block with `dtype` for every part whose options have one already."""

    def change(part: Part) -> Part:
        # Parts without the option (the quick start's) are float32; what they are given is brought to that.
        has = "dtype" in part.options or "config" in part.options
        return Part.model_validate({"type": part.type, **part.options, "dtype": dtype}) if has else part

    encoder = tuple(map(change, block.encoder)) if isinstance(block.encoder, tuple) else change(block.encoder)
    return block.model_copy(update={"encoder": encoder, "language_model": change(block.language_model)})


def _resolved(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, folder) for key, item in value.items()}
    return folder if value == HERE else value
