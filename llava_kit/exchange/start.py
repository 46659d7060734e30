"""A stage of training that starts from another program's checkpoint: its weights for a model that a recipe has built."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..assemble.parts import Assembly
from ..core.checkpoint import CONFIG_FILE
from ..errors import CheckpointError, shorten
from ..recipe.schema import COMPONENTS
from . import original_reader, transformers_reader
from .adapter import is_adapter
from .foreign import assign, misfits, places_of
from .layouts import NEWLINE
from .load import read_config
from .tensors import PICKLES, SAFETENSORS, FileTensors, RenamedTensors, Tensors, weight_files

# How much of each end of a weight file is read to know it again: the header of safetensors, and some of the weights.
_ENDS = 1 << 20


def stored_components(folder: Path) -> dict[str, Tensors]:
    """The components of which the folder holds weights, by canonical names; `newline` where it has one.

    A LLaVA folder of transformers, a whole checkpoint of the original repositories, or a connector alone (`mm_projector.bin`,
    the file itself or its folder).

    Raises `CheckpointError` when it is none of these.
    """
    config = {} if folder.is_file() else read_config(folder)
    if not original_reader.is_original(folder, config) and config.get("model_type") in transformers_reader.MODEL_TYPES:
        found, newline = transformers_reader.open_tensors(folder)
        return found if newline is None else {**found, NEWLINE: RenamedTensors(newline[0], {NEWLINE: newline[1]})}
    if is_adapter(folder):
        raise CheckpointError(f"{folder}: holds a LoRA adapter; write it out merged first: `llava-kit export {folder} ...`")
    files = [folder] if folder.is_file() else weight_files(folder) or weight_files(folder, original_reader.CONNECTOR_STEM)
    gathered = original_reader.gather(FileTensors(files)) if files else {}
    found = {name: tensors for name, tensors in gathered.items() if tensors.shapes()}
    if "connector" not in found:
        raise CheckpointError(
            f"{folder}: found no connector of LLaVA in it; expected a LLaVA folder of transformers or of the original "
            "repositories, a connector alone (mm_projector.bin), or a run, stage or model folder of llava_kit"
        )
    return found


def fill(assembly: Assembly, stored: Mapping[str, Tensors], folder: Path) -> None:
    """Fill the components of a built model that `stored` holds; each tensor takes the type of the one it replaces.

    Raises `CheckpointError` naming every tensor that is missing, has no place, or is of another shape.
    """
    model = assembly.model
    places = {name: places_of(assembly, name) for name in COMPONENTS if name in stored}
    wrong = [problem for name in places for problem in misfits(stored[name], name, places[name], model)]
    if model.newline is not None and NEWLINE not in stored and len(places) == len(COMPONENTS):
        wrong.append("missing tensor 'image_newline': the recipe's tiling has newlines and the checkpoint was made without")
    if wrong:
        raise CheckpointError(f"{folder}: does not fit the recipe's model: {shorten(sorted(wrong))}")
    for name, component_places in places.items():
        part = getattr(model, name)
        types = {own: tensor.dtype for own, tensor in part.state_dict().items()}
        for own, canonical in component_places.items():
            assign(part, own, stored[name].read(canonical).to(types[own]))
    if model.newline is not None and NEWLINE in stored:
        value = stored[NEWLINE].read(NEWLINE).reshape(-1)
        model.newline = nn.Parameter(value.to(model.newline.dtype))


def fingerprint(folder: Path) -> str:
    """A short text that changes when the folder's weights do: names, sizes, and both ends of each file."""
    digest = hashlib.sha256()
    kinds = (*SAFETENSORS, *PICKLES)
    inside = [folder] if folder.is_file() else folder.iterdir()
    for file in sorted(path for path in inside if path.suffix in kinds or path.name == CONFIG_FILE):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_ENDS))
            stream.seek(max(0, size - _ENDS))
            digest.update(stream.read(_ENDS))
    return digest.hexdigest()
