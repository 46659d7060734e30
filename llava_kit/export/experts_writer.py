"""Mixtures of experts go out one expert at a time, as every checkpoint and engine has them; transformers 5 stacks them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

_STACK = re.compile(r"(.+)\.mlp\.experts\.(gate_up_proj|down_proj)")
# The three matrices by each family's names: gate, up, down.
_MIXTRAL = tuple(f"block_sparse_moe.experts.{{}}.{name}.weight" for name in ("w1", "w3", "w2"))
_OTHERS = tuple(f"mlp.experts.{{}}.{name}_proj.weight" for name in ("gate", "up", "down"))


def unstacked(name: str, tensor: Tensor, model_type: str) -> Iterator[tuple[str, Tensor]]:
    """A tensor of the language model by the names of checkpoints: itself, or the matrices of each expert in it (views)."""
    mixtral = model_type == "mixtral"
    found = _STACK.fullmatch(name)
    if found is None:
        yield name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if mixtral else name, tensor
        return
    gate, up, down = (f"{found[1]}.{form}" for form in (_MIXTRAL if mixtral else _OTHERS))
    for number, matrix in enumerate(tensor):
        if found[2] == "down_proj":
            yield down.format(number), matrix
        else:  # [2 F, D]
            first, second = matrix.chunk(2)
            yield gate.format(number), first
            yield up.format(number), second
