"""How a step is spread over devices and what it keeps in memory: recompute, then compile, block by block, in this order.

A sharded engine would come third (it wraps what the other two left), then the root; that is why all three work on the same
`blocks()` of encoder and language model, and why the loop calls nothing but the model. `compile: step` takes the model whole:
everything from tiles to the loss is one graph.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import TrainingError
from ..recipe.schema import Parallel


@dataclass(frozen=True)
class World:
    """The processes that train together. With one, a sum over all of them is the number itself."""

    rank: int = 0
    size: int = 1

    def sum(self, value: int) -> int:
        return value

    def sum_tensor(self, value: Tensor) -> Tensor:
        return value

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def make_world(parallel: Parallel) -> World:
    """The processes that the recipe asks for."""
    if parallel.shard != 1:
        raise TrainingError(
            f"parallel.shard: found {parallel.shard}, but this version of llava_kit trains on one device; write shard: 1"
        )
    return World()


# Batches of fixed shapes differ in the number of tiles, of targets, of tokens, of sequences, in the longest one, and in whether
# rows are blended. What changes for the first time is compiled again, as a variable; torch would stop at eight.
RECOMPILE_LIMIT = 64


def prepare(model: Any, parallel: Parallel, components: Collection[str]) -> list[nn.Module]:
    """Apply recompute and compile to the blocks, or to the model; returns the modules that were changed, for `restore`.

    Names of parameters stay as they are: `forward` is replaced on the block itself instead of wrapping it in another module.
    """
    blocks = list(model.language_model.blocks())
    # Nothing flows back through a frozen encoder, so nothing of it is kept either, and there is nothing to recompute.
    encoder_blocks = list(model.encoder.blocks())
    if parallel.recompute:
        for block in blocks + (encoder_blocks if "encoder" in components else []):
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if parallel.compile == "step":
        torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
        model.compile(fullgraph=True)
        return [*blocks, *encoder_blocks, model]
    if parallel.compile:
        for block in blocks + encoder_blocks:
            block.compile()
    return blocks + encoder_blocks


def restore(modules: Sequence[nn.Module]) -> None:
    """Undo `prepare`, so that the next stage begins with plain blocks."""
    for block in modules:
        block.__dict__.pop("forward", None)
        block._compiled_call_impl = None


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
