"""The tiny language model: Llama's block, or Mistral's (fewer key heads, a sliding window), at a width of about a hundred.

B rows of S positions, D width, H heads of C, L positions in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_kit import LanguageModel, Sequences

from . import ShapesLMOptions
from .layers import Attention, fan_in_
from .tokenizer import build_tokenizer

_ROPE_BASE = 10_000.0  # Llama 2's


class ShapesLM(LanguageModel):
    """Pre-norm blocks of rotary attention and a gated MLP, a final norm, an output projection of its own."""

    def __init__(self, options: ShapesLMOptions):
        super().__init__()
        self.width = options.width
        self.window = options.sliding_window
        self.key_heads, self.head_width = options.key_heads, options.width // options.heads
        self.tokenizer = build_tokenizer()
        self.embedding_weight = nn.Parameter(torch.empty(len(self.tokenizer), options.width))
        self.layers = nn.ModuleList(_Block(options) for _ in range(options.depth))
        self.norm = nn.RMSNorm(options.width, eps=1e-6)
        self.head_weight = nn.Parameter(torch.empty(len(self.tokenizer), options.width))
        # Rows enter the blocks at the scale at which the connector's rows do, about one.
        nn.init.normal_(self.embedding_weight)
        nn.init.normal_(self.head_weight, std=options.width**-0.5)

    @property
    def embedding(self) -> nn.Parameter:
        return self.embedding_weight

    @property
    def head(self) -> nn.Parameter:
        return self.head_weight

    def forward(
        self, rows: Tensor, position_ids: Tensor, *, sequences: Sequences | None = None, cache: Cache | None = None
    ) -> Tensor:
        """[B, S, D], int64 [B, S] -> [B, S, D] after the final norm."""
        mask = self._mask(rows, sequences) if cache is None else cache.mask(rows, self.window)
        rotation = _rotation(position_ids, self.head_width, rows.dtype)
        for number, block in enumerate(self.layers):
            rows = block(rows, rotation, mask, None if cache is None else cache.layer(number))
        if cache is not None:
            cache.filled += rows.shape[1]
        return self.norm(rows)

    def new_cache(self, batch: int, length: int, left_padding: Tensor | None = None) -> Cache:
        """Room for `batch` rows of `length` positions in every layer."""
        shape = (len(self.layers), 2, batch, self.key_heads, length, self.head_width)
        return Cache(self.embedding_weight.new_zeros(shape), left_padding)

    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.layers)

    def _mask(self, rows: Tensor, sequences: Sequences | None) -> Tensor | None:
        """What sees what, bool [S, S] or [B, 1, S, S]; None where plain causal attention is all that is meant."""
        batch, length = rows.shape[:2]
        packed = sequences if sequences is not None and sequences.packed else None
        window = self.window if self.window is not None and length > self.window else None
        if window is None and packed is None:
            return None
        steps = torch.arange(length, device=rows.device)
        mask = steps[:, None] >= steps  # [S, S]
        if window is not None:
            mask &= steps[:, None] - steps < window
        if packed is not None:
            flat = torch.arange(batch * length, device=rows.device, dtype=packed.offsets.dtype)
            owner = torch.searchsorted(packed.offsets, flat, right=True).view(batch, length)
            mask = mask & (owner[:, :, None] == owner[:, None, :])
            mask = mask[:, None]
        return mask


class Cache:
    """Keys and values of the positions so far. `store` is [layers, 2, B, key_heads, L, C]."""

    def __init__(self, store: Tensor, left_padding: Tensor | None):
        self.store, self.left_padding, self.filled = store, left_padding, 0

    def layer(self, number: int) -> tuple[Tensor, Tensor, int]:
        """(keys, values, positions filled) of one layer."""
        return self.store[number, 0], self.store[number, 1], self.filled

    def reorder(self, rows: Tensor, start: int = 0) -> None:
        """As `llava_kit.core.language_model.ReorderableCache` has it."""
        if self.left_padding is not None:
            self.left_padding = self.left_padding.index_select(0, rows.to(self.left_padding.device))
        if len(rows) == self.store.shape[2]:
            moved = self.store[:, :, :, :, start : self.filled]
            moved.copy_(moved.index_select(2, rows))
        else:
            self.store = self.store.index_select(2, rows)

    def mask(self, rows: Tensor, window: int | None) -> Tensor | None:
        """bool [S, filled + S] or [B, 1, S, filled + S]; None for a prompt without padding, which is plainly causal."""
        length, end = rows.shape[1], self.filled + rows.shape[1]
        if window is not None and end <= window:
            window = None
        if self.left_padding is None and window is None and (self.filled == 0 or length == 1):
            return None
        keys = torch.arange(end, device=rows.device)
        queries = keys[self.filled :, None]
        mask = keys <= queries  # [S, filled + S]
        if window is not None:
            mask &= queries - keys < window
        if self.left_padding is not None:
            real = keys >= self.left_padding[:, None, None].to(keys.device)  # [B, 1, filled + S]
            # A position of padding sees itself, so that its softmax has something to sum over; nobody reads it.
            mask = ((mask & real) | (keys == queries))[:, None]
        return mask


class _Block(nn.Module):
    """Rotary attention and a gated MLP, each added to its input."""

    def __init__(self, options: ShapesLMOptions):
        super().__init__()
        width, shrink = options.width, (2 * options.depth) ** -0.5
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, options.heads, options.key_heads, shrink)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = fan_in_(nn.Linear(width, options.hidden_width, bias=False))
        self.up = fan_in_(nn.Linear(width, options.hidden_width, bias=False))
        self.down = fan_in_(nn.Linear(options.hidden_width, width, bias=False), shrink)

    def forward(
        self,
        rows: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: tuple[Tensor, Tensor, int] | None,
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; with `cache`, keys and values of `rows` are written into it."""
        query, key, value = self.attention.project(self.attention_norm(rows))
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        causal = mask is None
        if cache is not None:
            keys, values, filled = cache
            end = filled + rows.shape[1]
            keys[:, :, filled:end], values[:, :, filled:end] = key, value
            key, value = keys[:, :, :end], values[:, :, :end]
            causal = causal and filled == 0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=key.shape[1] != query.shape[1]
        )
        rows = rows + self.attention.out(attended)
        hidden = self.mlp_norm(rows)
        return rows + self.down(F.silu(self.gate(hidden)) * self.up(hidden))


def _rotation(position_ids: Tensor, head_width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """int64 [B, S] -> cosines and sines [B, 1, S, C / 2]. Made anew each time: no buffer that a checkpoint could lose."""
    steps = torch.arange(0, head_width, 2, device=position_ids.device, dtype=torch.float32)
    angles = position_ids[:, None, :, None] * _ROPE_BASE ** (-steps / head_width)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """[B, H, S, C] turned by position, Llama's way: the first half of C pairs with the second."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
