"""Keys and values of the positions already seen, in buffers that are made once: no copy of the past for each new token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from llava_kit import LlavaKitError


class BufferLayer(DynamicLayer):
    """One layer's keys and values [B, G, length, E], of which the first positions are filled."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_buffer = key_states.new_empty((*key_states.shape[:2], self.length, key_states.shape[3]))
        self.value_buffer = value_states.new_empty((*value_states.shape[:2], self.length, value_states.shape[3]))
        self.keys, self.values = self.key_buffer[:, :, :0], self.value_buffer[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values


class CausalLmCache:
    """What `CausalLm.new_cache` hands out: transformers' cache, how much of it is filled, and the padding on the left."""

    def __init__(self, past: Cache, length: int, left_padding: Tensor | None):
        self.past = past
        self.length = length
        self.left_padding = left_padding
        self.filled = 0

    def advance(self, count: int) -> None:
        """Claim room for `count` more positions. Raises `LlavaKitError` when there is none."""
        if self.filled + count > self.length:
            raise LlavaKitError(
                f"the cache was made for {self.length} positions: {self.filled} are filled and {count} more were given; "
                "ask `new_cache` for a greater length"
            )
        self.filled += count

    def visible(self, device: torch.device) -> Tensor | None:
        """bool [B, filled]: False on the padding; None when there is none."""
        if self.left_padding is None:
            return None
        return torch.arange(self.filled, device=device) >= self.left_padding.to(device)[:, None]
