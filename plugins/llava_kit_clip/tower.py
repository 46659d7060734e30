"""The towers of transformers behind the Encoder interface. N tiles, P patches a tile, D width of the tower."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_kit import Encoder, EncoderSpec, Grid, LlavaKitError, PluginError, Published
from llava_kit.core.checkpoint import Checkpoint, build_model, open_checkpoint

from . import Colour, Layer, TowerOptions

PRESETS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "presets.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Family:
    """What differs between the towers. `mean` and `std` hold where the checkpoint has no preprocessor_config.json."""

    config: Any
    model: Any
    has_cls: bool
    final_norm: str
    """The norm after the last layer, by its name in transformers' model."""
    norms_patches: bool
    """The final norm belongs to the tower's output (CLIP applies it to the pooled class token alone)."""
    mean: Colour
    std: Colour


# Mean and standard deviation of CLIP's training pictures (openai/CLIP, clip/clip.py).
_CLIP_COLOURS: tuple[Colour, Colour] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# SigLIP scales pixels to -1..1 (google-research/big_vision).
_SIGLIP_COLOURS: tuple[Colour, Colour] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Of ImageNet's pictures (facebookresearch/dinov2, dinov2/data/transforms.py).
_IMAGENET_COLOURS: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_CLIP = Family(CLIPVisionConfig, CLIPVisionModel, True, "post_layernorm", False, *_CLIP_COLOURS)
_SIGLIP = Family(SiglipVisionConfig, SiglipVisionModel, False, "post_layernorm", True, *_SIGLIP_COLOURS)
_DINOV2 = Family(Dinov2Config, Dinov2Model, True, "layernorm", True, *_IMAGENET_COLOURS)
_REGISTERS = Family(Dinov2WithRegistersConfig, Dinov2WithRegistersModel, True, "layernorm", True, *_IMAGENET_COLOURS)

# The type of the recipe, then the `model_type` of the config.
FAMILIES: dict[str, dict[str, Family]] = {
    "clip": {"clip": _CLIP, "clip_vision_model": _CLIP},
    "siglip": {"siglip": _SIGLIP, "siglip_vision_model": _SIGLIP},
    "dinov2": {"dinov2": _DINOV2, "dinov2_with_registers": _REGISTERS},
}


class TowerEncoder(Encoder):
    """Patch features of a CLIP, SigLIP or DINOv2 tower, of which no more is built than the features need."""

    def __init__(self, kind: str, options: TowerOptions, *, weights: bool):
        super().__init__()
        checkpoint = open_checkpoint(options.checkpoint, PRESETS, weights=weights, config=options.config)
        family, config = _read_config(kind, checkpoint)
        wanted = options.feature_layer if isinstance(options.feature_layer, tuple) else (options.feature_layer,)
        self.taken = resolve_layers(wanted, config.num_hidden_layers)
        deepest = max(layer for layer, _ in self.taken)
        unbuilt = config.num_hidden_layers - deepest
        config.num_hidden_layers = max(1, deepest)  # the initialisation of transformers divides by it
        self._config, self._family = config, family
        normed = family.norms_patches and any(normed for _, normed in self.taken)
        model = build_model(
            family.model,
            config,
            checkpoint,
            weights=weights,
            dtype=getattr(torch, options.dtype),
            attention="sdpa",
            optional=() if normed else (family.final_norm,),
            extra_tensors=True,
        )
        self.embeddings = model.embeddings
        # Only there for masked pre-training: as a parameter it would wait for a gradient that never comes.
        if getattr(self.embeddings, "mask_token", None) is not None:
            self.embeddings.mask_token = None
        self.pre_norm = getattr(model, "pre_layrnorm", None)  # transformers spells it so
        name = "layers" if hasattr(model.encoder, "layers") else "layer"
        layers = getattr(model.encoder, name)
        self._layers_name = f"encoder.{name}"
        self.layers = layers[:deepest]
        self.unused_parameters = unbuilt * _num_parameters(layers[0])
        final_norm = getattr(model, family.final_norm)
        self.final_norm = final_norm if normed else None
        if self.final_norm is None:
            self.unused_parameters += _num_parameters(final_norm)
        left_out = int(getattr(options, "without_first", False))
        self.num_prefix = int(family.has_cls) + getattr(config, "num_register_tokens", 0) + left_out
        self.keep_cls = options.keep_cls
        self.interpolated = _interpolated(kind, options.image_size, config)
        self.spec = _make_spec(family, config, checkpoint, options, len(self.taken))

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> [N, P, layers taken * D]; with `keep_cls` the class token is the first of P + 1 rows."""
        if not tiles.shape[0]:  # transformers cannot reshape an empty batch
            return tiles.new_zeros((0, self.spec.grid.area, self.spec.width), dtype=self._dtype)
        hidden = self.embeddings(self.normalise(tiles, self._dtype), **self.interpolated)
        if self.pre_norm is not None:
            hidden = self.pre_norm(hidden)
        outputs = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, *self._no_mask)
            outputs.append(hidden)
        features = [self._patches(outputs[layer], normed) for layer, normed in self.taken]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer layers."""
        return list(self.layers)

    def published(self) -> Published | None:
        """The tower in the words of transformers, with as many layers as it has; None when its positions are interpolated."""
        if self.interpolated or self.spec.image_size != self._config.image_size:
            return None
        theirs = {"layers": self._layers_name, "pre_norm": "pre_layrnorm", "final_norm": self._family.final_norm}
        names = {}
        for name in self.state_dict():
            first, _, rest = name.partition(".")
            names[name] = f"{theirs.get(first, first)}.{rest}"
        return Published(
            config={**self._config.to_dict(), "model_type": self._config.model_type},
            names=names,
            architecture=self._family.model.__name__,
            layers=tuple(layer for layer, _ in self.taken),
            normed=any(normed for _, normed in self.taken),
            keep_cls=self.keep_cls,
            num_prefix=self.num_prefix,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.embeddings.parameters()).dtype

    @property
    def _no_mask(self) -> tuple[None, ...]:
        # CLIP's and SigLIP's layers must be told that there is no mask; DINOv2's had no such argument before 5.20.
        return (None,) if self.layers and hasattr(self.layers[0], "self_attn") else ()

    def _patches(self, hidden: Tensor, normed: bool) -> Tensor:
        if normed and self.final_norm is not None:
            hidden = self.final_norm(hidden)
        patches = hidden[:, self.num_prefix :]
        return torch.cat([hidden[:, :1], patches], dim=1) if self.keep_cls else patches


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resolve_layers(wanted: Sequence[Layer], depth: int) -> list[tuple[int, bool]]:
    """Which outputs are taken: (layer, after the final norm), layer 0 being the embedding and `depth` the last layer.

    Raises `PluginError` for a layer that a tower of this depth does not have.
    """
    taken = []
    for layer in wanted:
        index = depth if layer == "last" else layer + depth + 1 if layer < 0 else layer
        if not 0 <= index <= depth:
            raise PluginError(
                f"feature_layer: found {layer}, but the tower has {depth} layers; expected {-depth - 1} to {depth}, or 'last'"
            )
        taken.append((index, layer == "last"))
    if not taken:
        raise PluginError("feature_layer: found an empty list; expected at least one layer")
    return taken


