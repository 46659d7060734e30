"""What a config of the original repositories says, in our words; all that cannot be honoured is told at once.

One JSON file holds the language model's config and, beside it, keys that begin with `mm_` or speak of pictures. A key that is
absent means what the original's code does without it, which is LLaVA v1: one linear map, the last layer, pictures cropped to
their centre. (The released configs of 1.5 say `image_aspect_ratio: pad`, those of 1.6 `anyres`.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import CONFIG_MAPPING

from ..core.checkpoint import clean_config
from ..errors import CheckpointError, first_line, nearest, suggest
from ..image.options import PINPOINTS_MEANT, wrong_pinpoints
from ..recipe.schema import Part, Tiling, Video

# The original's `model_type` without `llava_` (or TinyLLaVA's `tiny_llava_`) -> transformers'. Others are the same word.
_LANGUAGE_MODELS = {"qwen": "qwen2", "qwen_moe": "qwen2_moe", "llama": "llama"}
# `llava` alone is the first releases' word; which language model it was stands in the class.
_CLASS = re.compile(r"(?:Tiny)?Llava(\w+?)(?:Model|ForCausalLM)")
# Frequencies of rotary positions as configs before transformers 5 wrote them; its classes still read them.
_ROTARY_KEYS = {"rope_theta", "rope_scaling", "partial_rotary_factor", "rope_pct"}
# What makes two configs one architecture.
_SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_SHAPE_KEYS += ("d_model", "n_heads", "n_layers", "expansion_ratio", "num_local_experts")

_PROJECTORS = ("linear", "identity", "mlp2x_gelu")
_MLP = re.compile(r"mlp(\d+)x_gelu")
_ASPECTS = ("square", "pad", "anyres", "anyres_max_9")
# Several layers side by side (NeXT, clip_encoder.py): `slicefour`: every quarter of the depth; the other: these five.
_FIVE_LAYERS = (-2, -5, -8, -11, 6)


@dataclass(frozen=True)
class OriginalConfig:
    """A config, read.

    text       the language model's own config as transformers writes it; None where the file holds none
    connector  None where the file says nothing of a connector: its tensors tell
    tower      the encoder's hub name or folder, as the checkpoint's author wrote it
    tower_config  the tower's own config, where the file holds it
    layer      which of the tower's outputs, counted as `hidden_states` are
    feature    what of it: `patch`, `cls_patch`, `slicefour_patch`, ...
    marks      `<im_start>` and `<im_end>` stand around each picture
    video      how clips are looked at, where the config speaks of it
    is_silent  the config says nothing about how pictures are cut
    first_is_dropped  the first row is taken for a class token, also where there is none (TinyLLaVA on SigLIP)
    """

    text: dict[str, Any] | None
    connector: Part | None
    tower: str | None
    layer: int
    feature: str
    aspect: str
    merge: str
    pinpoints: Any
    marks: bool
    video: Mapping[str, Any] = field(default_factory=dict)
    tower_config: Mapping[str, Any] | None = None
    is_silent: bool = False
    first_is_dropped: bool = False

    def layers(self, depth: int) -> int | tuple[int, ...]:
        """The layers that are taken from a tower of `depth` layers."""
        if self.feature.startswith("slicefour"):
            quarter = (depth + 1) // 4
            return tuple(range(quarter + self.layer, depth + 1, quarter))
        return _FIVE_LAYERS if self.feature.startswith("slice_m25811_f6") else self.layer

    @property
    def keep_cls(self) -> bool:
        return self.feature.endswith("cls_patch")

    def tiling(self, *, squashed: bool, newline: bool) -> Tiling:
        """How pictures are cut. `squashed`: the tower's own processor squashes (SigLIP) where CLIP's crops the centre.

        `newline`: the checkpoint has a newline row, without which a clip's lines cannot be ended.
        """
        whole: Any = "resize" if squashed else "square"
        video = Video(frame=whole, **{"newline": "one_token" if newline else "no_token", **self.video}) if self.video else None
        if not self.aspect.startswith("anyres"):
            return Tiling(mode="pad" if self.aspect == "pad" else whole, video=video)
        limit = re.fullmatch(r"anyres_max_(\d+)", self.aspect)
        return Tiling(
            mode="anyres",
            pinpoints=self.pinpoints,
            merge=self.merge,  # type: ignore[arg-type]
            max_tiles=int(limit[1]) if limit and self.merge == "spatial_unpad" else None,
            # LLaVA-NeXT's later code, which brought the limit, pads each picture of a sample that has several.
            several="pad" if limit else "same",
            video=video,
        )


def read_original_config(config: Mapping[str, Any], where: str) -> OriginalConfig:
    """The config read; `where` is for messages.

    Raises `CheckpointError` with everything in it that is unknown or cannot be honoured.
    """
    wrong: list[str] = []
    connector = _connector(config, wrong)
    aspect, merge, pinpoints = _pictures(config, wrong)
    feature = str(config.get("mm_vision_select_feature") or "patch")
    if not re.fullmatch(r"(slicefour_|slice_m25811_f6_)?(cls_)?patch", feature):
        known = ("patch", "cls_patch")
        wrong.append(f"mm_vision_select_feature: found {feature!r}, expected patch or cls_patch; {suggest(feature, known)}")
    layer = config.get("mm_vision_select_layer", -1)
    if isinstance(layer, bool) or not isinstance(layer, int):
        wrong.append(f"mm_vision_select_layer: found {layer!r}, expected a whole number such as -2")
    resampler = config.get("mm_resampler_type")
    if resampler not in (None, "spatial_pool"):  # the latter has no weights, and pools clips only
        wrong.append(f"mm_resampler_type: found {resampler!r}; no resampler of the original can be read")
    tower: Any = config.get("mm_vision_tower", config.get("vision_tower"))
    if tower is not None and not isinstance(tower, str):
        wrong.append(f"mm_vision_tower: found {tower!r}, expected one folder or hub name")
    if config.get("s2"):
        wrong.append("s2: found true; a tower that looks at several scales cannot be read")
    if wrong:
        raise CheckpointError(f"{where}: cannot be honoured: " + "; ".join(wrong))
    return OriginalConfig(
        text=text_config(config, where) if "model_type" in config else None,
        connector=connector,
        tower=tower,
        layer=layer,
        feature=feature,
        aspect=aspect,
        merge=merge,
        pinpoints=pinpoints,
        marks=bool(config.get("mm_use_im_start_end")),
        video=_video(config),
        is_silent=not config.get("image_aspect_ratio"),
    )


def text_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The language model's own config, defaults included: `config` without what is not the language model's.

    Raises `CheckpointError` for a language model that transformers does not have, or a config that it refuses.
    """
    model_type = language_model_type(config)
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{where}: model_type: found {config.get('model_type')!r}; expected llava_ and a language model of transformers, "
            f"such as llava_llama, llava_mistral, llava_qwen; {suggest(model_type, CONFIG_MAPPING)}"
        )
    config_class: Any = CONFIG_MAPPING[model_type]
    known = {*config_class().to_dict(), *config_class.attribute_map, *_ROTARY_KEYS} - {"rope_parameters"}
    known |= {"rope_parameters"} & config.keys()
    values = {key: value for key, value in clean_config(config, where).items() if key in known and key != "model_type"}
    if str(config.get("model_type")) == "llava_qwen":
        values.pop("rope_scaling", None)  # the original's class sets it to None (llava_qwen.py)
    try:
        made = config_class.from_dict(values)
        plain = json.loads(made.to_json_string(use_diff=False))
    except Exception as error:
        raise CheckpointError(f"{where}: the language model's config cannot be used: {first_line(error)}") from error
    return {**clean_config(plain, where), "model_type": model_type}


