"""Packed, padded and single give one loss and one gradient; a batch without pictures runs the same operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def _gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_packed_and_padded_equal_single(model, seatings, inputs):
    results = []
    for batches in ([[[s]] for s in seatings], [[[s] for s in seatings]], [[seatings]], [[seatings[:2], seatings[2:]]]):
        model.zero_grad()
        total = 0.0
        for rows in batches:
            # The same pictures whichever way they are batched: each sample draws its own tiles.
            tiles, *rest = inputs(rows, model)
            tiles = _tiles_of(rows, tiles)
            loss = model(tiles, *rest)
            loss.backward()
            total += loss.detach()
        results.append((total, _gradients(model)))
    single = results[0]
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, single[0], rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, single[1][name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def _tiles_of(rows, tiles):
    """Tiles that depend on the sample alone."""
    at = 0
    for row in rows:
        for seating in row:
            generator = torch.Generator().manual_seed(hash(seating.sample_id) % 1000)
            for grid in seating.grids:
                shape = (grid.num_tiles, *tiles.shape[1:])
                tiles[at : at + grid.num_tiles] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
                at += grid.num_tiles
    return tiles


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_text_only_batch_runs_the_same_operations(model, seatings, inputs):
    seen = []
    for rows in ([[seatings[1]]], [[seatings[0]]]):
        model.zero_grad(set_to_none=True)
        arguments = inputs(rows, model)
        with _Operations() as operations:
            model(*arguments).backward()
        seen.append(operations.names)
        assert all(p.grad is not None for p in model.parameters()), "every parameter must have a gradient on every rank"
    assert seen[0] == seen[1]


def test_hidden_without_targets(model, seatings, inputs):
    tiles, plan, position_ids, _, _ = inputs([seatings], model)
    assert model(tiles, plan, position_ids).shape == (*plan.shape, 32)


def test_the_newline_belongs_to_the_connector(model):
    assert "newline" in model.component_parameters("connector")
    names = [set(model.component_parameters(c)) for c in ("encoder", "connector", "language_model")]
    assert sum(map(len, names)) == len(list(model.parameters()))


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_compiles_as_one_graph(model, seatings, inputs):
    tiles, plan, position_ids, positions, ids = inputs([seatings[1:2], seatings[2:]], model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(tiles, plan, position_ids, positions, ids), model(tiles, plan, position_ids, positions, ids)
    )
