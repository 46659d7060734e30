"""A vision transformer of timm behind the Encoder interface. N tiles, P patches a tile, D width of a block's output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from llava_kit import CheckpointError, Encoder, EncoderSpec, Grid, PluginError, suggest

from . import Layer, TimmOptions


class TimmEncoder(Encoder):
    """Patch features of a timm model, taken by its own `forward_intermediates`."""

    def __init__(self, options: TimmOptions, *, weights: bool):
        super().__init__()
        tower = _create(options, weights)
        self.taken = resolve_layers(options, len(tower.blocks))
        self.indices = sorted({block for block, _ in self.taken})
        normed = any(normed for _, normed in self.taken)
        tower.prune_intermediate_layers(self.indices, prune_norm=not normed, prune_head=True)
        self.tower = tower.to(getattr(torch, options.dtype))
        self.keep_cls = options.keep_cls
        if self.keep_cls and getattr(tower, "cls_token", None) is None:
            raise PluginError(f"keep_cls: {options.model} has no class token; leave the option out")
        self.spec = _make_spec(tower, options, len(self.taken))

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> [N, P, layers taken * D]; with `keep_cls` the class token is the first of P + 1 rows."""
        dtype = next(self.tower.parameters()).dtype
        if not tiles.shape[0]:  # some of timm's models cannot reshape an empty batch
            return tiles.new_zeros((0, self.spec.grid.area, self.spec.width), dtype=dtype)
        outputs = self.tower.forward_intermediates(
            self.normalise(tiles, dtype),
            indices=self.indices,
            return_prefix_tokens=self.keep_cls,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        by_block = dict(zip(self.indices, outputs, strict=True))
        features = [self._patches(by_block[block], normed) for block, normed in self.taken]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.tower.blocks)

    def _patches(self, output: Any, normed: bool) -> Tensor:
        if self.keep_cls:
            patches, prefix = output
            output = torch.cat([prefix[:, :1], patches], dim=1)
        return self.tower.norm(output) if normed else output


def resolve_layers(options: TimmOptions, depth: int) -> list[tuple[int, bool]]:
    """Which outputs are taken: (block, from 0; after the final norm). Layer 1 of the options is block 0.

    Raises `PluginError` for a layer that a tower of this depth does not have.
    """
    wanted: Sequence[Layer] = options.feature_layer if isinstance(options.feature_layer, tuple) else (options.feature_layer,)
    taken = []
    for layer in wanted:
        block = depth - 1 if layer == "last" else layer + depth if layer < 0 else layer - 1
        if not 0 <= block < depth:
            raise PluginError(
                f"feature_layer: found {layer}, but {options.model} has {depth} blocks; "
                f"expected 1 to {depth}, -{depth} to -1, or 'last'"
            )
        taken.append((block, layer == "last"))
    if not taken:
        raise PluginError("feature_layer: found an empty list; expected at least one layer")
    return taken


def _create(options: TimmOptions, weights: bool) -> Any:
    name = options.model.split(".")[0]
    if not timm.is_model(name):
        raise PluginError(f"model: timm {timm.__version__} has no {options.model!r}; {suggest(name, timm.list_models())}")
    arguments = dict(options.arguments)
    if options.image_size is not None:
        arguments["img_size"] = options.image_size
    own = weights and options.pretrained and options.weights_file is None
    try:
        tower = timm.create_model(options.model, pretrained=own, num_classes=0, **arguments)
    except Exception as error:
        raise PluginError(f"timm cannot create {options.model!r}: {_one_line(error)}") from error
    needed = ("blocks", "norm", "patch_embed", "num_prefix_tokens", "forward_intermediates", "prune_intermediate_layers")
    missing = [part for part in needed if not hasattr(tower, part)]
    if missing:
        raise PluginError(
            f"model: {options.model} is no plain vision transformer (no {missing[0]}); take a vit_, deit_ or eva_ one"
        )
    if weights and options.weights_file is not None:
        _load(tower, Path(options.weights_file))
    return tower


def _load(tower: Any, path: Path) -> None:
    """Every tensor of the tower from the file; pickles are read with `weights_only`, so no code in them runs."""
    if not path.is_file():
        raise CheckpointError(f"weights_file: found no file {path}")
    try:
        tensors = load_state_dict(str(path), weights_only=True)
        # Many architectures have a function that renames and resizes what older files hold.
        convert = getattr(sys.modules[type(tower).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            tensors = convert(tensors, tower)
        missing = tower.load_state_dict(tensors, strict=False).missing_keys
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be loaded: {_one_line(error)}") from error
    if missing:
        raise CheckpointError(f"{path}: lacks {len(missing)} tensors of the model: {', '.join(missing[:5])}")


def _make_spec(tower: Any, options: TimmOptions, num_layers: int) -> EncoderSpec:
    rows, cols = tower.patch_embed.grid_size
    height, width = tower.patch_embed.img_size
    if height != width:
        raise PluginError(f"model: {options.model} takes pictures of {height} x {width}; tiles are square: set image_size")
    # With the class token the rows are no grid of places: one line, so that nothing can take them for a picture's lines.
    grid = Grid(1, rows * cols + 1) if options.keep_cls else Grid(rows, cols)
    mean, std = (tuple(float(number) for number in tower.pretrained_cfg[key]) for key in ("mean", "std"))
    return EncoderSpec(height, grid, tower.embed_dim * num_layers, mean, std)  # type: ignore[arg-type]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
