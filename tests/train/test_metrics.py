"""The files a run leaves, and what the console shows."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_kit.errors import TrainingError
from llava_kit.train.metrics import METRICS, Display, Metrics, forget_after, read_metrics


def values(loss: float = 1.5):
    return {"loss": loss, "samples_per_second": 10.0, "seconds_left": 3.0, "lr": {"connector": 0.1}, "answers": []}


def make(folder, stage="align", resumed_step=0, console=None):
    console = console or Console(file=io.StringIO(), width=200)
    return Metrics(folder, stage, num_steps=10, resumed_step=resumed_step, console=console)


def test_each_record_is_on_the_disk_at_once(tmp_path):
    metrics = make(tmp_path)
    metrics.write("train", 1, values())
    assert json.loads((tmp_path / METRICS).read_text()) == {"stage": "align", "step": 1, "kind": "train", **values()}
    metrics.close()


def test_tensorboard_has_loss_and_rates_by_kind(tmp_path):
    metrics = make(tmp_path)
    for step in (1, 2):
        metrics.write("train", step, values(step / 2))
    metrics.write("validation", 2, {"loss": 0.25, "best": True})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "align"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5), (2, 1.0)]
    assert [e.value for e in events.Scalars("train/lr/connector")] == pytest.approx([0.1, 0.1])
    assert [e.value for e in events.Scalars("validation/loss")] == [0.25]
    assert "validation/best" not in events.Tags()["scalars"]


def test_a_resumed_run_has_each_step_once_in_file_and_events(tmp_path):
    metrics = make(tmp_path)
    for step in range(1, 7):
        metrics.write("train", step, values(step))
    metrics.close()
    metrics = make(tmp_path, resumed_step=4)
    for step in (5, 6, 7):
        metrics.write("train", step, values(10 * step))
    metrics.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path / METRICS)] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70)
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard" / "align"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70)
    ]  # fmt: skip


def test_other_stages_lines_stay_and_a_line_cut_short_goes(tmp_path):
    path = tmp_path / METRICS
    lines = [{"stage": "align", "step": 9}, {"stage": "instruct", "step": 1}, {"stage": "instruct", "step": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "instr')
    forget_after(path, "instruct", 1)
    assert read_metrics(path) == lines[:2]
    path.write_text(json.dumps(lines[0]))  # whole, but the end of the line never came
    forget_after(path, "instruct", 1)
    assert path.read_text().endswith("}\n")


def test_without_a_terminal_there_are_plain_lines():
    told = io.StringIO()
    console = Console(file=told, force_terminal=False, width=40)
    display = Display("align", 10, 0, console)
    display.advance(1)
    display.show("train", 2, values())
    display.show("validation", 2, {"loss": 0.5})
    display.close()
    assert told.getvalue().splitlines() == [
        "align 2/10  loss 1.5000  10 samples/s  3 s left",
        "align 2/10  validation loss 0.5000",
    ]


def test_on_a_terminal_there_is_a_bar_with_step_loss_and_speed(tmp_path):
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120)
    metrics = make(tmp_path, console=console)
    metrics.write("train", 7, values())
    metrics.close()
    last = told.getvalue()
    for piece in ("align", "7/10", "loss 1.5000", "10 samples/s"):
        assert piece in last


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / METRICS).mkdir()
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: could not be written"):
        make(tmp_path)
