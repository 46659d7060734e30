"""What every encoder, connector and language model must keep, as checks a plugin's author calls in her own tests.

Each check raises AssertionError with a sentence that says what was broken. N tiles, P patches a tile, B rows of S positions,
D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.connector import Connector, MlpWeights
from ..core.encoder import Encoder
from ..core.language_model import LanguageModel, ReorderableCache
from ..core.splice import Sequences
from ..core.tiles import Grid

# Relative to the largest number of the expected result. Two orders of summation differ by a few units in the last place.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}

# By the names of `MlpWeights.activation`.
_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def check_encoder(encoder: Encoder) -> None:
    """Holds an encoder to its contract: shapes, bytes in, empty batches, tiles apart from one another, gradients, blocks."""
    spec = encoder.spec
    device, size = _device(encoder), spec.image_size
    _require(size > 0 and spec.grid.area > 0 and spec.width > 0, f"spec: sizes must be positive, found {spec}")
    _require(len(spec.mean) == len(spec.std) == 3, f"spec: mean and std must have three numbers each, found {spec}")
    _require(all(number > 0 for number in spec.std), f"spec: std must be positive, found {spec.std}")
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    encoder.eval()
    with torch.no_grad():
        features = encoder(tiles)
        expected = (3, spec.grid.area, spec.width)
        _require(
            tuple(features.shape) == expected,
            f"forward: found features of shape {tuple(features.shape)}, expected [N, grid.area, width] = {expected}",
        )
        _require(features.is_floating_point(), f"forward: features must be float numbers, found {features.dtype}")
        _require(bool(features.isfinite().all()), "forward: features must be finite, found nan or infinity")
        _check_empty(encoder, tiles[:0], expected[1:])
        _require(
            torch.equal(features, encoder(tiles)), "forward: the same tiles gave other features; eval() must be deterministic"
        )
        _close(encoder(tiles[1:2]), features[1:2], "forward: a tile's features must not depend on the other tiles of the batch")
        _require(
            not torch.allclose(features[0], features[1]),
            "forward: different tiles gave the same features; are pixels looked at?",
        )
    _check_gradients(encoder, lambda: encoder(tiles).square().sum(), "forward")
    _check_blocks(encoder)


def check_connector(connector: Connector, *, vision_width: int, text_width: int, grid: Grid) -> None:
    """Holds a connector to its contract: shapes, what `rowwise`, `spatial`, `output_grid` and `mlp` promise, gradients."""
    parameter = next(connector.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, grid.area, vision_width, generator=generator).to(_device(connector), dtype)
    side = connector.output_grid(grid)
    connector.eval()
    with torch.no_grad():
        rows = connector(features)
        expected = (3, side.area, text_width)
        _require(
            tuple(rows.shape) == expected,
            f"forward: found rows of shape {tuple(rows.shape)}, expected [N, output_grid(grid).area, D] = {expected}",
        )
        _require(rows.dtype == dtype, f"forward: found rows of {rows.dtype} for features of {dtype}")
        _check_empty(connector, features[:0], expected[1:])
        _require(torch.equal(rows, connector(features)), "forward: the same features gave other rows in eval()")
        _close(connector(features[1:2]), rows[1:2], "forward: a tile's rows must not depend on the other tiles of the batch")
        if connector.rowwise:
            _require(side == grid, f"rowwise: one row a patch keeps the grid, but output_grid made {grid} into {side}")
            some = features.flatten(0, 1)[1::2]
            _close(connector(some), rows.flatten(0, 1)[1::2], "rowwise: rows of some patches alone must equal those among all")
        _require(
            connector.spatial or side.rows == 1,
            f"spatial: rows without a place in the picture have the grid (1, n), found {side}",
        )
        weights = connector.mlp()
        if weights is not None:
            _require(connector.rowwise, "mlp: a connector that answers mlp() must be rowwise")
            _close(_apply_mlp(weights, features), rows, "mlp: linear, activation, linear of mlp() must equal forward")
    if parameter is not None:
        _check_gradients(connector, lambda: connector(features).square().sum(), "forward")
    inputs = features.clone().requires_grad_()
    connector(inputs).square().sum().backward()
    connector.zero_grad(set_to_none=True)
    _require(inputs.grad is not None and bool((inputs.grad != 0).any()), "forward: no gradient reaches the features")


def check_language_model(model: LanguageModel, *, lengths: Sequence[int] = (5, 3, 11), packing: bool = True) -> None:
    """Holds a language model to its contract: packed = padded = single, cached = uncached, gradients, head and embedding.

    `lengths`: of the three or more sequences it is tried with; make one longer than a sliding window, where there is one.
    `packing=False` for a model that refuses sequences that share a row.
    """
    _require(len(lengths) >= 3 and min(lengths) > 1, "lengths: give three or more, each greater than 1")
    _check_head(model)
    model.eval()
    trial = _Trial(model, lengths)
    trial.check_rows()
    trial.check_batches(packing)
    trial.check_cache()
    _check_blocks(model)


class _Trial:
    """Sequences of rows, each with the hidden states that the model gives it alone: what every other way must equal."""

    def __init__(self, model: LanguageModel, lengths: Sequence[int]):
        self.model = model
        self.device, self.dtype = model.embedding.device, model.embedding.dtype
        generator = torch.Generator().manual_seed(0)
        ids = [torch.randint(0, model.embedding.shape[0], (length,), generator=generator) for length in lengths]
        # Half a token, half noise: as visual rows do, these belong to no token of the vocabulary.
        table = model.embedding.detach()
        spread = float(table.float().std())
        self.rows = [
            (table[i.to(self.device)] + spread * torch.randn(len(i), model.width, generator=generator).to(table)) for i in ids
        ]
        with torch.no_grad():
            self.alone = [model(rows[None], self.positions([len(rows)])).squeeze(0) for rows in self.rows]

    def positions(self, lengths: Sequence[int], start: int = 0) -> Tensor:
        """int64 [1, sum of lengths], from `start` in each."""
        return torch.cat([torch.arange(start, start + length) for length in lengths])[None].to(self.device)

    def check_rows(self) -> None:
        model, rows, alone = self.model, self.rows[-1], self.alone[-1]
        _require(
            tuple(alone.shape) == tuple(rows.shape),
            f"forward: found {tuple(alone.shape)}, expected [S, D] = {tuple(rows.shape)}",
        )
        _require(bool(alone.isfinite().all()), "forward: hidden states must be finite, found nan or infinity")
        changed = rows.clone()
        changed[-1] += changed[0] + 1
        with torch.no_grad():
            seen = model(changed[None], self.positions([len(rows)])).squeeze(0)
            again = model(rows[None], self.positions([len(rows)])).squeeze(0)
        _require(torch.equal(again, alone), "forward: the same rows gave other hidden states; eval() must be deterministic")
        _require(
            not torch.allclose(seen[-1], alone[-1]), "forward: another row gave the same hidden state; are rows looked at?"
        )
        _close(seen[:-1], alone[:-1], "forward: a position sees one that comes after it; attention must be causal")

    def check_batches(self, packing: bool) -> None:
        """One sequence a row with padding, then all in one row."""
        longest = max(len(rows) for rows in self.rows)
        self._check_layout([[i] for i in range(len(self.rows))], longest + 2, "padded")
        if packing:
            first, *rest = range(len(self.rows))
            total = sum(len(self.rows[i]) for i in rest)
            self._check_layout([[first], rest], max(total, len(self.rows[first])) + 3, "packed")

    def _check_layout(self, layout: Sequence[Sequence[int]], length: int, what: str) -> None:
        inputs = [rows.clone().requires_grad_() for rows in self.rows]
        batch, positions, ends = [], [], [0]
        for members in layout:
            lengths = [len(inputs[i]) for i in members]
            padding = length - sum(lengths)
            batch.append(torch.cat([*(inputs[i] for i in members), inputs[0].new_ones(padding, self.model.width)]))
            positions.append(self.positions([*lengths, padding]))
            ends += [ends[-1] + end for end in accumulate([*lengths, padding])]
        offsets = torch.tensor(ends, dtype=torch.int32, device=self.device)
        longest = max(end - start for start, end in pairwise(ends))
        sequences = Sequences(offsets, tuple(ends), longest, packed=any(len(members) > 1 for members in layout))
        hidden = self.model(torch.stack(batch), torch.cat(positions), sequences=sequences)
        for row, members in enumerate(layout):
            start = 0
            for i in members:
                found = hidden[row, start : start + len(inputs[i])]
                _close(found, self.alone[i], f"{what}: a sequence must have the hidden states that it has alone")
                start += len(inputs[i])
                self._check_gradient(found, inputs[i], what)

    def _check_gradient(self, found: Tensor, rows: Tensor, what: str) -> None:
        """The gradient of a sequence's rows is what it is when the sequence is alone."""
        weights = torch.linspace(-1, 1, found.numel(), device=self.device).view_as(found).to(found)
        (gradient,) = torch.autograd.grad((found * weights).sum(), rows, retain_graph=True)
        alone = rows.detach().clone().requires_grad_()
        hidden = self.model(alone[None], self.positions([len(rows)])).squeeze(0)
        (expected,) = torch.autograd.grad((hidden * weights).sum(), alone)
        _require(bool((gradient != 0).any()), f"{what}: no gradient reaches the rows")
        _close(gradient, expected, f"{what}: the gradient of a sequence's rows must be what it is alone")

    @torch.no_grad()
    def check_cache(self) -> None:
        model, rows, alone = self.model, self.rows[-1], self.alone[-1]
        cache = model.new_cache(1, len(rows))
        # All at once would be a prefill; here it is followed by steps of one, of two, and of one row.
        cuts = sorted({0, max(1, len(rows) - 4), max(1, len(rows) - 3), len(rows) - 1, len(rows)})
        found = [
            model(rows[None, start:end], self.positions([end - start], start), cache=cache).squeeze(0)
            for start, end in pairwise(cuts)
        ]
        _close(torch.cat(found), alone, "cache: hidden states taken step by step must equal those of one forward pass")
        self._check_left_padding()
        if isinstance(model.new_cache(1, 1), ReorderableCache):
            self._check_reordering()

    def _check_left_padding(self) -> None:
        """Rows of unequal length, padded on the left, prefilled but for the last two positions, which follow one by one."""
        model, longest = self.model, max(len(rows) for rows in self.rows)
        padding = torch.tensor([longest - len(rows) for rows in self.rows], device=self.device)
        batch = torch.stack([F.pad(rows, (0, 0, longest - len(rows), 0), value=1.0) for rows in self.rows])
        positions = (torch.arange(longest, device=self.device)[None] - padding[:, None]).clamp(min=0)
        cache = model.new_cache(len(self.rows), longest, padding)
        found = [
            model(batch[:, start:end], positions[:, start:end], cache=cache)
            for start, end in ((0, longest - 2), (longest - 2, longest - 1), (longest - 1, longest))
        ]
        hidden = torch.cat(found, dim=1)
        for row, alone in zip(hidden, self.alone):
            _close(row[-len(alone) :], alone, "left padding: a row must have the hidden states that it has alone")

    def _check_reordering(self) -> None:
        """Beams of two prompts, padded on the left: one row each becomes two, then beams change places."""
        model, longest = self.model, max(len(rows) for rows in self.rows)
        first, second = self.rows[:2]
        padding = torch.tensor([longest - len(first) + 1, longest - len(second) + 1], device=self.device)
        prompts = torch.stack([F.pad(rows[:-1], (0, 0, longest - len(rows) + 1, 0), value=1.0) for rows in (first, second)])
        cache = model.new_cache(2, longest + 2, padding)
        start = torch.arange(longest, device=self.device)[None] - padding[:, None]
        model(prompts, start.clamp(min=0), cache=cache)
        cache.reorder(torch.tensor([1, 1, 0, 0], device=self.device))
        positions = torch.tensor([[len(rows) - 1] for rows in (second, second, first, first)], device=self.device)
        ends = torch.stack([second[-1:], first[:1], second[:1], first[-1:]])
        model(ends, positions, cache=cache)
        cache.reorder(torch.tensor([1, 0, 3, 3], device=self.device), start=longest)
        whole = [torch.cat([rows[:-1], end, rows[:1]]) for rows, end in zip((second, second, first, first), ends[[1, 0, 3, 3]])]
        found = model(torch.stack([rows[-1:] for rows in whole]), positions + 1, cache=cache)
        for row, rows in zip(found, whole):
            alone = model(rows[None], self.positions([len(rows)])).squeeze(0)
            _close(row, alone[-1:], "cache: after `reorder` a row must go on from the row that it was told to go on from")


