"""Encoder: pixel tiles in, patch features out. N tiles, P patches a tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .published import Published
from .tiles import EncoderSpec


class Encoder(nn.Module, ABC):
    """Pixel tiles in, patch features out. A class token, where the tower has one, is not among the patches unless asked for."""

    spec: EncoderSpec

    unused_parameters: int = 0
    """Parameters of the checkpoint's tower behind the deepest feature layer, which were not built (the planner tells them)."""

    @abstractmethod
    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> [N, P, spec.width], patches row-major. N may be any number, also 0."""

    def blocks(self) -> Sequence[nn.Module]:
        """The units for sharding, recompute and compile; none by default."""
        return ()

    def published(self) -> Published | None:
        """How the encoder looks in the words of transformers; None where transformers has no such model."""
        return None

    def normalise(self, tiles: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 [N, 3, H, W] -> `dtype` [N, 3, H, W], normalised by `spec.mean` and `spec.std`.

        Tiles cross to the device as bytes (a quarter of float32) and become numbers there.
        """
        # In one step (`addcmul`, or bytes times a scale) a CPU takes twice the time: it then converts number by number.
        pixels = tiles.to(torch.float32, copy=True)
        # Colour by colour, with plain numbers: a tensor of three would be copied to the device, and the host wait for that.
        for plane, mean, std in zip(pixels.unbind(1), self.spec.mean, self.spec.std, strict=True):
            plane.mul_(1 / (255 * std)).add_(-mean / std)
        return pixels.to(dtype)
