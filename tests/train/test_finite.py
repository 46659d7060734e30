"""A number that is none stops the run, keeps the batch, and reaches neither weights nor checkpoints."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from toy import ToyData, draw, make_stage, make_trainer, run

from llava_kit.errors import TrainingError
from llava_kit.train.finite import FiniteWatch, _Verdict


class Poisoned(ToyData):
    """Makes the connector's weight infinite in the batches of step 5, as an overflow would."""

    def __init__(self, model):
        super().__init__(accumulate=2)
        self.model = model

    def batches(self, step):
        if step == 4:
            self.model.poison = True
        return super().batches(step)


def poison(model, value):
    """From the moment it is armed the loss is `value` times what it was."""
    model.poison = False
    model.language_model.head.register_forward_hook(lambda m, a, out: out * value if model.poison else out)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_step_is_not_applied_and_the_batch_is_kept(tmp_path, value):
    trainer = make_trainer(tmp_path, make_stage(steps=12))
    poison(trainer.model, value)
    trainer.data = Poisoned(trainer.model)
    with pytest.raises(TrainingError) as told:
        run(trainer)
    message = str(told.value)
    for piece in ("stage 'toy', step 5", "expected finite", "sample-8-0", "bad_batch_toy_step_5", "learning rate", "clip_norm"):
        assert piece in message
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    assert trainer.checkpoints.steps() == [3]
    folder = tmp_path / "bad_batch_toy_step_5"
    about = json.loads((folder / "step.json").read_text())
    assert about["samples"] == [f"sample-{seed}-{row}" for seed in (8, 9) for row in range(4)]
    kept = load_file(folder / "batch_1.safetensors")
    expected = draw(9, 4)
    assert torch.equal(kept["tiles"], expected.tiles)
    assert torch.equal(kept["plan.ids"], expected.plan.ids)
    assert torch.equal(kept["target_ids"], expected.target_ids)


def test_a_gradient_alone_is_enough(tmp_path):
    trainer = make_trainer(tmp_path, make_stage(steps=3))
    trainer.model.connector.weight.register_hook(lambda gradient: gradient * math.nan)
    before = trainer.model.connector.weight.detach().clone()
    with pytest.raises(TrainingError, match=r"step 1: found loss \d.* gradient norm nan"):
        run(trainer)
    assert torch.equal(trainer.model.connector.weight, before)


def test_after_the_cause_is_gone_the_same_command_goes_on(tmp_path):
    stage = make_stage(steps=8)
    expected = run(make_trainer(tmp_path / "calm", stage))
    trainer = make_trainer(tmp_path / "stormy", stage)
    trainer.model.connector.weight.register_hook(
        lambda gradient: gradient * math.nan if trainer.counters.step == 6 else gradient
    )
    with pytest.raises(TrainingError):
        run(trainer)
    found = run(make_trainer(tmp_path / "stormy", stage))
    assert [(r["step"], r["loss"]) for r in found] == [(r["step"], r["loss"]) for r in expected]


def test_off_the_cpu_the_verdict_is_read_one_step_late_but_before_anything_is_saved(tmp_path):
    """The meta device cannot be read at all: reading it would raise, so a look that does not raise did not read."""
    watch = FiniteWatch(tmp_path, "toy")
    watch.look(1, torch.zeros((), device="meta"), torch.zeros((), device="meta"), [draw(0, 2)])
    watch._pending = 1, _Verdict(torch.tensor([1.0, math.nan])), [draw(0, 2)]
    with pytest.raises(TrainingError, match="step 1"):
        watch.settle()
    watch.settle()  # told once
