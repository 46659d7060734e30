"""The step is the same however it is cut; what is asked for is done; what is told is what happened."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from toy import Batch, Plan, Step, ToyData, ToyModel, curve, held_out, make_stage, make_trainer, run

from llava_kit.errors import DataError, TrainingError
from llava_kit.train.counters import PHASES
from llava_kit.train.loop import Look


def cut(batch: Batch, parts: int) -> list[Batch]:
    """The rows of a batch as `parts` micro-batches."""
    rows, length = batch.plan.shape
    size = rows // parts
    result = []
    for first in range(0, rows, size):
        low, high = first * length, (first + size) * length
        inside = (batch.target_positions >= low) & (batch.target_positions < high)
        result.append(
            Batch(
                batch.tiles[first : first + size],
                Plan(batch.plan.ids[first : first + size]),
                batch.position_ids[first : first + size],
                batch.target_positions[inside] - low,
                batch.target_ids[inside],
                batch.sample_ids[first : first + size],
                size * length,
            )
        )
    return result


class CutData(ToyData):
    def __init__(self, parts: int):
        super().__init__(rows=8)
        self.parts = parts

    def batches(self, step: int) -> list[Batch]:
        return cut(super().batches(step)[0], self.parts)


@pytest.mark.parametrize("optimizer", [{"type": "adamw"}, {"type": "muon"}])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulating_micro_batches_is_one_large_batch(tmp_path, parts, optimizer):
    stage = make_stage(steps=5, optimizer=optimizer)
    whole = make_trainer(tmp_path / "whole", stage, data=CutData(1), model=still(ToyModel()))
    pieces = make_trainer(tmp_path / "pieces", stage, data=CutData(parts), model=still(ToyModel()))
    pieces.model.load_state_dict(whole.model.state_dict())
    one, many = run(whole), run(pieces)
    assert [loss for _, loss in curve(one)] == pytest.approx([loss for _, loss in curve(many)], rel=1e-5)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def still(model: ToyModel) -> ToyModel:
    """Without dropout: how a batch is cut would change which numbers are drawn."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_the_loss_is_that_of_plain_pytorch(tmp_path):
    """Two micro-batches with unlike numbers of supervised tokens: the mean of means would be another number."""
    trainer = make_trainer(tmp_path, make_stage(steps=1), data=ToyData(accumulate=2), model=still(ToyModel()))
    parts = trainer.data.batches(0)
    assert parts[0].num_targets != parts[1].num_targets
    with torch.no_grad():
        losses = [trainer.model(b.tiles, b.plan, b.position_ids, b.target_positions, b.target_ids) for b in parts]
    expected = float(sum(losses)) / sum(b.num_targets for b in parts)
    assert curve(run(trainer))[0][1] == pytest.approx(expected, rel=1e-6)


def test_clipping_is_done_when_asked_and_not_otherwise(tmp_path):
    def first_gradient(clip):
        trainer = make_trainer(tmp_path / str(clip), make_stage(steps=1, clip_norm=clip), model=still(ToyModel()))
        norm = run(trainer)[0]["grad_norm"]
        return norm, float(torch.nn.utils.get_total_norm(trainer.optimizers.gradients()))

    norm, after = first_gradient(None)
    assert after == pytest.approx(norm)
    clipped_norm, clipped = first_gradient(0.01)
    assert clipped_norm == pytest.approx(norm)  # the log tells the norm before clipping
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_the_loss_falls(tmp_path):
    losses = [loss for _, loss in curve(run(make_trainer(tmp_path, make_stage(steps=60, log_every=20), data=Fixed())))]
    assert losses[-1] < 0.8 * losses[0]


class Fixed(ToyData):
    """The same batch each step: it must be learnt by heart."""

    def batches(self, step: int) -> list[Batch]:
        return super().batches(0)


def test_a_logged_line_says_all_that_was_promised(tmp_path):
    trainer = make_trainer(tmp_path, make_stage(steps=10, log_every=4))
    records = run(trainer)
    assert [record["step"] for record in records] == [1, 4, 8, 10]
    last = records[-1]
    assert last["lr"].keys() == {"connector", "language_model"}
    assert last["seconds"].keys() == set(PHASES)
    assert last["samples"] == trainer.counters.samples == 40
    assert last["tokens"] == trainer.counters.tokens == 10 * 19
    assert last["padding"] == pytest.approx(1 / 20)
    assert last["seconds_left"] == 0
    assert last["targets"] == sum(batch.num_targets for step in range(10) for batch in ToyData().batches(step))
    assert all(math.isfinite(last[key]) and last[key] > 0 for key in ("grad_norm", "tokens_per_second", "samples_per_second"))


