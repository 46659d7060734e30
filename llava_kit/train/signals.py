"""Ctrl-C and termination as a wish: the step is finished and saved first. A second signal stops the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from ..errors import TrainingError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(TrainingError):
    """The run was asked to stop and has saved its state. `exit_code` is the shell's convention: 128 + the signal's number."""

    def __init__(self, number: int, message: str):
        self.exit_code = 128 + number
        super().__init__(message)


class StopRequest:
    """While entered: `number` is the signal that asked to stop, or None.

    The first signal also gives both back to the operating system, so the second one ends the process even where Python would
    not come to hear of it (a kernel that hangs, a lock).
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python hears signals in the main thread alone; in another one the caller has to watch for them.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
