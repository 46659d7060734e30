"""What a run tells while it goes: one line of JSON a logged step, event files for TensorBoard, and the console."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..assemble.files import write_text
from ..errors import TrainingError

METRICS = "metrics.jsonl"


class Metrics:
    """Writes the records of one stage. Each is a dict with `stage`, `step` and `kind` (`train` or `validation`) in front.

    `resumed_step`: later lines of this stage are taken out first, since their steps are about to be taken again.
    """

    def __init__(self, folder: Path, stage: str, *, num_steps: int, resumed_step: int = 0, console: Console | None = None):
        # Imported here, not above: tensorboard costs most of a second, and listing checkpoints needs none of it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._stage = stage
        self._path = folder / METRICS
        self.display = Display(stage, num_steps, resumed_step, console)
        try:
            forget_after(self._path, stage, resumed_step)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the stage)
            # purge_step makes TensorBoard hide what an interrupted run had written past the step it resumed from.
            self._events = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=resumed_step + 1)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a record: to the file (flushed, so that it outlives a crash), to TensorBoard, to the console."""
        record = {"stage": self._stage, "step": step, "kind": kind, **values}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in _scalars(values, kind):
                self._events.add_scalar(name, value, step)
        except OSError as error:
            raise self._failed(error) from error
        self.display.show(kind, step, values)

    def sync(self) -> None:
        """Wait until all records are on the disk."""
        try:
            os.fsync(self._file.fileno())
            self._events.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        self.display.close()
        try:
            self._events.close()
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self._path}: could not be written ({error}); the checkpoints on the disk are whole. Free some space or choose "
            "another `output`, then run the same command again: it goes on from the last checkpoint"
        )


class Display:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, stage: str, num_steps: int, done: int, console: Console | None):
        self._stage = stage
        self._num_steps = num_steps
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self._task = self._bar.add_task(stage, total=num_steps, completed=done, told="")
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def show(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if kind == "validation":
            self.say(f"{self._stage} {step}/{self._num_steps}  validation loss {values['loss']:.4f}")
            return
        told = f"loss {values['loss']:.4f}  {values['samples_per_second']:.0f} samples/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, told=told)
        else:
            self.say(f"{self._stage} {step}/{self._num_steps}  {told}  {values['seconds_left']:.0f} s left")

    def say(self, text: str) -> None:
        # markup off: sample ids and paths may hold brackets. soft_wrap: a log keeps one line a record.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def forget_after(path: Path, stage: str, step: int) -> None:
    """Take out the stage's records after `step`, and a last line that a crash cut short; other stages' lines stay."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _stays(line, stage, step)]
    if kept != lines or _ends_abruptly(path):
        write_text(path, "".join(line + "\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file."""
    records = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record is not None]


def _stays(line: str, stage: str, step: int) -> bool:
    record = _parse(line)
    return record is not None and (record.get("stage") != stage or record.get("step", 0) <= step)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _ends_abruptly(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _scalars(values: Mapping[str, Any], prefix: str):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}/{name}", value