def test_the_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    each = dict(curve(run(make_trainer(tmp_path / "each", make_stage(steps=8)))))
    rare = dict(curve(run(make_trainer(tmp_path / "rare", make_stage(steps=8, log_every=4)))))
    assert rare[8] == pytest.approx(sum(each[step] for step in (5, 6, 7, 8)) / 4)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    seen = []
    trainer = make_trainer(tmp_path, make_stage(steps=2, precision="bfloat16"))
    trainer.model.connector.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    run(trainer)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_validation_comes_on_its_schedule_and_at_the_end_and_changes_nothing(tmp_path):
    plain = make_trainer(tmp_path / "plain", make_stage(steps=7))
    model = copy.deepcopy(plain.model)
    stage = make_stage(steps=7, validate={"source": {"type": "none"}, "every": 3})
    trainer = make_trainer(tmp_path / "looked", stage, model=model, validate=held_out(model))
    records = run(trainer)
    looks = [record for record in records if record["kind"] == "validation"]
    assert [look["step"] for look in looks] == [3, 6, 7]
    assert looks[0]["answers"] == [{"question": "?", "answer": "!"}]
    assert curve(run(plain)) == curve(records)
    assert trainer.model.connector.training
    assert not trainer.model.encoder.training


class Losses:
    """A validation that gives these losses in turn."""

    def __init__(self, *losses: float):
        self.losses = list(losses)

    def __call__(self):
        return Look(self.losses.pop(0))


def test_patience_ends_the_stage_with_the_best_weights(tmp_path):
    stage = make_stage(steps=50, validate={"source": {"type": "none"}, "every": 2, "patience": 2}, checkpoint={"every": 100})
    trainer = make_trainer(tmp_path, stage, validate=Losses(3.0, 2.0, 2.5, 2.5))
    run(trainer)
    assert trainer.counters.stopped_early
    assert (trainer.counters.step, trainer.counters.best_step) == (8, 4)
    best = trainer.checkpoints.load(trainer.checkpoints.folder / "step_4")
    for name, parameter in trainer.optimizers.parameters.items():
        assert torch.equal(parameter, best.parameters[name])


def test_a_validation_loss_that_is_no_number_stops_the_run(tmp_path):
    stage = make_stage(validate={"source": {"type": "none"}, "every": 2})
    with pytest.raises(TrainingError, match="found validation loss nan"):
        run(make_trainer(tmp_path, stage, validate=Losses(math.nan)))


def test_data_that_end_too_early_are_told(tmp_path):
    class Short(ToyData):
        def __call__(self, start):
            yield self.step(start)

    with pytest.raises(DataError, match="the data ended after 1 of 12 steps"):
        run(make_trainer(tmp_path, data=Short()))


def test_a_stage_of_many_micro_batches_reports_every_sample(tmp_path):
    trainer = make_trainer(tmp_path, make_stage(steps=2), data=ToyData(rows=3, accumulate=4))
    run(trainer)
    assert trainer.counters.samples == 2 * 4 * 3


def test_a_step_whose_samples_are_all_bad_is_passed_over_and_told(tmp_path):
    class Holes(ToyData):
        def step(self, number):
            return Step([], bad=("a", "b", "c", "d")) if number in (2, 3) else super().step(number)

    class Kept:
        def __init__(self):
            self.added = []

        def add(self, step, bad, num_seen):
            self.added.append((step, len(bad), num_seen))

    kept = Kept()
    trainer = make_trainer(tmp_path, make_stage(steps=6), data=Holes(), quarantine=kept)
    records = run(trainer)
    assert [record["step"] for record in records] == [1, 2, 5, 6]
    assert kept.added == [(0, 0, 4), (1, 0, 4), (2, 4, 4), (3, 4, 4), (4, 0, 4), (5, 0, 4)]
    assert (trainer.counters.samples, trainer.counters.seen) == (16, 24)


def test_the_data_are_closed_whatever_ends_the_loop(tmp_path):
    closed = []

    class Watched(ToyData):
        def __call__(self, start):
            try:
                yield from super().__call__(start)
            finally:
                closed.append(True)

    run(make_trainer(tmp_path / "calm", make_stage(steps=2), data=Watched()))
    assert closed == [True]
    stormy = make_trainer(tmp_path / "stormy", make_stage(steps=2), data=Watched())
    stormy.model.connector.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError):
        run(stormy)
    assert closed == [True, True]
