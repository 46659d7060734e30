"""Keys and values in buffers of one shape, for steps that are recorded once and replayed (`ReplayableCache`).

N rows, G key heads, L places, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from .cache import claim


@dataclass
class _Filling:
    """What all layers share. `filled`: places taken by prompts; `visible`: None until the cache is frozen."""

    place: Tensor
    filled: int = 0
    visible: int | None = None


class FixedLayer(DynamicLayer):
    """One layer's keys and values in buffers [N, G, L, E] that never move."""

    def __init__(self, length: int, filling: _Filling):
        super().__init__()
        self.length, self.filling = length, filling

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_empty((*states.shape[:2], self.length, states.shape[3])) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """[N, G, S, E] each -> what the new positions see: a prompt its own keys and values, a step the visible places."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if (visible := self.filling.visible) is not None:
            self.keys.index_copy_(2, self.filling.place, key_states)
            self.values.index_copy_(2, self.filling.place, value_states)
            return self.keys[:, :, :visible], self.values[:, :, :visible]
        end = self.filling.filled
        start = end - key_states.shape[2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return (key_states, value_states) if start == 0 else (self.keys[:, :, :end], self.values[:, :, :end])

    def wipe(self, start: int) -> None:
        """Zeros from this place on: what is not seen has the weight 0, and 0 times the NaN of old memory would be NaN."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[:, :, start:].zero_()

    def get_seq_length(self) -> int:
        return self.filling.filled


class FixedCache:
    """What `CausalLm.new_replayable_cache` hands out. Its buffers are made when the first prompt comes, and then stay."""

    def __init__(self, batch: int, length: int, depth: int, device: torch.device):
        self.length = length
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.left_padding = torch.zeros(batch, dtype=torch.long, device=device)
        self._filling = _Filling(self.place)
        self.prompt_padding: Tensor | None = None
        self._layers = [FixedLayer(length, self._filling) for _ in range(depth)]
        self.past = Cache(layers=list(self._layers))

    @property
    def filled(self) -> int:
        """Places taken by prompts; steps of a frozen cache are not counted here."""
        return self._filling.filled

    @property
    def prefix(self) -> int | None:
        """How many places steps see; None until the cache is frozen."""
        return self._filling.visible

    @property
    def num_bytes(self) -> int:
        """As `ReplayableCache.num_bytes`: none before the first prompt."""
        return sum(buffer.nbytes for layer in self._layers for buffer in (layer.keys, layer.values) if buffer is not None)

    def advance(self, count: int) -> None:
        """Claim room for `count` more positions of a prompt. Raises `LlavaKitError` when there is none."""
        self._filling.filled = claim(self.filled, count, self.length)

    def restart(self, left_padding: Tensor | None = None) -> None:
        """As `ReplayableCache.restart`."""
        self._filling.filled, self._filling.visible = 0, None
        self.prompt_padding = left_padding
        if left_padding is None:
            self.left_padding.zero_()
        else:
            self.left_padding.copy_(left_padding)

    def freeze(self, visible: int) -> None:
        """As `ReplayableCache.freeze`."""
        assert self.filled < visible <= self.length
        if self.prefix is None:
            self.place.fill_(self.filled)
            for layer in self._layers:
                layer.wipe(self.filled)
        self._filling.visible = visible
