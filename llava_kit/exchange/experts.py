"""Mixtures of experts: checkpoints keep each expert's matrices, transformers 5 those of a layer as two stacked tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .tensors import Tensors

# Mixtral's words and Qwen2-MoE's for an expert's three matrices.
_EXPERT = re.compile(r"(.+)\.(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight")
_ROLES = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


class StackedExperts(Tensors):
    """The tensors with those of each layer's experts stacked: `gate_up_proj` [experts, 2 F, D], `down_proj` [experts, D, F].

    Raises `CheckpointError` naming the layer in which an expert lacks a matrix, or has one of another shape.
    """

    def __init__(self, tensors: Tensors):
        self.where, self._tensors = tensors.where, tensors
        self._names: dict[str, str] = {}
        self._stacks: dict[str, list[list[str]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        found: dict[str, dict[tuple[str, int], str]] = {}
        for name, shape in tensors.shapes().items():
            expert = _EXPERT.fullmatch(name)
            if expert:
                found.setdefault(expert[1], {})[_ROLES[expert[3]], int(expert[2])] = name
            else:
                own = name.replace(".block_sparse_moe.", ".mlp.")
                self._names[own], self._shapes[own] = name, shape
        for layer, matrices in found.items():
            self._stack(layer, matrices)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors.dtype(self._names[name] if name in self._names else self._stacks[name][0][0])

    def read(self, name: str) -> Tensor:
        if name in self._names:
            return self._tensors.read(self._names[name])
        return torch.stack([torch.cat([self._tensors.read(part) for part in expert]) for expert in self._stacks[name]])

    def _stack(self, layer: str, matrices: Mapping[tuple[str, int], str]) -> None:
        count = 1 + max(number for _, number in matrices)
        for own, roles in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            wanted = [[(role, number) for role in roles] for number in range(count)]
            lost = [key for expert in wanted for key in expert if key not in matrices]
            if lost:
                raise CheckpointError(f"{self.where}: {layer}: expert {lost[0][1]} of {count} lacks its {lost[0][0]} matrix")
            stacks = [[matrices[key] for key in expert] for expert in wanted]
            shapes = {self._tensors.shapes()[name] for expert in stacks for name in expert}
            if len(shapes) > 1:
                raise CheckpointError(f"{self.where}: {layer}: its experts' matrices have several shapes: {sorted(shapes)}")
            (rows, columns) = next(iter(shapes))
            name = f"{layer}.mlp.experts.{own}"
            self._stacks[name], self._shapes[name] = stacks, (count, rows * len(roles), columns)


def stacked(tensors: Tensors) -> Tensors:
    """The tensors as transformers 5 holds them; the same where there are no experts."""
    return StackedExperts(tensors) if any(_EXPERT.fullmatch(name) for name in tensors.shapes()) else tensors
