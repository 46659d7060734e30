"""Tiny folders of the original repositories' kinds, made of transformers' models by renaming their tensors.

The renaming is written out here once more, apart from the reader's own, so that a mistake in one of them shows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from folders import PINPOINTS, make_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, SiglipVisionModel

CLASSES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM", "qwen2": "LlavaQwenForCausalLM"}
CLASSES["mixtral"] = "LlavaMixtralForCausalLM"
MODEL_TYPES = {"llama": "llava_llama", "mistral": "llava_mistral", "qwen2": "llava_qwen", "mixtral": "llava_mixtral"}
ANYRES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": PINPOINTS, "mm_patch_merge_type": "spatial_unpad"}


def linear_projector(model: Any) -> None:
    """The model with v1's connector, one linear map, in place of its own."""
    config = model.config
    linear = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
    model.model.multi_modal_projector = linear


def original_tensors(model: Any, *, tower: bool = True) -> dict[str, Tensor]:
    """The model's tensors by the original's names; `tower`: with the vision tower's."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.vision_tower."):
            if tower:
                rest = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
                tensors[f"model.vision_tower.vision_tower.vision_model.{rest}"] = tensor
            continue
        name = name.replace("model.language_model.", "model.")
        name = name.replace("model.multi_modal_projector.linear_1.", "model.mm_projector.0.")
        name = name.replace("model.multi_modal_projector.linear_2.", "model.mm_projector.2.")
        name = name.replace("model.multi_modal_projector.", "model.mm_projector.")
        tensors[name] = tensor
    return tensors


def original_config(model: Any, tower: str | None, **keys: Any) -> dict[str, Any]:
    """The language model's config with the original's keys beside it."""
    text = json.loads(model.config.text_config.to_json_string(use_diff=False))
    kind = text["model_type"]
    config = {**text, "model_type": MODEL_TYPES[kind], "architectures": [CLASSES[kind]]}
    config |= {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": model.config.vision_config.hidden_size}
    config |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_vision_tower": tower}
    config |= {"mm_use_im_start_end": False, "mm_use_im_patch_token": False, "use_mm_proj": True, "tune_mm_mlp_adapter": False}
    return {key: value for key, value in {**config, **keys}.items() if value is not None}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_tower(folder: Path, model: Any) -> Path:
    """The model's vision tower as a folder of transformers."""
    config = model.config.vision_config
    siglip = config.model_type == "siglip_vision_model"
    tower: Any = (SiglipVisionModel if siglip else CLIPVisionModel)(config)
    found = {name.removeprefix("vision_model."): value for name, value in model.model.vision_tower.state_dict().items()}
    tower.load_state_dict(found, strict=True)
    tower.save_pretrained(folder)
    return folder


def write_weights(folder: Path, tensors: dict[str, Tensor], *, pickled: bool = False, shards: int = 1) -> None:
    """Weights in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    names = list(tensors)
    files = {}
    for number in range(shards):
        file = f"{stem}{suffix}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}{suffix}"
        part = {name: tensors[name].clone().contiguous() for name in names[number::shards]}
        files |= dict.fromkeys(part, file)
        if pickled:
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        write_json(folder / f"{stem}{suffix}.index.json", {"metadata": {}, "weight_map": files})


def write_whole(folder: Path, model: Any, tower: Path | str | None, *, inside: bool = False, **keys: Any) -> Path:
    """A whole checkpoint. `tower`: what `mm_vision_tower` says; `inside`: its weights lie in the checkpoint, too.

    `pickled` and `shards` say how weights are written; other `keys` go to the config.
    """
    how = {name: keys.pop(name) for name in ("pickled", "shards") if name in keys}
    write_weights(folder, original_tensors(model, tower=inside), **how)
    write_json(folder / "config.json", original_config(model, None if tower is None else str(tower), **keys))
    make_tokenizer().save_pretrained(folder)
    return folder


def write_language_model(folder: Path, model: Any) -> Path:
    """The language model alone, as transformers writes it: a base."""
    tensors = {name: tensor for name, tensor in original_tensors(model, tower=False).items() if _of_language_model(name)}
    write_weights(folder, tensors)
    text = json.loads(model.config.text_config.to_json_string(use_diff=False))
    write_json(folder / "config.json", text)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_connector(folder: Path, model: Any, tower: Path | str | None, **keys: Any) -> Path:
    """What LLaVA's first stage saves: the connector and the config."""
    folder.mkdir(parents=True, exist_ok=True)
    projector = {name: tensor for name, tensor in original_tensors(model, tower=False).items() if "mm_projector" in name}
    torch.save(projector, folder / "mm_projector.bin")
    config = original_config(model, None if tower is None else str(tower), tune_mm_mlp_adapter=True, **keys)
    write_json(folder / "config.json", config)
    return folder


def write_trained(folder: Path, model: Any) -> None:
    """`non_lora_trainables.bin`: the connector (and the newline row) under the wrapper's names."""
    folder.mkdir(parents=True, exist_ok=True)
    found = original_tensors(model, tower=False)
    kept = {f"base_model.model.{name}": tensor for name, tensor in found.items() if not _of_language_model(name)}
    torch.save(kept, folder / "non_lora_trainables.bin")


def _of_language_model(name: str) -> bool:
    return not re.search(r"mm_projector|image_newline|vision_tower", name)
