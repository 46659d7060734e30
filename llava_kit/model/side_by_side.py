"""Several encoders as one: the same tiles through each, their features side by side. N tiles, P patches a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.encoder import Encoder
from ..errors import LlavaKitError


class SideBySideEncoder(Encoder):
    """Features of several encoders, concatenated patch by patch.

    Tiles are cut at the largest of their sizes and shrunk on the device for the others; features of another patch grid than
    the first encoder's are resampled to it (bilinear), as in the mixtures of CLIP with DINOv2 of the LLaVA line.
    """

    def __init__(self, encoders: Sequence[Encoder]):
        super().__init__()
        if len(encoders) < 2:
            raise LlavaKitError("encoders side by side: expected at least two, found one; write it without the list")
        self.encoders = nn.ModuleList(encoders)
        first = encoders[0].spec
        self.spec = replace(
            first,
            image_size=max(encoder.spec.image_size for encoder in encoders),
            width=sum(encoder.spec.width for encoder in encoders),
        )
        self.unused_parameters = sum(encoder.unused_parameters for encoder in encoders)

    @property
    def _parts(self) -> list[Encoder]:
        return [encoder for encoder in self.encoders if isinstance(encoder, Encoder)]

    def forward(self, tiles: Tensor) -> Tensor:
        features = []
        for encoder in self._parts:
            side = encoder.spec.image_size
            seen = tiles
            if side != self.spec.image_size:
                # In float: the antialiased kernel for bytes exists on the CPU alone.
                seen = F.interpolate(tiles.float(), (side, side), mode="bicubic", antialias=True)
                seen = seen.round_().clamp_(0, 255).to(torch.uint8)
            found = encoder(seen)
            if encoder.spec.grid != self.spec.grid:
                grid = encoder.spec.grid
                planes = found.transpose(1, 2).unflatten(2, (grid.rows, grid.cols))
                planes = F.interpolate(planes, tuple(self.spec.grid), mode="bilinear", align_corners=False)
                found = planes.flatten(2).transpose(1, 2)
            features.append(found)
        return torch.cat(features, dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        return [block for encoder in self._parts for block in encoder.blocks()]