def language_model_type(config: Mapping[str, Any]) -> str:
    """The `model_type` in transformers of the language model that a config describes."""
    model_type = str(config.get("model_type"))
    word = re.sub(r"^(tiny_?)?llava_?", "", model_type)
    if not word:
        classes = config.get("architectures") or ["LlavaLlamaForCausalLM"]
        found = _CLASS.match(str(classes[0]))
        word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).lower() if found else "llama"
    return _LANGUAGE_MODELS.get(word, word)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Where two language models' configs are not one architecture: vocabularies may differ, shapes of layers may not."""
    keys = ["model_type", *(key for key in _SHAPE_KEYS if key in expected and key in found)]
    if found.get("model_type") != expected.get("model_type"):
        keys = keys[:1]
    return [
        f"{key}: found {found.get(key)!r}, expected {expected.get(key)!r}"
        for key in keys
        if found.get(key) != expected.get(key)
    ]


def connector_part(projector: str) -> Part | None:
    """The connector that the original calls `projector`; None for one that is not known."""
    if found := _MLP.fullmatch(projector):
        options = {"type": "mlp", "depth": int(found[1]), "activation": "gelu"}
        return Part.model_validate(options) if int(found[1]) else None
    return Part(type=projector) if projector in ("linear", "identity") else None


