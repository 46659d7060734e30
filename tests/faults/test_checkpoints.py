"""Kills, full disks, flipped bits, changed recipes: the checkpoints on the disk stay good, and the curve comes out the same."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time

import pytest
from toy import Stopped, ToyData, curve, make_stage, make_trainer, run, start

from llava_kit.assemble.files import verify_folder
from llava_kit.errors import CheckpointError, TrainingError
from llava_kit.train.checkpoint import Checkpoints
from llava_kit.train.metrics import METRICS, read_metrics

STAGE = {"steps": 40, "checkpoint": {"every": 2, "keep": 2}}


def logged(folder) -> int:
    """The last whole step in a log that may be in the middle of being written."""
    return max((record["step"] for record in read_metrics(folder / METRICS)), default=0) if (folder / METRICS).exists() else 0


def test_killed_at_random_instants_the_curve_is_the_same_to_the_bit(tmp_path):
    expected = curve(run(make_trainer(tmp_path / "straight", make_stage(**STAGE))))
    chance = random.Random(4)
    folder = tmp_path / "killed"
    for until in (1, 6, 14, 21, 29, 36):
        process = start(folder, **STAGE)
        while logged(folder) < until and process.is_alive():
            time.sleep(0.001)
        # A step takes some 4 ms and writing a checkpoint as long: the kill falls into either.
        time.sleep(chance.uniform(0, 0.015))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(folder, **STAGE)
    process.join()
    assert process.exitcode == 0, (folder / "told").read_text()
    assert curve(read_metrics(folder / METRICS)) == expected
    checkpoints = folder / "toy" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_38", "step_40"]


@pytest.fixture
def trained(tmp_path):
    """A run with checkpoints of steps 9 and 12."""
    run(make_trainer(tmp_path))
    return tmp_path


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["parameters.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_flipped_bit_is_named_and_the_checkpoint_before_it_is_taken(trained, file):
    folder = trained / "toy" / "checkpoints"
    flip(folder / "step_12" / file)
    said = []
    snapshot = Checkpoints(folder, make_stage().checkpoint, {"of": "toy"}).newest(said.append)
    assert snapshot.step == 9
    assert len(said) == 1
    assert file in said[0]
    assert "step_12" in said[0]


def test_after_a_flipped_bit_the_run_comes_out_the_same_and_repairs_itself(trained):
    expected = curve(read_metrics(trained / METRICS))
    folder = trained / "toy" / "checkpoints"
    flip(folder / "step_12" / "parameters.safetensors")
    with pytest.warns(UserWarning, match=r"parameters\.safetensors: expected sha256 .* taking the checkpoint before it"):
        assert curve(run(make_trainer(trained))) == expected
    verify_folder(folder / "step_12")


def test_when_all_are_damaged_the_run_does_not_silently_begin_anew(trained):
    folder = trained / "toy" / "checkpoints"
    for step in (9, 12):
        flip(folder / f"step_{step}" / "parameters.safetensors")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged") as told:
        Checkpoints(folder, make_stage().checkpoint, {"of": "toy"}).newest(lambda text: None)
    assert told.value.exit_code == 4


@pytest.mark.parametrize("cut", ["parameters.safetensors", "manifest.json"])
def test_a_half_written_folder_is_never_taken(trained, cut):
    folder = trained / "toy" / "checkpoints"
    (folder / "step_12" / cut).unlink()
    shutil.copytree(folder / "step_9", folder / "step_15.tmp")
    checkpoints = Checkpoints(folder, make_stage().checkpoint, {"of": "toy"})
    assert not (folder / "step_15.tmp").exists()
    assert checkpoints.newest(lambda text: None).step == 9


def test_a_changed_recipe_is_refused_with_the_list_of_changes(trained):
    folder = trained / "toy" / "checkpoints"
    now = {"of": "toy", "stage": {"global_batch_size": 64}}
    with pytest.raises(CheckpointError) as told:
        Checkpoints(folder, make_stage().checkpoint, now).newest()
    assert 'stage: nothing when saved, {"global_batch_size": 64} now' in str(told.value)
    assert "--resume never" in str(told.value)


def test_a_full_disk_ends_the_run_with_a_clear_word_and_leaves_no_half(tmp_path):
    """A limit on the size of files: each in turn fails in the middle of being written, the log's lines among them."""
    trained, stage = tmp_path / "trained", make_stage(steps=16)
    expected = curve(run(make_trainer(tmp_path / "calm", stage)))
    with pytest.raises(Stopped):
        run(make_trainer(trained, stage, data=ToyData(end=11)))
    seen = set()
    for limit in (1000, 2000, 3000, 4000, 5000, 7000, 9000, 50_000):
        folder = trained.parent / f"limit_{limit}"
        shutil.copytree(trained, folder, symlinks=True)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        trainer = make_trainer(folder, stage)
        try:
            run(trainer)
        except TrainingError as error:
            message = str(error)
            assert "could not be written" in message
            seen.add("log" if METRICS in message else "checkpoint")
        else:
            seen.add("none")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        for step in trainer.checkpoints.steps():
            verify_folder(trainer.checkpoints.folder / f"step_{step}")
        assert not list(trainer.checkpoints.folder.glob("*.tmp"))
        assert curve(run(make_trainer(folder, stage))) == expected
    assert seen == {"log", "checkpoint", "none"}, "the limits no longer meet what they were chosen for"


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "toy").write_text("a file where the stage's folder should be")
    with pytest.raises(TrainingError, match="could not be written"):
        run(make_trainer(tmp_path), resume=False)


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    expected = curve(run(make_trainer(tmp_path / "calm")))
    now = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert curve(run(make_trainer(tmp_path / "odd"))) == expected
