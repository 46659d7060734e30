"""What a checkpoint holds, what is kept, and that going on from it is exact."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from toy import Stopped, ToyData, ToyModel, curve, held_out, make_stage, make_trainer, run

from llava_kit.assemble.files import verify_folder
from llava_kit.errors import CheckpointError, LlavaKitError
from llava_kit.train.checkpoint import Checkpoints, differences, restore_parameters
from llava_kit.train.loop import Look


@pytest.mark.parametrize("optimizer", [{"type": "adamw"}, {"type": "muon"}])
@pytest.mark.parametrize("log_every", [1, 5])
def test_going_on_is_exact_to_the_bit(tmp_path, optimizer, log_every):
    """Dropout, clipping, a decaying rate, and a log window that the interruption cuts in two."""
    stage = make_stage(steps=17, optimizer=optimizer, log_every=log_every, checkpoint={"every": 4}, schedule={"warmup": 0.2})
    straight = make_trainer(tmp_path / "straight", stage)
    expected = run(straight)
    with pytest.raises(Stopped):
        run(make_trainer(tmp_path / "broken", stage, data=ToyData(end=10)))
    resumed = make_trainer(tmp_path / "broken", stage)
    torch.manual_seed(999)  # whatever was drawn meanwhile does not matter
    with torch.no_grad():
        for parameter in resumed.optimizers.parameters.values():
            parameter.add_(1.0)
    found = run(resumed)
    assert curve(found) == curve(expected)
    for key in ("grad_norm", "lr", "samples", "tokens", "targets", "padding"):
        assert [record[key] for record in found] == [record[key] for record in expected], key
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_only_what_trains_is_written_and_nothing_is_a_pickle(tmp_path):
    trainer = make_trainer(tmp_path)
    run(trainer)
    path = trainer.checkpoints.folder / "step_12"
    verify_folder(path)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "optimizer.safetensors",
        "parameters.safetensors",
        "state.json",
    ]
    names = load_file(path / "parameters.safetensors").keys()
    assert "connector.newline" in names
    assert not any(name.startswith("encoder.") for name in names)
    state = json.loads((path / "state.json").read_text())
    assert (state["step"], state["num_steps"], state["stage"]) == (12, 12, "toy")
    assert state["counters"]["samples"] == 48


def test_the_last_ones_and_the_best_are_kept_and_linked(tmp_path):
    model = ToyModel()
    stage = make_stage(steps=20, checkpoint={"every": 4, "keep": 2}, validate={"source": {"type": "none"}, "every": 2})
    trainer = make_trainer(tmp_path, stage, model=model, validate=held_out(model))
    trainer.validate = LossesBy(trainer, {2: 3.0, 4: 2.0, 6: 1.0})
    run(trainer)
    folder = trainer.checkpoints.folder
    assert trainer.checkpoints.steps() == [6, 16, 20]
    assert (folder / "latest").resolve().name == "step_20"
    assert (folder / "best").resolve().name == "step_6"


class LossesBy:
    """A validation loss by step; 9 where none is named."""

    def __init__(self, trainer, losses):
        self.trainer, self.losses = trainer, losses

    def __call__(self):
        return Look(self.losses.get(self.trainer.counters.step, 9.0))


def test_running_statistics_of_trained_parts_are_kept(tmp_path):
    def with_statistics():
        model = ToyModel()
        model.connector = torch.nn.Sequential(model.connector, torch.nn.BatchNorm1d(8))
        return model

    straight = make_trainer(tmp_path / "straight", model=with_statistics())
    run(straight)
    broken = make_trainer(tmp_path / "broken", model=with_statistics())
    broken.model.load_state_dict(straight.model.state_dict())  # other weights, and statistics that are not fresh
    for buffer in broken.model.buffers():
        buffer.fill_(3)
    broken.resume(straight.checkpoints.load(straight.checkpoints.folder / "step_12"))
    assert torch.equal(broken.model.connector[1].running_mean, straight.model.connector[1].running_mean)
    assert int(broken.model.connector[1].num_batches_tracked) == 12


def test_a_model_of_another_shape_is_refused_by_tensor(tmp_path):
    trainer = make_trainer(tmp_path)
    run(trainer)
    snapshot = trainer.checkpoints.newest()
    tensors = {"connector.weight": torch.zeros(2, 2), "connector.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as told:
        restore_parameters(tensors, snapshot)
    message = str(told.value)
    assert "missing tensor 'connector.extra'" in message
    assert "unexpected tensor 'connector.bias'" in message
    assert "'connector.weight': found shape (8, 8), expected (2, 2)" in message


def test_differences_are_told_by_path():
    saved = {"a": {"lr": 1e-3, "same": [1, 2]}, "gone": 1}
    now = {"a": {"lr": 2e-3, "same": (1, 2)}, "new": {"x": None, "y": 3}}
    assert differences(saved, now) == [
        "a.lr: 0.001 when saved, 0.002 now",
        "gone: 1 when saved, nothing now",
        'new: nothing when saved, {"x": null, "y": 3} now',
    ]


def test_another_plugin_version_warns_and_goes_on(tmp_path):
    def checkpoints(version):
        plugins = [{"name": "clip", "distribution": "llava-kit", "version": version}]
        return Checkpoints(tmp_path / "toy" / "checkpoints", make_stage().checkpoint, {"of": "toy"}, plugins)

    run(make_trainer(tmp_path, checkpoints=checkpoints("1.0")))
    with pytest.warns(UserWarning, match=r"'clip' was llava-kit 1\.0 when it was written and is llava-kit 1\.1 now"):
        assert checkpoints("1.1").newest().step == 12


def test_optimizer_state_of_a_foreign_parameter_is_an_error_and_no_traceback(tmp_path):
    trainer = make_trainer(tmp_path, make_stage(steps=3))
    run(trainer)
    snapshot = trainer.checkpoints.newest()
    snapshot.optimizer["adamw|connector.gone|exp_avg"] = torch.zeros(1)
    with pytest.raises(LlavaKitError, match=r"connector\.gone"):
        make_trainer(tmp_path, make_stage(steps=3)).resume(snapshot)


def test_with_no_checkpoint_there_is_nothing_to_go_on_from(tmp_path):
    assert make_trainer(tmp_path).checkpoints.newest() is None
