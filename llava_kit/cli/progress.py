"""Progress of long work: a bar with speed and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Without a terminal a line every so many seconds: enough to see that it lives, few enough for a log.
LINE_SECONDS = 10.0


class Show(Protocol):
    """Shows how far the work is; `note` stands beside it, such as what it has cost."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None: ...


@contextmanager
def progress(what: str, unit: str) -> Iterator[Show]:
    """A function `(done, total, note)` that shows how far `what` is, in `unit`s a second."""
    if sys.stderr.isatty():
        yield from _bar(what, unit)
    else:
        yield from _lines(what, unit)


def _bar(what: str, unit: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[speed]:.0f}} {unit}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, speed=0.0, note="")

        def show(done: int, total: int, note: str = "") -> None:
            speed = done / max(time.perf_counter() - start, 1e-9)
            bar.update(task, completed=done, total=total, speed=speed, note=note)

        yield show


def _lines(what: str, unit: str) -> Iterator[Show]:
    start = shown = time.perf_counter()

    def show(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        now = time.perf_counter()
        if now - shown >= LINE_SECONDS or done == total:
            shown = now
            speed = done / max(now - start, 1e-9)
            left = (total - done) / max(speed, 1e-9)
            print(
                f"{what}: {done}/{total}  {speed:.0f} {unit}/s  {left:.0f} s left  {note}".rstrip(), file=sys.stderr, flush=True
            )

    yield show