def _read_config(kind: str, checkpoint: Checkpoint) -> tuple[Family, Any]:
    model_type = str(checkpoint.config.get("model_type"))
    family = FAMILIES[kind].get(model_type)
    if family is None:
        owner = next((name for name, types in FAMILIES.items() if model_type in types), None)
        hint = f"write `type: {owner}`" if owner else f"expected one of {', '.join(FAMILIES[kind])}"
        if model_type.startswith("siglip2"):
            hint = "its resolution varies (NaFlex); take a fixed one, such as google/siglip2-base-patch16-224"
        raise PluginError(f"{checkpoint.name}: found model_type {model_type!r} for type {kind!r}; {hint}")
    values = checkpoint.config.get("vision_config", checkpoint.config)
    values = {name: value for name, value in values.items() if name != "model_type"}
    if family is _SIGLIP:
        values["vision_use_head"] = False  # the pooling head gives one row for a picture; nothing here reads it
    try:
        config = family.config.from_dict(values)
    except Exception as error:
        raise PluginError(f"{checkpoint.name}: its config cannot be used: {str(error).splitlines()[0]}") from error
    return family, config


def _interpolated(kind: str, image_size: int | None, config: Any) -> dict[str, bool]:
    """How the embeddings are told to fit their positions to another grid; DINOv2 does so without being told."""
    if image_size is not None and image_size != config.image_size and image_size % config.patch_size:
        low = image_size // config.patch_size * config.patch_size
        raise PluginError(
            f"image_size: found {image_size}, which is no multiple of the patch ({config.patch_size}); "
            f"nearest: {low or config.patch_size} or {low + config.patch_size}"
        )
    changed = image_size is not None and image_size != config.image_size
    return {"interpolate_pos_encoding": True} if changed and kind != "dinov2" else {}


def _make_spec(family: Family, config: Any, checkpoint: Checkpoint, options: TowerOptions, num_layers: int) -> EncoderSpec:
    size = options.image_size or config.image_size
    side = size // config.patch_size
    # With the class token the rows are no grid of places: one line, so that nothing can take them for a picture's lines.
    # So without the first patch, too.
    more = int(options.keep_cls) - int(getattr(options, "without_first", False))
    grid = Grid(1, side * side + more) if more else Grid(side, side)
    preprocessor = checkpoint.read_json("preprocessor_config.json")
    mean = options.mean or _colour(preprocessor.get("image_mean", family.mean), checkpoint, "image_mean")
    std = options.std or _colour(preprocessor.get("image_std", family.std), checkpoint, "image_std")
    return EncoderSpec(size, grid, config.hidden_size * num_layers, mean, std)


def _colour(found: Any, checkpoint: Checkpoint, key: str) -> Colour:
    try:
        red, green, blue = (float(number) for number in found)
    except (TypeError, ValueError):
        raise LlavaKitError(
            f"{checkpoint.folder}/preprocessor_config.json: {key}: expected three numbers, found {found!r}"
        ) from None
    return red, green, blue
