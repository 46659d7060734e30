"""Keys and values of the positions already seen, in buffers with room: the past is not copied for each new token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from llava_kit import LlavaKitError

# A buffer has room for this many positions more than it needs now: most answers are far shorter than they may be.
_ROOM = 256


def claim(filled: int, count: int, length: int) -> int:
    """`filled + count`. Raises `LlavaKitError` when that is more than `length`."""
    if filled + count > length:
        raise LlavaKitError(
            f"the cache was made for {length} positions: {filled} are filled and {count} more were given; "
            "ask `new_cache` for a greater length"
        )
    return filled + count


class BufferLayer(DynamicLayer):
    """One layer's keys and values [B, G, room, E], of which the first positions are filled; at most `length` of them."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._place(key_states[:, :, :0], value_states[:, :, :0], key_states.shape[2])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.key_buffer.shape[2]:
            self._place(self.keys, self.values, end)
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def reorder(self, rows: Tensor, start: int) -> None:
        """As `ReorderableCache.reorder`."""
        if self.keys is None or self.values is None:
            return
        rows = rows.to(self.keys.device)
        if len(rows) == len(self.keys):
            for tensor in (self.keys[:, :, start:], self.values[:, :, start:]):
                tensor.copy_(tensor.index_select(0, rows))
        else:
            self._place(self.keys.index_select(0, rows), self.values.index_select(0, rows), self.keys.shape[2])

    def _place(self, keys: Tensor, values: Tensor, needed: int) -> None:
        """Puts the past [B, G, filled, E] into new buffers with room for `needed` positions and some more."""
        room = max(needed, min(self.length, needed + max(_ROOM, needed // 2)))
        filled = keys.shape[2]
        self.key_buffer = keys.new_empty((*keys.shape[:2], room, keys.shape[3]))
        self.value_buffer = values.new_empty((*values.shape[:2], room, values.shape[3]))
        self.keys, self.values = self.key_buffer[:, :, :filled], self.value_buffer[:, :, :filled]
        self.keys.copy_(keys)
        self.values.copy_(values)


class CausalLmCache:
    """What `CausalLm.new_cache` hands out: transformers' cache, how much of it is filled, and the padding on the left."""

    def __init__(self, past: Cache, length: int, left_padding: Tensor | None):
        self.past = past
        self.length = length
        self.left_padding = left_padding
        self.filled = 0

    def advance(self, count: int) -> None:
        """Claim room for `count` more positions. Raises `LlavaKitError` when there is none."""
        self.filled = claim(self.filled, count, self.length)

    def reorder(self, rows: Tensor, start: int = 0) -> None:
        """As `ReorderableCache.reorder`."""
        if self.left_padding is not None:
            self.left_padding = self.left_padding.index_select(0, rows.to(self.left_padding.device))
        for layer in self.past.layers:
            if isinstance(layer, BufferLayer):
                layer.reorder(rows, start)
            else:
                other: Any = layer
                other.reorder_cache(rows)

    def visible(self, device: torch.device) -> Tensor | None:
        """bool [B, filled]: False on the padding; None when there is none."""
        if self.left_padding is None:
            return None
        return torch.arange(self.filled, device=device) >= self.left_padding.to(device)[:, None]
