"""Delta weights: a checkpoint that holds the difference to its base, as LLaVA v0 was given away under LLaMA's licence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, shorten
from .tensors import Tensors

# The matrices whose rows are tokens: added where both have a row, since tokens were added to the tokenizer.
_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
_FINAL_NORM = "model.norm.weight"
# The scales of a trained final norm are around one and above; their change by fine-tuning is a few hundredths.
_SMALL_NORM = 0.1
# Buffers that old transformers stored and nobody reads.
_BUFFER = "rotary_emb.inv_freq"


class SummedTensors(Tensors):
    """The language model's tensors: difference plus base, in the difference's type, as the original adds them (apply_delta.py).

    Raises `CheckpointError` when the base has other tensors or shapes, and when what is given as difference is none.
    """

    def __init__(self, delta: Tensors, base: Tensors):
        self.where = f"{delta.where} added to {base.where}"
        self._delta, self._base = delta, base
        wrong = _misfits(delta.shapes(), base.shapes())
        if wrong:
            raise CheckpointError(f"{delta.where}: is no difference to {base.where}: {shorten(sorted(wrong))}")
        if _is_whole(delta, base):
            raise CheckpointError(
                f"{delta.where}: holds whole weights, not the difference to {base.where} (its final norm is that of the base); "
                "leave out `base`"
            )

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._delta.shapes()

    def dtype(self, name: str) -> torch.dtype:
        return self._delta.dtype(name)

    def read(self, name: str) -> Tensor:
        delta = self._delta.read(name)
        if name not in self._base:
            return delta
        base = self._base.read(name).to(delta.dtype)
        total = delta.float()
        total[: base.shape[0]] += base.float()
        return total.to(delta.dtype)


def looks_like_difference(tensors: Tensors) -> bool:
    """Whether a language model's final norm is nearly zero, which in whole weights it never is."""
    return _FINAL_NORM in tensors and tensors.read(_FINAL_NORM).float().mean().abs().item() < _SMALL_NORM


def _misfits(delta: Mapping[str, tuple[int, ...]], base: Mapping[str, tuple[int, ...]]) -> list[str]:
    wrong = []
    for name, shape in delta.items():
        other = base.get(name)
        if other is None:
            wrong += [] if name.endswith(_BUFFER) else [f"tensor {name!r} is not in the base"]
        elif name in _BY_TOKEN:
            if shape[1:] != other[1:] or shape[0] < other[0]:
                wrong.append(
                    f"tensor {name!r}: found {shape}, the base has {other}; expected as many rows or more, equally wide"
                )
        elif shape != other:
            wrong.append(f"tensor {name!r}: found shape {shape}, the base has {other}")
    wrong += [f"tensor {name!r} of the base is not in it" for name in base if name not in delta and not name.endswith(_BUFFER)]
    return wrong


def _is_whole(delta: Tensors, base: Tensors) -> bool:
    if _FINAL_NORM not in delta:
        return False
    found, other = delta.read(_FINAL_NORM).float(), base.read(_FINAL_NORM).float()
    return bool((found - other).norm() < found.norm())
