"""A vision tower of open_clip behind the Encoder interface. N tiles, P patches a tile, D width of a block's output."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from llava_kit import CheckpointError, Encoder, EncoderSpec, Grid, PluginError, suggest

from . import Layer, OpenClipOptions

# Without weights the text tower, which is thrown away, is made as small as it goes, and needs nothing from the hub.
_NO_TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


class OpenClipEncoder(Encoder):
    """Patch features of an open_clip tower, taken by its own `forward_intermediates`."""

    def __init__(self, options: OpenClipOptions, *, weights: bool):
        super().__init__()
        tower, mean, std = _create(options, weights)
        # Some of open_clip's architectures are its own, others wrap a model of timm.
        self.wraps_timm = hasattr(tower, "trunk")
        self.taken = resolve_layers(options, len(self._blocks_of(tower)))
        self.indices = sorted({block for block, _ in self.taken})
        normed = any(normed for _, normed in self.taken)
        _prune(tower, self.indices, normed)
        self.tower = tower.to(getattr(torch, options.dtype))
        self.keep_cls = options.keep_cls
        if self.keep_cls and self.wraps_timm and getattr(tower.trunk, "cls_token", None) is None:
            raise PluginError(f"keep_cls: {options.architecture} has no class token; leave the option out")
        self.spec = _make_spec(tower, options, mean, std, len(self.taken))

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> [N, P, layers taken * D]; with `keep_cls` the class token is the first of P + 1 rows."""
        dtype = next(self.tower.parameters()).dtype
        if not tiles.shape[0]:  # some of the towers cannot reshape an empty batch
            return tiles.new_zeros((0, self.spec.grid.area, self.spec.width), dtype=dtype)
        found = self.tower.forward_intermediates(
            self.normalise(tiles, dtype),
            indices=self.indices,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=self.keep_cls,
        )
        outputs = found["image_intermediates"]
        if self.keep_cls:
            prefixes = found["image_intermediates_prefix"]
            outputs = [torch.cat([prefix[:, :1], output], dim=1) for prefix, output in zip(prefixes, outputs, strict=True)]
        by_block = dict(zip(self.indices, outputs, strict=True))
        features = [self._norm(by_block[block]) if normed else by_block[block] for block, normed in self.taken]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self._blocks_of(self.tower))

    def _blocks_of(self, tower: Any) -> nn.ModuleList:
        return tower.trunk.blocks if self.wraps_timm else tower.transformer.resblocks

    def _norm(self, output: Tensor) -> Tensor:
        return self.tower.trunk.norm(output) if self.wraps_timm else self.tower.ln_post(output)


def resolve_layers(options: OpenClipOptions, depth: int) -> list[tuple[int, bool]]:
    """Which outputs are taken: (block, from 0; after the final norm). Layer 1 of the options is block 0.

    Raises `PluginError` for a layer that a tower of this depth does not have.
    """
    wanted: Sequence[Layer] = options.feature_layer if isinstance(options.feature_layer, tuple) else (options.feature_layer,)
    taken = []
    for layer in wanted:
        block = depth - 1 if layer == "last" else layer + depth if layer < 0 else layer - 1
        if not 0 <= block < depth:
            raise PluginError(
                f"feature_layer: found {layer}, but {options.architecture} has {depth} blocks; "
                f"expected 1 to {depth}, -{depth} to -1, or 'last'"
            )
        taken.append((block, layer == "last"))
    if not taken:
        raise PluginError("feature_layer: found an empty list; expected at least one layer")
    return taken