def _check_head(model: LanguageModel) -> None:
    parameters = {id(parameter) for parameter in model.parameters()}
    for name, tensor in (("embedding", model.embedding), ("head", model.head)):
        _require(id(tensor) in parameters, f"{name}: must be one of the model's parameters")
        _require(
            tensor.ndim == 2 and tensor.shape[1] == model.width,
            f"{name}: found shape {tuple(tensor.shape)}, expected [vocab, width] = [vocab, {model.width}]",
        )
    vocab = model.head.shape[0]
    _require(
        model.embedding.shape[0] == vocab,
        f"head: found {vocab} tokens, the embedding has {model.embedding.shape[0]}; must agree",
    )
    bias = model.head_bias
    _require(bias is None or tuple(bias.shape) == (vocab,), f"head_bias: expected shape [{vocab}]")
    logits = model.logits(torch.ones(2, 3, model.width).to(model.head))
    _require(tuple(logits.shape) == (2, 3, vocab), f"logits: found shape {tuple(logits.shape)}, expected [2, 3, {vocab}]")


def _check_empty(module: nn.Module, inputs: Tensor, expected: tuple[int, ...]) -> None:
    sentence = f"forward: an empty batch must give [0, {expected[0]}, {expected[1]}]"
    try:
        found = tuple(module(inputs).shape)
    except Exception as error:
        raise AssertionError(f"{sentence}, but raises {type(error).__name__}: {error}") from error
    _require(found == (0, *expected), f"{sentence}, found {found}")


