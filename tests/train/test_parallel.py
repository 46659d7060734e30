"""Recompute and compile change memory and speed, not the numbers and not the names."""

from __future__ import annotations

import copy

import pytest
import torch
from toy import ToyModel, draw

from llava_kit.errors import TrainingError
from llava_kit.recipe.schema import Parallel
from llava_kit.train.parallel import make_world, prepare, restore

ALL = ("encoder", "connector", "language_model")


def loss_and_gradients(model: ToyModel) -> dict[str, torch.Tensor]:
    batch = draw(1, 4)
    torch.manual_seed(0)
    loss = model(batch.tiles, batch.plan, batch.position_ids, batch.target_positions, batch.target_ids)
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def test_recompute_gives_the_same_numbers_and_runs_the_blocks_twice():
    model = ToyModel()
    twin = copy.deepcopy(model)
    calls = []
    twin.language_model.layers[0].linear.register_forward_hook(lambda *_: calls.append(1))
    prepare(twin, Parallel(recompute=True), ALL)
    assert twin.state_dict().keys() == model.state_dict().keys()
    expected, found = loss_and_gradients(model), loss_and_gradients(twin)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name  # dropout is drawn again as it was
    assert len(calls) == 2


def test_a_frozen_encoder_is_not_recomputed():
    model = ToyModel().train()
    prepare(model, Parallel(recompute=True), ("connector",))
    assert "forward" not in model.encoder.layers[0].__dict__
    assert "forward" in model.language_model.layers[0].__dict__


def test_compile_is_asked_of_each_block_after_recompute(monkeypatch):
    order = []
    model = ToyModel()
    for block in model.language_model.layers:
        monkeypatch.setattr(block, "compile", lambda block=block: order.append("forward" in block.__dict__))
    for block in model.encoder.layers:
        monkeypatch.setattr(block, "compile", lambda: order.append(True))
    prepare(model, Parallel(recompute=True, compile=True), ALL)
    assert order == [True, True, True]


def test_restore_leaves_plain_blocks():
    model = ToyModel()
    blocks = prepare(model, Parallel(recompute=True), ALL)
    restore(blocks)
    assert all("forward" not in block.__dict__ for block in blocks)
    assert loss_and_gradients(model)["loss"] > 0


def test_more_than_one_device_is_refused():
    with pytest.raises(TrainingError, match=r"parallel\.shard: found 8"):
        make_world(Parallel(shard=8))
    assert make_world(Parallel()).is_main
