"""Times of operations on a GPU, ours and torch's in turn, with a cold L2; shared by the benchmarks of this folder.

Run `python kernels/benchmarks/benchmark_<stem>.py [--json FILE]` on a machine with a GPU. `--tiny` is a rehearsal: small
shapes, and without a GPU Triton's interpreter on the CPU, whose times mean nothing. Import this module before
any that imports Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from llava_kit_kernels.ops.clock import event_times

if "--tiny" in sys.argv and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

WARM_UP, TIMED = 25, 100  # the rules of our scoreboard for rows on a GPU


@dataclass(frozen=True)
class Case:
    """One comparison: both give the same tensor, and have to move `num_bytes` at least."""

    name: str
    ours: Callable[[], Tensor]
    peer: Callable[[], Tensor]
    num_bytes: int
    tolerance: float = 0.0
    """Of the difference, in units of the largest element of the peer's result."""


@dataclass(frozen=True)
class Times:
    """Microseconds over all rounds."""

    minimum: float
    median: float


def interleaved(functions: list[Callable[[], Tensor]], *, warm_up: int, timed: int) -> list[Times]:
    """Times of each function, called in turn: A B A B ... Each finds the L2 cache full of other data."""
    clock = _time_on_gpu if torch.cuda.is_available() else _time_on_cpu
    for function in functions:
        for _ in range(warm_up):
            function()
    microseconds = clock(functions, timed)
    return [Times(min(values), statistics.median(values)) for values in microseconds]


def _time_on_gpu(functions: list[Callable[[], Tensor]], timed: int) -> list[list[float]]:
    return list(event_times(dict(enumerate(functions)), timed).values())


def _time_on_cpu(functions: list[Callable[[], Tensor]], timed: int) -> list[list[float]]:
    microseconds: list[list[float]] = [[] for _ in functions]
    for _ in range(timed):
        for function, values in zip(functions, microseconds, strict=True):
            begin = time.perf_counter()
            function()
            values.append((time.perf_counter() - begin) * 1e6)
    return microseconds


def run(description: str | None, make_cases: Callable[[str, bool], Iterator[Case]]) -> int:
    """Times the cases of `make_cases(device, tiny)`, prints a table; 1 if one gives another result than its peer, else 0."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tiny", action="store_true", help="small shapes; without a GPU in Triton's interpreter")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times there")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        parser.error("torch finds no CUDA device; --tiny rehearses without one")
    torch.manual_seed(0)
    rounds = {"warm_up": 1, "timed": 2} if arguments.tiny else {"warm_up": WARM_UP, "timed": TIMED}
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, interpreted: no times"
    print(f"{name}, torch {version('torch')}, triton {version('triton')}; median us (minimum)")
    print(f"{'':<58}{'ours':>18}{'torch':>18}{'ours GB/s':>11}{'torch/ours':>12}")
    rows = [_run_case(case, rounds) for case in make_cases(device, arguments.tiny)]
    if arguments.json is not None:
        result = {"device": name, "torch": version("torch"), "triton": version("triton"), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["equal"] for row in rows) else 1


def _run_case(case: Case, rounds: dict[str, int]) -> dict[str, object]:
    expected = case.peer()
    error = (case.ours().double() - expected.double()).abs().max().item() if expected.numel() else 0.0
    equal = error <= case.tolerance * expected.double().abs().max().item() if expected.numel() else True
    del expected
    ours, peer = interleaved([case.ours, case.peer], **rounds)
    rate, ratio = case.num_bytes / ours.median / 1e3, peer.median / ours.median
    shown = [f"{times.median:.1f} ({times.minimum:.1f})" for times in (ours, peer)]
    print(f"{case.name:<58}{shown[0]:>18}{shown[1]:>18}{rate:>11.0f}{ratio:>12.2f}{'' if equal else '  NOT EQUAL'}")
    times = {"ours_us": ours.median, "ours_min_us": ours.minimum, "peer_us": peer.median, "peer_min_us": peer.minimum}
    return {"case": case.name, **times, "gb_per_s": rate, "ratio": ratio, "error": error, "equal": equal}
