"""The tiny encoder: a vision transformer that learns from nothing in about a minute of one CPU core.

N tiles, P patches a tile, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_kit import Encoder, EncoderSpec, Grid

from . import ShapesVitOptions
from .layers import Attention, fan_in_

# Positions are spread about half as far as the patches themselves; at 0.02 the model took twice as long to learn places.
_POSITION_STD = 0.5


class ShapesEncoder(Encoder):
    """Patches by a convolutional stem or by one linear map, learnt positions, pre-norm blocks, a final norm."""

    def __init__(self, options: ShapesVitOptions):
        super().__init__()
        side = options.image_size // options.patch_size
        self.spec = EncoderSpec(options.image_size, Grid(side, side), options.width, (0.5,) * 3, (0.5,) * 3)
        self.stem = _stem(options)
        self.positions = nn.Parameter(torch.empty(side * side, options.width))
        self.layers = nn.ModuleList(_Block(options) for _ in range(options.depth))
        self.norm = nn.RMSNorm(options.width, eps=1e-6)
        nn.init.normal_(self.positions, std=_POSITION_STD)

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> [N, P, D], patches row-major."""
        pixels = self.normalise(tiles, self.positions.dtype)
        patches = self.stem(pixels).flatten(2).transpose(1, 2) + self.positions  # [N, P, D]
        for block in self.layers:
            patches = block(patches)
        return self.norm(patches)

    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.layers)


class _Block(nn.Module):
    """Attention over all patches of a tile, then an MLP, each added to its input."""

    def __init__(self, options: ShapesVitOptions):
        super().__init__()
        width, shrink = options.width, (2 * options.depth) ** -0.5
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, options.heads, options.heads, shrink)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.up = fan_in_(nn.Linear(width, 4 * width, bias=False))
        self.down = fan_in_(nn.Linear(4 * width, width, bias=False), shrink)

    def forward(self, patches: Tensor) -> Tensor:
        """[N, P, D] -> [N, P, D]."""
        query, key, value = self.attention.project(self.attention_norm(patches))
        patches = patches + self.attention.out(F.scaled_dot_product_attention(query, key, value))
        return patches + self.down(F.gelu(self.up(self.mlp_norm(patches)), approximate="tanh"))


def _stem(options: ShapesVitOptions) -> nn.Module:
    """Pixels [N, 3, H, W] to patches [N, D, rows, cols]."""
    if options.stem == "linear":
        return fan_in_(nn.Conv2d(3, options.width, options.patch_size, options.patch_size))
    # Halve until a cell is 4 pixels wide (what tells a circle from a square lies within 10 pixels), then one step to the patch.
    channels = options.stem_channels
    rest = options.patch_size // 4
    return nn.Sequential(
        fan_in_(nn.Conv2d(3, channels, 4, 2, 1)),
        nn.GELU(approximate="tanh"),
        fan_in_(nn.Conv2d(channels, 2 * channels, 4, 2, 1)),
        nn.GELU(approximate="tanh"),
        fan_in_(nn.Conv2d(2 * channels, options.width, rest, rest)),
    )
