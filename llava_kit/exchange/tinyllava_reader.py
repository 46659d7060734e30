"""Folders of TinyLLaVA_Factory, described: `model_type: tinyllava`, and LoRA folders with its parts beside the adapter.

Its config holds the configs of both parts whole, so nothing has to be looked up elsewhere. Facts: TinyLLaVA/TinyLLaVA_Factory,
tinyllava/model and tinyllava/data/template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint import CONFIG_FILE, read_json
from ..errors import CheckpointError
from .adapter import is_adapter, read_adapter
from .foreign import Foreign, LoadOptions
from .layouts import Place
from .original_config import OriginalConfig, connector_part, text_config, unknown_connector
from .original_parts import Parts, described, gather, has_tokenizer
from .tensors import FileTensors, JoinedTensors, RenamedTensors, Tensors, weight_files

MODEL_TYPE = "tinyllava"

# Its formats end an answer with the tokenizer's own mark and are v1 otherwise (llama_template.py and its siblings).
_TEMPLATE = "v1"
# The parts of a LoRA folder: the weights that were not adapted, each in a folder of its own (load_model.py).
_PARTS = {"language_model": "language_model.", "vision_tower": "vision_tower._vision_tower.", "connector": "connector."}


def is_tinyllava(config: Mapping[str, Any]) -> bool:
    """Whether a config is one of TinyLLaVA_Factory."""
    return config.get("model_type") == MODEL_TYPE


def read(folder: Path, config: Mapping[str, Any], options: LoadOptions) -> Foreign:
    """The folder's parts and where their tensors lie.

    Raises `CheckpointError` for configs and files that are missing, damaged, or cannot be honoured.
    """
    said = _read_config(config, str(folder / CONFIG_FILE))
    assert said.text is not None
    adapter = read_adapter(folder, place_of) if is_adapter(folder) else None
    stored = _stored(folder, adapted=adapter is not None)
    tokenizer = folder if has_tokenizer(folder) else Path(_tokenizer(folder, config))
    layout = "a folder of TinyLLaVA_Factory" + (", its LoRA adapter merged" if adapter is not None else "")
    parts = Parts(layout, gather(stored, place_of), said.text, tokenizer, template=_template(tokenizer), adapter=adapter)
    return described(folder, said, parts, options)


def place_of(name: str) -> Place | None:
    """Where a tensor of TinyLLaVA_Factory belongs; None for a name of another kind."""
    name = name.removeprefix("base_model.model.")
    if name.startswith("language_model."):
        return Place("language_model", name.removeprefix("language_model."))
    if name.startswith("vision_tower._vision_tower."):
        return Place("encoder", name.removeprefix("vision_tower._vision_tower.").removeprefix("vision_model."))
    found = re.fullmatch(r"connector\._connector\.(?:(\d+)\.)?(weight|bias)", name)
    return Place("connector", f"{int(found[1] or 0) // 2}.{found[2]}") if found else None


def _read_config(config: Mapping[str, Any], where: str) -> OriginalConfig:
    wrong = []
    projector = config.get("connector_type") or "linear"
    connector = connector_part(str(projector))
    if connector is None:
        wrong.append(unknown_connector("connector_type", projector))
    feature = config.get("vision_feature_select_strategy", "patch")
    if feature not in ("patch", "cls_patch"):
        wrong.append(f"vision_feature_select_strategy: found {feature!r}, expected patch or cls_patch")
    aspect = config.get("image_aspect_ratio") or "square"
    if aspect not in ("square", "pad"):
        wrong.append(f"image_aspect_ratio: found {aspect!r}, expected square or pad")
    text, vision = config.get("text_config"), config.get("vision_config")
    for key, value in (("text_config", text), ("vision_config", vision)):
        if not isinstance(value, Mapping) or "model_type" not in value:
            wrong.append(f"{key}: found no config with a model_type")
    layer = config.get("vision_feature_layer", -2)
    if isinstance(layer, bool) or not isinstance(layer, int):
        wrong.append(f"vision_feature_layer: found {layer!r}, expected a whole number such as -2")
    tower = str(config.get("vision_model_name_or_path") or "")
    if tower.startswith("mof:"):
        wrong.append(f"vision_model_name_or_path: found {tower!r}; a mixture of two towers cannot be read")
    if wrong or not isinstance(text, Mapping):
        raise CheckpointError(f"{where}: cannot be honoured: " + "; ".join(wrong))
    return OriginalConfig(
        text=text_config(text, where),
        connector=connector,
        tower=tower.partition(":")[2] or tower or None,
        tower_config=vision,
        layer=layer,
        feature=feature,
        first_is_dropped=feature == "patch",
        aspect=aspect,
        merge="flat",
        pinpoints=None,
        marks=False,
    )


def _stored(folder: Path, *, adapted: bool) -> Tensors:
    files = weight_files(folder)
    if files:
        return FileTensors(files)
    found, lost = [], []
    for part, prefix in _PARTS.items():
        files = weight_files(folder / part)
        if files:
            tensors = FileTensors(files)
            names = {prefix + name.replace(".base_layer", ""): name for name in tensors.shapes() if ".lora_" not in name}
            found.append(RenamedTensors(tensors, names))
        else:
            lost.append(f"{part}/pytorch_model.bin")
    if lost:
        expected = "" if adapted else ", or model.safetensors for the whole"
        raise CheckpointError(f"{folder}: found no weights in {', '.join(lost)}; expected them there{expected}")
    return JoinedTensors(found)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_name_or_path") or config.get("llm_model_name_or_path")
    if not name:
        raise CheckpointError(f"{folder}: found no tokenizer, and its config names none (tokenizer_name_or_path)")
    return str(name)


def _template(tokenizer: Path) -> dict[str, Any]:
    """v1 with the tokenizer's own end of answers."""
    file = tokenizer / "tokenizer_config.json"
    mark = read_json(file).get("eos_token") if file.is_file() else None
    text = mark.get("content") if isinstance(mark, Mapping) else mark
    return {"type": _TEMPLATE, **({"end_of_answer": text} if text and text != "</s>" else {})}