def _create(options: OpenClipOptions, weights: bool) -> tuple[Any, Sequence[float], Sequence[float]]:
    """The tower without its head, and the mean and standard deviation of its training pictures."""
    name, is_folder = _architecture(options)
    tag = {} if is_folder else _tag(name, options.pretrained)
    if weights and not is_folder and options.pretrained is None:
        raise PluginError(f"pretrained: missing; {_tags(name)}, or a weight file")
    arguments: dict[str, Any] = {} if weights else {"text_cfg": _NO_TEXT}
    try:
        with _quiet():
            model = open_clip.create_model(
                name,
                pretrained=options.pretrained if weights else None,
                load_weights=weights,
                require_pretrained=weights,
                pretrained_text=False,  # the text tower's own start; what is loaded comes whole
                # The activation belongs to the weights: OpenAI's were trained with a quick approximation of GELU.
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_image_size=options.image_size,
                # The caller may be on the meta device, from which open_clip would move the model.
                device=torch.empty(0).device,
                weights_only=True,
                **arguments,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        kind = CheckpointError if weights else PluginError
        raise kind(
            f"open_clip cannot make {options.architecture!r}"
            + (f" with weights {options.pretrained!r}" if weights else "")
            + f": {type(error).__name__}: {reason}"
        ) from error
    tower: Any = model.visual
    inner = getattr(tower, "trunk", tower)
    if hasattr(tower, "trunk") and hasattr(inner, "set_input_size") and inner.patch_embed.img_size != tower.image_size:
        inner.set_input_size(tower.image_size)  # open_clip makes timm's models at their own size
    if not hasattr(inner, "blocks") and not hasattr(inner, "transformer"):
        raise PluginError(f"architecture: {options.architecture} is no plain vision transformer; take a ViT")
    colours = tower.preprocess_cfg
    return tower, tag.get("mean") or colours["mean"], tag.get("std") or colours["std"]


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip speaks through the root logger, and so also makes handlers there; what matters of it is in our errors."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _architecture(options: OpenClipOptions) -> tuple[str, bool]:
    """open_clip's name of the architecture, and whether it is a folder (which holds its weights too)."""
    path = Path(options.architecture).expanduser()
    if path.is_dir():
        if options.pretrained is not None:
            raise PluginError(f"pretrained: found {options.pretrained!r} beside the folder {path}, which has its own weights")
        return f"local-dir:{path}", True
    if path.suffix == ".json":
        if not path.is_file():
            raise PluginError(f"architecture: found no file {path}")
        open_clip.add_model_config(path)
        return path.stem, False
    if options.architecture not in open_clip.list_models():
        raise PluginError(
            f"architecture: open_clip has no {options.architecture!r}; {suggest(options.architecture, open_clip.list_models())}"
        )
    return options.architecture, False


def _tag(name: str, pretrained: str | None) -> dict[str, Any]:
    """What open_clip knows of a tag; empty for a weight file."""
    if pretrained is None or Path(pretrained).is_file():
        return {}
    found = open_clip.get_pretrained_cfg(name, pretrained)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise PluginError(f"pretrained: found no tag {pretrained!r} of {name}, and no such file; {suggest(pretrained, tags)}")
    return found


def _tags(name: str) -> str:
    return f"tags of {name}: {', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none'}"


def _prune(tower: Any, indices: list[int], normed: bool) -> None:
    """Leave out what the features do not need: later blocks, the pooling, the projection."""
    if hasattr(tower, "trunk"):
        tower.trunk.prune_intermediate_layers(indices, prune_norm=not normed, prune_head=True)
        tower.head = nn.Identity()
        return
    if normed and (tower.final_ln_after_pool or tower.attn_pool is not None):
        raise PluginError("feature_layer: this tower's final norm is for pooled features; take -1 instead of 'last'")
    tower.prune_intermediate_layers(indices, prune_norm=not normed, prune_head=True)
    tower.attn_pool = tower.attn_pool_contrastive = None


def _make_spec(
    tower: Any, options: OpenClipOptions, mean: Sequence[float], std: Sequence[float], num_layers: int
) -> EncoderSpec:
    height, width = tower.image_size
    if height != width:
        raise PluginError(
            f"architecture: {options.architecture} takes pictures of {height} x {width}; tiles are square: set image_size"
        )
    inner = getattr(tower, "trunk", tower)
    rows, cols = inner.patch_embed.grid_size if hasattr(tower, "trunk") else tower.grid_size
    # With the class token the rows are no grid of places: one line, so that nothing can take them for a picture's lines.
    grid = Grid(1, rows * cols + 1) if options.keep_cls else Grid(rows, cols)
    features = inner.embed_dim if hasattr(tower, "trunk") else tower.conv1.out_channels
    return EncoderSpec(height, grid, features * num_layers, tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]
