"""Times by the device's own clock: functions in turn, the host ahead, the L2 cache full of other data. It needs no Triton."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")

# Five times the L2 cache of an H200 (50 MB on an H100): overwritten before each measurement, as the rest of a model would.
FLUSH_BYTES = 256 * 2**20
# About a millisecond for which the device waits before it overwrites: meanwhile the host launches what is to be measured, so
# that an operation's time is its own and not that of its launches; those of a projector, forward and backward, take so long.
AHEAD_CYCLES = 2_000_000


def event_times(functions: Mapping[Name, Callable[[], Any]], rounds: int, *, flush: bool = True) -> dict[Name, list[float]]:
    """Microseconds of every call on the current CUDA device, the functions in turn: A B C A B C ...; nothing is warmed up."""
    other = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.int8, device="cuda")
    pairs: dict[Name, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in functions}
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, function in functions.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(AHEAD_CYCLES)
            other.zero_()
            begin.record()
            function()
            end.record()
            pairs[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: [begin.elapsed_time(end) * 1e3 for begin, end in taken] for name, taken in pairs.items()}
