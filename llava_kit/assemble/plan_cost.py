"""What a stage costs: operations of a sample and bytes on a device, by published rules of thumb and plain counting.

S positions of a sample, N parameters of a component, L blocks, D width.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ..model.loss import CHUNK_LOGITS
from ..recipe.schema import COMPONENTS, Stage
from .plan_size import ComponentSize, ModelSize

GIB = 1 << 30


@dataclass(frozen=True)
class SampleShape:
    """A sample as the model sees it; averages, too. `visual_rows` are those projected, `targets` what is supervised."""

    tiles: float
    visual_rows: float
    positions: float
    targets: float
    positions_squared: float


@dataclass(frozen=True)
class Flops:
    """Operations of one sample, forward and backward, by component; `head` apart. `recomputed` comes on top (see `flops`)."""

    encoder: float
    connector: float
    language_model: float
    head: float
    recomputed: float

    @property
    def total(self) -> float:
        """What the model needs, whether or not something is computed twice: the numerator of model-FLOPs utilisation."""
        return self.encoder + self.connector + self.language_model + self.head

    @property
    def executed(self) -> float:
        return self.total + self.recomputed


def passes(trained: Collection[str]) -> dict[str, int]:
    """Times a component's matrices are multiplied, 2 operations a parameter and row each time: 1, 2 or 3.

    The rule of 2N and 6N is that of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): 2N forward, 2N for the gradient of the
    input, 2N for that of the weights. A frozen component with nothing trained before it is run forward only (2N); one that a
    gradient must pass to reach what trains before it takes 4N; a trained one 6N. The first trained component of the chain has
    no use for the gradient of its own input; that part of one matrix is not subtracted.
    """
    result, flows = {}, False
    for name in COMPONENTS:
        flows = flows or name in trained
        result[name] = 3 if name in trained else 2 if flows else 1
    return result


def flops(size: ModelSize, sample: SampleShape, trained: Collection[str], recompute: bool) -> Flops:
    """Operations of one sample.

    Matrices: see `passes`; the embedding table is looked up, not multiplied, and the head meets supervised rows alone.
    Attention forward: 4 S^2 D a block (scores and weighted sum, 2 S^2 D each: Narayanan et al. 2021, arXiv 2104.04473,
    appendix), half of it where it is causal. It has no weights: once gradients pass, backward costs twice as much as forward.
    Class tokens, newlines in the connector, norms and activations are left out (below 1 %).
    `recompute`: the blocks that gradients pass through go forward once more (an encoder only where it trains).
    """
    times = passes(trained)
    encoder, connector, language_model = (size.components[name] for name in COMPONENTS)
    attends = {name: 1 if times[name] == 1 else 3 for name in COMPONENTS}
    patches = sample.tiles * size.patches
    encoder_matrices = 2 * encoder.parameters * patches
    encoder_attention = 4 * encoder.attention * size.patches * patches
    language_matrices = 2 * size.language_body * sample.positions
    language_attention = 2 * language_model.attention * sample.positions_squared
    rows = sample.visual_rows if size.rowwise else sample.tiles * size.side.area
    recomputed = 0.0
    if recompute:
        recomputed = (language_matrices + language_attention) * (times["language_model"] > 1)
        recomputed += (encoder_matrices + encoder_attention) * ("encoder" in trained)
    return Flops(
        encoder=encoder_matrices * times["encoder"] + encoder_attention * attends["encoder"],
        connector=2 * connector.parameters * rows * times["connector"],
        language_model=language_matrices * times["language_model"] + language_attention * attends["language_model"],
        head=2 * size.vocab * size.width * sample.targets * times["language_model"],
        recomputed=recomputed,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the highest point of a step."""

    parameters: float
    gradients: float
    optimizer: float
    working_copies: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.working_copies + self.activations + self.logits


