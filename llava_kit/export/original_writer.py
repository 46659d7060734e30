"""A model as a folder of the original LLaVA repositories; and every reason why one cannot be written as such.

The tower lies in it twice: among the weights, as in checkpoints whose tower was trained, and as a folder of its own
(`vision_tower/`), because the originals build the tower from what `mm_vision_tower` names before they look at the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor, SiglipImageProcessor

from ..assemble.files import write_json
from ..assemble.parts import Assembly
from ..core.published import Published
from ..exchange.foreign import places_of
from ..exchange.layouts import NEWLINE, Place, to_original
from ..image.options import canvases_of
from ..model.side_by_side import SideBySideEncoder
from .shards import Piece, piece, write_shards
from .transformers_writer import (
    QUANTISED,
    TOWERS,
    chat_template,
    is_quantised,
    language_tensors,
    published_encoder,
    text_config,
    vision_config,
)

TOWER_FOLDER = "vision_tower"

_WHERE = (
    f"the originals look for the tower at mm_vision_tower ({TOWER_FOLDER!r}) from where they are started: start them inside "
    "the folder, or write its full path there"
)

# The originals delete the last layer of a SigLIP tower that they load and take what is then the last output, whatever the
# config says (siglip_encoder.py). So the folder has one layer more than is looked at, a copy of the one before.
_SIGLIP, _STAND_INS = "SiglipVisionModel", 1

# The language model's model_type -> the originals' model_type and class.
CLASSES = {
    "llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "mixtral": ("llava_mixtral", "LlavaMixtralForCausalLM"),
    "qwen2": ("llava_qwen", "LlavaQwenForCausalLM"),
    "qwen2_moe": ("llava_qwen_moe", "LlavaQwenMoeForCausalLM"),
}


def obstacles(assembly: Assembly) -> list[str]:
    """Every reason why the originals' classes cannot be this model; empty when they can."""
    return [*_encoder_obstacles(assembly), *_connector_obstacles(assembly), *_language_obstacles(assembly), *_tiling(assembly)]


def remarks(assembly: Assembly) -> list[str]:
    """What the reader of the folder must know."""
    found = [_WHERE]
    if published_encoder(assembly).architecture == _SIGLIP:
        found.append(
            "SigLIP: the originals take every local folder for CLIP; for their code mm_vision_tower must be the tower's name "
            "on the hub (their SigLIP class drops its last layer; the weights here take the place of the others). llava-kit "
            "reads the folder as it is"
        )
    if assembly.tiler.options.rule == "transformers":
        found.append("AnyRes: the originals' row counts differ from ours (`rule: transformers`) for a few sizes in a million")
    return found


def pieces_of(assembly: Assembly, dtype: torch.dtype) -> Iterator[Piece]:
    """Every tensor of the folder, by its name there."""
    model = assembly.model
    chain = model.connector.chain()
    assert chain is not None
    for component in ("encoder", "connector"):
        state = getattr(model, component).state_dict()
        for own, canonical in places_of(assembly, component).items():
            yield piece(to_original(Place(component, canonical), len(chain.maps)), state[own], dtype)
    if model.newline is not None:
        yield piece(to_original(Place(NEWLINE, NEWLINE), len(chain.maps)), model.newline, dtype)
    for canonical, tensor, _ in language_tensors(assembly):
        yield piece(to_original(Place("language_model", canonical), len(chain.maps)), tensor, dtype)


def write_files(assembly: Assembly, folder: Path, dtype: torch.dtype) -> None:
    """Everything but the weights: config, tokenizer, and the folder of the tower."""
    write_json(folder / "config.json", make_config(assembly, dtype))
    tokenizer = assembly.tokenizer
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    generation["pad_token_id"] = tokenizer.pad_token_id
    write_json(folder / "generation_config.json", {key: value for key, value in generation.items() if value is not None})
    tokenizer.save_pretrained(folder)
    # The originals choose the format by the folder's name; whoever else reads the folder can know it.
    template = chat_template(assembly)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_tower(assembly, folder / TOWER_FOLDER, dtype)


def make_config(assembly: Assembly, dtype: torch.dtype) -> dict[str, Any]:
    """config.json: the language model's, and what the originals add to it."""
    text, tower, chain = text_config(assembly), published_encoder(assembly), assembly.model.connector.chain()
    assert chain is not None
    model_type, architecture = CLASSES[text["model_type"]]
    linear = len(chain.maps) == 1
    added: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "mm_projector_type": "linear" if linear else f"mlp{len(chain.maps)}x_gelu",
        "mm_hidden_size": assembly.model.encoder.spec.width,
        "mm_vision_tower": TOWER_FOLDER,
        "mm_vision_select_layer": -1 - _stand_ins(tower),  # the tower is as short as it can be
        "mm_vision_select_feature": "cls_patch" if tower.keep_cls else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "square",
        "unfreeze_mm_vision_tower": True,  # that is: the weights hold the tower
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": assembly.model.language_model.context or 2048,
        "use_cache": True,
    }
    return {**_old_rope(text), **added, **_picture_keys(assembly)}