def unknown_connector(key: str, projector: Any) -> str:
    """What to say of a connector that is not known."""
    hint = nearest(str(projector), _PROJECTORS)
    return f"{key}: found {projector!r}; expected linear, identity or mlpNx_gelu" + (
        f"; did you mean {hint!r}?" if hint else ""
    )


def _connector(config: Mapping[str, Any], wrong: list[str]) -> Part | None:
    if "model_type" not in config and "mm_projector_type" not in config:
        return None
    projector = config.get("mm_projector_type") or "linear"
    part = connector_part(str(projector))
    if part is None:
        wrong.append(unknown_connector("mm_projector_type", projector))
    return part


def _pictures(config: Mapping[str, Any], wrong: list[str]) -> tuple[str, str, Any]:
    """Aspect, merge and pinpoints."""
    aspect = str(config.get("image_aspect_ratio") or "square")
    if not re.fullmatch(r"square|pad|anyres(_max_[1-9]\d*)?", aspect):
        wrong.append(
            f"image_aspect_ratio: found {aspect!r}; expected square, pad, anyres or anyres_max_N; {suggest(aspect, _ASPECTS)}"
        )
    merge = str(config.get("mm_patch_merge_type") or "flat")
    if merge not in ("flat", "spatial", "spatial_unpad"):
        wrong.append(
            f"mm_patch_merge_type: found {merge!r}; expected flat, spatial or spatial_unpad; "
            + suggest(merge, ("flat", "spatial", "spatial_unpad"))
        )
    pinpoints = config.get("image_grid_pinpoints")
    if aspect.startswith("anyres"):
        if isinstance(pinpoints, list):
            pinpoints = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in pinpoints)
        if not pinpoints:
            wrong.append(f"image_grid_pinpoints: found none; anyres needs its canvases: {PINPOINTS_MEANT}")
        elif not isinstance(pinpoints, str | tuple):
            wrong.append(f"image_grid_pinpoints: found {pinpoints!r}; expected {PINPOINTS_MEANT}")
        elif bad := wrong_pinpoints(pinpoints):
            wrong.append(f"image_grid_pinpoints: found {bad[0]}; expected {bad[1]}")
    return aspect, merge, pinpoints


def _video(config: Mapping[str, Any]) -> dict[str, Any]:
    """How clips are looked at (LLaVA-NeXT-Video, OneVision), where the config speaks of it."""
    names = {"mm_spatial_pool_mode": "pool", "mm_newline_position": "newline", "frames_upbound": "frames"}
    names["add_time_instruction"] = "time_instruction"
    found = {name: config[key] for key, name in names.items() if config.get(key)}
    return found if "pool" in found or "newline" in found else {}
