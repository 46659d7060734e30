"""Groups, rates and the schedule's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import ToyModel, make_stage, make_trainer, run
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from llava_kit.recipe.schema import Optimizer, Schedule, Train
from llava_kit.train.optim import Optimizers, num_warmup_steps, rate, set_trainable


@pytest.mark.parametrize(("num_steps", "warmup"), [(2181, 66), (5198, 156), (100, 3), (1, 1)])
def test_warmup_is_rounded_up_as_in_the_original_recipes(num_steps, warmup):
    assert num_warmup_steps(Schedule(warmup=0.03), num_steps) == warmup


@pytest.mark.parametrize("num_steps", [2181, 5198])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_schedule_is_that_of_the_hugging_face_trainer_at_every_step(num_steps, kind):
    schedule = Schedule(type=kind, warmup=0.03)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    make = get_cosine_schedule_with_warmup if kind == "cosine" else get_linear_schedule_with_warmup
    theirs = make(optimizer, num_warmup_steps(schedule, num_steps), num_steps)
    for step in range(num_steps):
        assert rate(schedule, step, num_steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_final_and_constant():
    schedule = Schedule(type="cosine", warmup_steps=50, final=0.05)
    assert [rate(schedule, step, 1000) for step in (0, 25, 50)] == [0.0, 0.5, 1.0]
    assert rate(schedule, 525, 1000) == pytest.approx(0.525)
    assert rate(schedule, 1000, 1000) == pytest.approx(0.05)
    assert rate(Schedule(type="constant"), 999, 1000) == 1.0
    assert rate(Schedule(type="linear"), 0, 10) == 1.0


def train_block(**components):
    return Train.model_validate(components).components()


def test_each_component_has_its_own_rate_and_decay_and_norms_have_none():
    model = ToyModel()
    train = train_block(connector={"lr": 1e-2}, language_model={"lr": 1e-3, "weight_decay": 0.3})
    set_trainable(model, train)
    rows = Optimizers(model, train, Optimizer(weight_decay=0.1)).describe()
    told = [(r["component"], r["part"], r["tensors"], r["trained"], r["lr"], r["weight_decay"]) for r in rows]
    assert told == [
        ("encoder", "frozen", 0, 0, None, None),
        ("connector", "weights", 1, 64, 1e-2, 0.1),
        ("connector", "norms and biases", 2, 16, 1e-2, 0.0),
        ("language_model", "weights", 4, 304, 1e-3, 0.3),
        ("language_model", "norms and biases", 6, 48, 1e-3, 0.0),
    ]
    assert rows[0]["total"] == sum(p.numel() for p in model.encoder.parameters())


def test_muon_steps_the_matrices_of_blocks_and_adamw_the_rest():
    model = ToyModel()
    train = train_block(encoder={"lr": 1e-3}, connector={"lr": 1e-3}, language_model={"lr": 1e-3})
    settings = Optimizer(type="muon", weight_decay=0.05, matrix_lr_scale=2.0)
    optimizers = Optimizers(model, train, settings)
    rows = [(r["component"], r["part"], r["trained"], r["lr"]) for r in optimizers.describe() if r["optimizer"] == "muon"]
    assert rows == [("encoder", "matrices of blocks", 64, 2e-3), ("language_model", "matrices of blocks", 128, 2e-3)]
    weights = next(r for r in optimizers.describe() if r["component"] == "language_model" and r["part"] == "weights")
    assert (weights["optimizer"], weights["tensors"]) == ("adamw", 2)  # token embedding and head
    assert optimizers.rates()["language_model/matrices of blocks"] == 2e-3
    assert optimizers.rates()["connector"] == 1e-3


def test_every_parameter_that_trains_is_in_exactly_one_group():
    model = ToyModel()
    train = train_block(encoder={"lr": 1e-3}, connector={"lr": 1e-3}, language_model={"lr": 1e-3})
    for kind in ("adamw", "muon"):
        rows = Optimizers(model, train, Optimizer(type=kind)).describe()
        assert sum(r["trained"] for r in rows) == sum(p.numel() for p in model.parameters())


def test_frozen_parts_do_not_move_and_trained_ones_do(tmp_path):
    trainer = make_trainer(tmp_path, make_stage(steps=3, train={"connector": {"lr": 1e-2}}))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    run(trainer)
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"connector.weight", "connector.bias", "newline"}
    assert not trainer.model.encoder.training
    assert trainer.model.connector.training


def test_a_rate_twice_as_large_moves_twice_as_far(tmp_path):
    """AdamW's first update is the rate times a sign, so distances show the rate that is really used."""
    train = {"connector": {"lr": 2e-3}, "language_model": {"lr": 1e-3}}
    trainer = make_trainer(tmp_path, make_stage(steps=1, train=train, schedule={"type": "constant"}))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    run(trainer)
    after = trainer.model.state_dict()
    assert (after["connector.bias"] - before["connector.bias"]).abs().max() == pytest.approx(2e-3, rel=1e-3)
    name = "language_model.head.weight"
    assert (after[name] - before[name]).abs().max() == pytest.approx(1e-3, rel=1e-3)
    assert torch.equal(after["encoder.patch.weight"], before["encoder.patch.weight"])