def _check_gradients(module: nn.Module, make_loss, what: str) -> None:
    """Every parameter that trains gets a gradient; one that never does would be sharded, stored and decayed for nothing."""
    module.zero_grad(set_to_none=True)
    with torch.enable_grad():
        make_loss().backward()
    idle = [name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None]
    module.zero_grad(set_to_none=True)
    _require(not idle, f"{what}: no gradient reaches {', '.join(idle[:5])}{' ...' if len(idle) > 5 else ''}")


def _check_blocks(module) -> None:
    blocks = list(module.blocks())
    inside = {id(child) for child in module.modules()}
    _require(all(id(block) in inside for block in blocks), "blocks: each must be a submodule of the part itself")
    _require(len({id(block) for block in blocks}) == len(blocks), "blocks: the same block is named twice")


def _apply_mlp(weights: MlpWeights, features: Tensor) -> Tensor:
    _require(
        weights.activation in _ACTIVATIONS,
        f"mlp: found activation {weights.activation!r}, expected one of {list(_ACTIVATIONS)}",
    )
    hidden = _ACTIVATIONS[weights.activation](F.linear(features, weights.weight_1, weights.bias_1))
    return F.linear(hidden, weights.weight_2, weights.bias_2)


def _device(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    _require(tuple(found.shape) == tuple(expected.shape), f"{what} (shapes {tuple(found.shape)}, {tuple(expected.shape)})")
    if not expected.numel():
        return
    scale = max(float(expected.detach().abs().max()), 1e-6)
    worst = float((found.detach() - expected.detach()).abs().max())
    # Not `worst > limit`: a nan must fail too.
    _require(
        worst <= _TOLERANCE[expected.dtype] * scale, f"{what} (largest difference {worst:.2g}, largest number {scale:.2g})"
    )


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)
