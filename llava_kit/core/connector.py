"""Connector: patch features in, rows of the language model's width out. N tiles, P patches a tile, D width of the LM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from .tiles import Grid


class MlpWeights(NamedTuple):
    """Linear, activation, linear: what a kernel needs to do a connector's work. Biases may be None."""

    weight_1: Tensor
    bias_1: Tensor | None
    weight_2: Tensor
    bias_2: Tensor | None
    activation: str


class LinearChain(NamedTuple):
    """Linear maps, first to last, and the name of the activation between them (`gelu`, ...)."""

    maps: tuple[nn.Linear, ...]
    activation: str


class Connector(nn.Module, ABC):
    """Patch features in, visual rows out."""

    spatial: bool = True
    """Rows keep a place in the picture. False for resamplers: their rows have none, so no detail tiles and no unpad."""

    rowwise: bool = False
    """Each output row depends on its own patch alone. Then only the patches that survive unpad are projected."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """[N, P, D_vision] -> [N, P', D]; a rowwise connector takes any leading shape."""

    def output_grid(self, grid: Grid) -> Grid:
        """The grid of a tile's visual rows, given the encoder's patch grid. For resamplers: (1, number of rows)."""
        return grid

    def chain(self) -> LinearChain | None:
        """The connector as linear maps with one activation between them, as checkpoints know it; None if it is no such."""
        return None

    def mlp(self) -> MlpWeights | None:
        """The weights, if a fused kernel may do this connector's job; None keeps `forward`."""
        return None
