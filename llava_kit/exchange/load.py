"""Any model by its folder: ours, transformers', the original repositories'. What it is follows from what lies in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..assemble.parts import Assembly
from ..assemble.weights import holds_own_model
from ..assemble.weights import load_model as load_own_model
from ..core.checkpoint import CONFIG_FILE, read_json
from ..errors import CheckpointError, LlavaKitError
from . import original_reader, transformers_reader
from .adapter import adapted, is_adapter, need_base, read_adapter
from .foreign import Foreign, LoadOptions, build
from .package_reader import is_package, load_package
from .quantise import Quantiser


def load_model(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    base: str | None = None,
    encoder: str | None = None,
    template: str | None = None,
    dtype: str | None = None,
    quantise: str | None = None,
) -> Assembly:
    """The model in a folder: a run, stage or model folder of ours, or a package that was exported; a LLaVA or LLaVA-NeXT
    folder of transformers; a folder of the original repositories (whole, connector alone, LoRA, or delta weights, the last
    three with `base`).

    `base`, `encoder`, `template` and `dtype` are those of `LoadOptions`. Weights are read with one copy in memory. `quantise`:
    "4bit" or "8bit" for the language model's weights, where bitsandbytes is installed (the extra `quant`).

    Raises `CheckpointError` naming the file or the tensor when something is missing, damaged, or of another shape.
    """
    options = LoadOptions(base, encoder, template, dtype)
    quantiser = None if quantise is None else Quantiser(quantise)
    foreign = describe(Path(source).expanduser(), options)
    if foreign is not None:
        return build(foreign, device=device, quantiser=quantiser)
    given = [name for name in ("base", "encoder", "template") if getattr(options, name) is not None]
    if given:
        raise LlavaKitError(f"{source}: a model of llava_kit says itself what it is made of; leave out {', '.join(given)}")
    load = load_package if is_package(Path(source).expanduser()) else load_own_model
    if quantiser is None:
        return load(Path(source).expanduser(), device=device, dtype=dtype)
    assembly = load(Path(source).expanduser(), dtype=dtype)
    quantiser.convert(assembly.model.language_model, torch.device(device or "cpu"))
    assembly.model.to(device)
    return assembly


def describe(folder: Path, options: LoadOptions) -> Foreign | None:
    """What lies in the folder; None for a folder of ours.

    Raises `CheckpointError` for a folder in which no model of a known kind lies.
    """
    if not folder.is_dir() or holds_own_model(folder) or is_package(folder):
        return None  # a missing folder is told by the reader of our own, which knows all that it may be
    config = read_config(folder)
    if original_reader.is_original(folder, config):
        return original_reader.read(folder, config, options)
    if is_adapter(folder):
        adapter = read_adapter(folder)
        foreign = describe(need_base(adapter, options.base), replace(options, base=None))
        if foreign is None:
            raise CheckpointError(f"base {options.base}: expected the LLaVA folder of another program that {folder} adapts")
        return adapted(foreign, adapter)
    model_type = config.get("model_type")
    if model_type in transformers_reader.MODEL_TYPES:
        return transformers_reader.read(folder, config, options)
    if not config:
        if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
            raise CheckpointError(f"{folder}: found weights and no {CONFIG_FILE}; expected the config that belongs to them")
        return None
    known = ", ".join(transformers_reader.MODEL_TYPES)
    raise CheckpointError(
        f"{folder / CONFIG_FILE}: found model_type {model_type!r}; expected a LLaVA model: {known} of transformers, or a "
        "config of the original repositories (keys such as mm_projector_type); a language model alone is named in a recipe: "
        "`language_model: {type: causal_lm, checkpoint: ...}`"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; empty when it has none."""
    path = folder / CONFIG_FILE
    return read_json(path) if path.is_file() else {}