def memory(size: ModelSize, stage: Stage, num_gpus: int, samples: float, sample: SampleShape) -> Memory:
    """Bytes on each of `num_gpus` devices that share the states, FSDP2-style, with `samples` of shape `sample` at once.

    Parameters, gradients and the optimizer's states are cut into `num_gpus` parts (Rajbhandari et al. 2020, arXiv 1910.02054,
    stage 3): the stored parameters, a gradient of the same dtype for each trained one, and AdamW's two moments of the same
    dtype (Muon keeps one for a matrix of a block). The rest: `_working_copies`, `_activations`, `_logits`. Buffers of the
    communication library, fragmentation and the CUDA context (0.5 GiB) are not counted.
    """
    trained, recompute = set(stage.train.components()), stage.parallel.recompute
    compute_bytes = 2 if stage.precision == "bfloat16" else 4
    parts = size.components.values()
    gradients = sum(part.stored_bytes for part in parts if part.name in trained)
    states = sum(_optimizer_bytes(part, stage.optimizer.type) for part in parts if part.name in trained)
    return Memory(
        parameters=sum(part.stored_bytes for part in parts) / num_gpus,
        gradients=gradients / num_gpus,
        optimizer=states / num_gpus,
        working_copies=_working_copies(size, trained, num_gpus, compute_bytes, recompute),
        activations=_activations(size, trained, num_gpus, compute_bytes, samples, sample, recompute),
        logits=_logits(size, compute_bytes, samples * sample.targets),
    )


def _optimizer_bytes(part: ComponentSize, optimizer: str) -> float:
    moments = 2 * part.parameters - (part.matrices if optimizer == "muon" else 0)
    return moments * part.stored_bytes / part.parameters


def _working_copies(size: ModelSize, trained: set[str], num_gpus: int, compute_bytes: int, recompute: bool) -> float:
    """Parameters in the dtype of the computation.

    On several devices (torch.distributed.fsdp.fully_shard): the root unit (all that is in no block) stays gathered, of the
    blocks the one at work and the next; their gradients are whole until they are scattered: the root's and one block's.
    On one device with bfloat16 (autocast): a copy of every float32 weight that trains lives until the forward pass ends;
    without recompute also of the frozen ones that a gradient passes, since the backward pass needs them.
    """
    parts = size.components
    if num_gpus > 1:
        root = sum(part.outside_blocks for part in parts.values())
        root_gradients = sum(parts[name].outside_blocks for name in trained)
        block = max(part.largest_block for part in parts.values())
        trained_block = max(parts[name].largest_block for name in trained)
        return compute_bytes * (root + 2 * block + root_gradients + trained_block)
    times = passes(trained)
    copied = [p for p in parts.values() if p.name in trained or (not recompute and times[p.name] > 1)]
    return sum(compute_bytes * p.parameters for p in copied if p.stored_bytes > compute_bytes * p.parameters)


def _activations(
    size: ModelSize,
    trained: set[str],
    num_gpus: int,
    compute_bytes: int,
    samples: float,
    sample: SampleShape,
    recompute: bool,
) -> float:
    """What is kept for the backward pass of `samples` samples.

    With recompute (Chen et al. 2016, arXiv 1604.06174) a block keeps its input alone, and one block at a time is whole again;
    a component that no gradient passes has one block's worth in the air, too. What a block keeps is measured, see
    `ComponentSize.kept_bytes`; float32 doubles it. Under autocast on one device the rows between the blocks stay float32.
    The input rows and the final hidden states come on top.
    """
    times = passes(trained)
    scale = compute_bytes / 2
    row_bytes = size.width * (compute_bytes if num_gpus > 1 else 4)
    positions = samples * sample.positions
    rows = samples * (sample.visual_rows if size.rowwise else sample.tiles * size.side.area)
    units = {"encoder": samples * sample.tiles, "connector": rows, "language_model": positions}
    inputs = {
        "encoder": units["encoder"] * size.patches * size.encoder_width * compute_bytes,
        "connector": 0.0,
        "language_model": positions * row_bytes,
    }
    total = 2 * positions * row_bytes
    for name in COMPONENTS:
        part = size.components[name]
        kept = units[name] * part.kept_bytes * scale
        one_block = kept / max(1, part.num_blocks)
        checkpointed = recompute and part.num_blocks and (name == "language_model" or name in trained)
        if times[name] == 1:
            total += one_block
        elif checkpointed:
            total += part.num_blocks * inputs[name] + one_block
        else:
            total += kept
    return total


def _logits(size: ModelSize, compute_bytes: int, targets: float) -> float:
    """Logits of the supervised rows, in the chunks of `model.loss`: as computed, in float32, their softmax, its gradient."""
    chunk = max(1, CHUNK_LOGITS // size.vocab)
    return min(math.ceil(targets), chunk) * size.vocab * (compute_bytes + 3 * 4)
