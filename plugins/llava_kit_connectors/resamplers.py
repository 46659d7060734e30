"""Resamplers: learnt queries look at a tile's patches, and their rows are the tile's. N tiles, P patches, Q queries, W width.

Their rows have no place in the picture: no AnyRes, no unpad.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_kit import Connector, Grid, LlavaKitError

from .rowwise import make_linear

# The feed-forward is four times as wide as its input, as in transformers since the first.
_EXPANSION = 4


class Attention(nn.Module):
    """Queries [N, Q, W] look at each other, at patches [N, P, W], or at both; norms come before, the residual after."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise LlavaKitError(f"resampler: {heads} heads do not divide the width {width}; set `heads` or `width`")
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.query = make_linear(width, width)
        self.key_value = make_linear(width, 2 * width)
        self.output = make_linear(width, width)

    def forward(self, queries: Tensor, patches: Tensor | None = None, *, each_other: bool = True) -> Tensor:
        """`patches` come normed: every layer looks at the same ones."""
        normed = self.query_norm(queries)
        query = self.query(normed)
        looked_at = ([] if patches is None else [patches]) + ([normed] if each_other else [])
        key, value = self.key_value(torch.cat(looked_at, dim=1)).chunk(2, dim=-1)
        query, key, value = (tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tensor in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value)
        return queries + self.output(seen.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Row by row; norm before, residual after."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = make_linear(width, _EXPANSION * width)
        self.down = make_linear(_EXPANSION * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.down(F.gelu(self.up(self.norm(rows))))


class PerceiverLayers(nn.Module):
    """Each layer: queries look at patches and queries in one attention, then a feed-forward."""

    def __init__(self, width: int, *, layers: int, heads: int):
        super().__init__()
        self.attentions = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.forwards = nn.ModuleList(FeedForward(width) for _ in range(layers))

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """queries [N, Q, W], patches [N, P, W] -> [N, Q, W]."""
        for attention, feed_forward in zip(self.attentions, self.forwards, strict=True):
            queries = feed_forward(attention(queries, patches))
        return queries


class QFormerLayers(nn.Module):
    """Each layer: queries look at each other; every `cross_every`-th, from the first on, also at the patches; feed-forward."""

    def __init__(self, width: int, *, layers: int, cross_every: int, heads: int):
        super().__init__()
        self.cross_every = cross_every
        self.selves = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.crosses = nn.ModuleList(Attention(width, heads) for _ in range(0, layers, cross_every))
        self.forwards = nn.ModuleList(FeedForward(width) for _ in range(layers))

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """queries [N, Q, W], patches [N, P, W] -> [N, Q, W]."""
        for index, (attention, feed_forward) in enumerate(zip(self.selves, self.forwards, strict=True)):
            queries = attention(queries)
            if index % self.cross_every == 0:
                queries = self.crosses[index // self.cross_every](queries, patches, each_other=False)
            queries = feed_forward(queries)
        return queries


class Resampler(Connector):
    """Learnt queries through `layers`, which let them look at the patches; a way in and a way out."""

    spatial = False

    def __init__(self, vision_width: int, text_width: int, layers: nn.Module, *, width: int, num_queries: int):
        super().__init__()
        self.input = make_linear(vision_width, width)
        self.input_norm = nn.LayerNorm(width)
        # Of size 1 like what a norm gives: queries must differ from the start to look at different things.
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.layers = layers
        self.output_norm = nn.LayerNorm(width)
        self.output = make_linear(width, text_width)

    def output_grid(self, grid: Grid) -> Grid:
        return Grid(1, self.queries.shape[0])

    def forward(self, features: Tensor) -> Tensor:
        """[N, P, D_vision] -> [N, Q, D]."""
        patches = self.input_norm(self.input(features))
        queries = self.queries.expand(features.shape[0], -1, -1)
        return self.output(self.output_norm(self.layers(queries, patches)))
