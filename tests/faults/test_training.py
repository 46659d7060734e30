"""Signals and numbers that are none, met by a whole process: its exit code, its words, and what it leaves behind."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from toy import curve, make_stage, make_trainer, run, start

from llava_kit.errors import TrainingError
from llava_kit.train.metrics import METRICS, read_metrics

STAGE = {"steps": 30, "checkpoint": {"every": 100}}


def begin(folder: Path, pause: float) -> Any:
    """A run as a process of its own, in the middle of its steps."""
    process = start(folder, pause=pause, **STAGE)
    began = time.monotonic()
    while not (folder / METRICS).exists() or len((folder / METRICS).read_text().splitlines()) < 3:
        assert process.is_alive(), (folder / "told").read_text()
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_step_with_all_saved(tmp_path, number, code):
    process = begin(tmp_path / "broken", pause=0.1)
    os.kill(process.pid, number)
    process.join(30)
    said = (tmp_path / "broken" / "told").read_text()
    assert process.exitcode == code, said
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    done = read_metrics(tmp_path / "broken" / METRICS)[-1]["step"]
    assert 3 <= done < 30
    assert (tmp_path / "broken" / "toy" / "checkpoints" / f"step_{done}").is_dir()
    found = curve(run(make_trainer(tmp_path / "broken", make_stage(**STAGE))))
    assert found == curve(run(make_trainer(tmp_path / "straight", make_stage(**STAGE))))


def test_a_second_signal_ends_it_at_once(tmp_path):
    process = begin(tmp_path, pause=4.0)
    time.sleep(0.5)  # a signal that came right after the line was written would end that step in good order
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)  # the step is still waiting for its data
    assert process.is_alive()
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    assert time.monotonic() - began < 2  # the step itself would have waited longer


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_that_is_none_is_ever_on_the_disk(tmp_path, value):
    """At every step in turn: the last checkpoint is whole, finite, and the way back to the calm curve."""
    stage = make_stage(steps=6, checkpoint={"every": 1, "keep": 10})
    expected = curve(run(make_trainer(tmp_path / "calm", stage)))
    for bad in range(6):
        folder = tmp_path / f"bad_{bad}"
        trainer = make_trainer(folder, stage)
        trainer.model.connector.bias.register_hook(
            lambda gradient, trainer=trainer, bad=bad: gradient + value if trainer.counters.step == bad else gradient
        )
        with pytest.raises(TrainingError, match=f"step {bad + 1}: .* expected finite numbers"):
            run(trainer)
        assert trainer.checkpoints.steps() == list(range(1, bad + 1))
        for step in trainer.checkpoints.steps():
            snapshot = trainer.checkpoints.load(trainer.checkpoints.folder / f"step_{step}")
            tensors = [*snapshot.parameters.values(), *snapshot.optimizer.values()]
            assert all(bool(tensor.isfinite().all()) for tensor in tensors)
        assert curve(run(make_trainer(folder, stage))) == expected