def _picture_keys(assembly: Assembly) -> dict[str, Any]:
    """How pictures are cut, in the originals' words."""
    options, side = assembly.tiler.options, assembly.tiler.spec.image_size
    keys: dict[str, Any] = {}
    if options.mode == "pad":
        keys["image_aspect_ratio"] = "pad"
    if options.mode == "anyres":
        keys["image_aspect_ratio"] = "anyres" if options.max_tiles is None else f"anyres_max_{options.max_tiles}"
        keys["mm_patch_merge_type"] = options.merge
        canvases = canvases_of(options.pinpoints, side)
        # (width, height); with `rule: transformers` our own list is read the other way round.
        keys["image_grid_pinpoints"] = [[b, a] if options.rule == "transformers" else [a, b] for a, b in canvases]
        keys["image_crop_resolution"] = keys["image_split_resolution"] = side
    if options.video is not None:
        keys |= {"mm_spatial_pool_mode": options.video.pool, "mm_spatial_pool_stride": 2}
        keys |= {"mm_newline_position": options.video.newline, "add_time_instruction": options.video.time_instruction}
        keys["frames_upbound"] = options.video.frames
    return keys


def _old_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of transformers 5 as `rope_theta` and `rope_scaling`, which the originals' transformers 4 reads."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return config
    rest = {key: value for key, value in rope.items() if key != "rope_theta"}
    kind = rest.get("rope_type", "default")
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    old["rope_theta"] = rope["rope_theta"]
    return old if kind == "default" else {**old, "rope_scaling": {**rest, "type": kind}}


def _write_tower(assembly: Assembly, folder: Path, dtype: torch.dtype) -> None:
    """The tower alone, as transformers' CLIP or SigLIP class reads it."""
    folder.mkdir()
    tower, side = published_encoder(assembly), assembly.tiler.spec.image_size
    config = {**vision_config(tower), "architectures": [tower.architecture]}
    depth = config["num_hidden_layers"]
    config["num_hidden_layers"] = depth + _stand_ins(tower)
    write_json(folder / "config.json", {**config, "torch_dtype": str(dtype).removeprefix("torch.")})
    colours: dict[str, Any] = {"image_mean": list(assembly.tiler.spec.mean), "image_std": list(assembly.tiler.spec.std)}
    if tower.architecture == _SIGLIP:
        processor: Any = SiglipImageProcessor(size={"height": side, "width": side}, **colours)
    else:
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **colours)
    processor.save_pretrained(folder)
    state = assembly.model.encoder.state_dict()
    pieces = [piece(f"vision_model.{name}", state[own], dtype) for own, name in places_of(assembly, "encoder").items()]
    if _stand_ins(tower):
        last, new = f"vision_model.encoder.layers.{depth - 1}.", f"vision_model.encoder.layers.{depth}."
        pieces += [replace(each, name=each.name.replace(last, new)) for each in pieces if each.name.startswith(last)]
    if not any(each.name.startswith("vision_model.post_layernorm") for each in pieces):
        # The norm behind the features, which nobody looks at: without it transformers warns that it was made up.
        width = tower.config["hidden_size"]
        pieces.append(piece("vision_model.post_layernorm.weight", torch.ones(width), dtype))
        pieces.append(piece("vision_model.post_layernorm.bias", torch.zeros(width), dtype))
    write_shards(folder, pieces, max_bytes=1 << 62)


def _stand_ins(tower: Published) -> int:
    return _STAND_INS if tower.architecture == _SIGLIP else 0


def _encoder_obstacles(assembly: Assembly) -> list[str]:
    encoder = assembly.model.encoder
    if isinstance(encoder, SideBySideEncoder):
        return ["encoder: several side by side; the originals have one tower"]
    tower = encoder.published()
    if tower is None:
        return [f"encoder: transformers has no tower that {type(encoder).__name__} could be written as, set up as it is"]
    found = []
    if tower.architecture not in TOWERS:
        found.append(f"encoder: it is a {tower.architecture}; the originals know {' and '.join(TOWERS)}")
    if tower.normed:
        found.append("encoder: its features have been through the final norm (feature_layer: last), LLaVA's have not")
    if len(tower.layers) != 1 or tower.layers == (0,):
        found.append(f"encoder: its features are those of the layers {list(tower.layers)}; the originals take one")
    return found


def _connector_obstacles(assembly: Assembly) -> list[str]:
    chain = assembly.model.connector.chain()
    if chain is None:
        return [f"connector: {type(assembly.model.connector).__name__} is no MLP; the originals have linear and mlpNx_gelu"]
    found = []
    if len(chain.maps) > 1 and chain.activation != "gelu":
        found.append(f"connector: activation {chain.activation!r}; the originals have gelu alone")
    if any(linear.bias is None for linear in chain.maps):
        found.append("connector: a map without a bias; the originals' have one each")
    if any(linear.out_features != assembly.model.language_model.width for linear in chain.maps):
        found.append("connector: its middle is not as wide as the language model")
    if assembly.side != assembly.model.encoder.spec.grid:
        found.append("connector: it changes the number of visual rows")
    return found


def _language_obstacles(assembly: Assembly) -> list[str]:
    part = assembly.model.language_model
    published = part.published()
    if published is None:
        return [f"language model: transformers has no causal LM that {type(part).__name__} could be written as"]
    kind = published.config["model_type"]
    if kind not in CLASSES:
        return [f"language model: the originals have no class for {kind}; they have {', '.join(CLASSES)}"]
    if is_quantised(part):
        return [QUANTISED]
    if kind == "qwen2" and _old_rope(dict(published.config)).get("rope_scaling"):
        return ["language model: its rotary frequencies are scaled, which the originals' class for Qwen switches off"]
    return []


def _tiling(assembly: Assembly) -> list[str]:
    options, encoder = assembly.tiler.options, assembly.model.encoder
    published = encoder.published()
    siglip = published is not None and published.architecture == _SIGLIP
    if options.mode == "resize" and not siglip:
        return ["tiling: mode resize; the originals squash pictures for SigLIP towers alone"]
    if options.mode == "square" and siglip:
        return ["tiling: mode square; the originals squash pictures for SigLIP towers, they do not crop them"]
    return []
