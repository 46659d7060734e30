"""What every row of the scoreboard shares: fair timing of peers, counters of operations and host reads, and a result on file.

Run a row with `python -m benchmarks.<row> [--json FILE]`. Ours and the peer run in the same process, turn by turn, on one
thread; times are CPU time, since other work on the machine stretches the wall clock.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that launch no kernel: views, and memory that is allocated but not filled.
_FREE = """
view _unsafe_view _reshape_alias reshape t transpose permute slice select unsqueeze squeeze expand detach alias as_strided split
split_with_sizes unbind chunk narrow unfold lift_fresh empty empty_like empty_strided new_empty
"""
FREE = frozenset(_FREE.split())
# Operations that must ask the device how large their result is before they can go on.
READS = frozenset(["nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "index by mask"])
# Methods by which Python code learns a tensor's value.
READING_METHODS = ("item", "tolist", "__bool__", "__int__", "__index__", "__float__", "__format__", "cpu", "numpy")


@dataclass(frozen=True)
class Times:
    """Seconds of CPU time over all rounds."""

    minimum: float
    median: float


def steady(threads: int = 1) -> None:
    """Fixes what would make rounds differ: the number of threads, and freed memory going back to the system.

    Without the latter each large tensor costs page faults or not by the luck of its size; the peers would lose most (their
    median grows by a factor of 2.5), and on a GPU, whose allocator keeps its memory, nobody pays it.
    """
    torch.set_num_threads(threads)
    if platform.system() == "Linux":
        no_mmap, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(no_mmap, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def interleaved(
    functions: dict[str, Callable[[], Any]],
    *,
    rounds: int = 9,
    warm_up: int = 2,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Times of each function, called in turn `rounds` times: A B C A B C ... No garbage is collected inside a turn."""
    for function in functions.values():
        for _ in range(warm_up):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in functions.items():
                begin = clock()
                function()
                seconds[name].append(clock() - begin)
    finally:
        gc.enable()
    return {name: Times(min(values), statistics.median(values)) for name, values in seconds.items()}


class count_operations(TorchDispatchMode):
    """Counts what reaches torch's kernels. `total` leaves out the operations in FREE; `reads` are those in READS."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            name = "index by mask"
        self.names[name] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(count for name, count in self.names.items() if name not in FREE)

    @property
    def reads(self) -> int:
        return sum(count for name, count in self.names.items() if name in READS)


@contextmanager
def count_host_reads() -> Iterator[Counter[str]]:
    """Counts calls by which Python reads a tensor, whatever its device: on a GPU each would wait for all work queued so far."""
    counts: Counter[str] = Counter()
    originals = {name: getattr(torch.Tensor, name) for name in READING_METHODS}
    depth = 0

    def counting(name: str) -> Callable:
        def method(self, *args, **kwargs):
            nonlocal depth
            if depth == 0:  # a method may call another: `__format__` calls `item`
                counts[name] += 1
            depth += 1
            try:
                return originals[name](self, *args, **kwargs)
            finally:
                depth -= 1

        return method

    for name in READING_METHODS:
        setattr(torch.Tensor, name, counting(name))
    try:
        yield counts
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


def environment() -> dict[str, Any]:
    """What a reader must know of the machine."""
    versions = {}
    for package in ("torch", "torchvision", "transformers", "numpy", "pillow", "simplejpeg", "tokenizers", "triton"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass
class Report:
    """A row of the scoreboard: figures with their targets, and the claims without which they mean nothing."""

    row: str
    title: str
    figures: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str = "", *, at_least=None, at_most=None) -> None:
        """A measured value; with a target it is `met` or not."""
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        targets = {"at_least": at_least, "at_most": at_most}
        self.figures.append({"name": name, "value": value, "unit": unit, **targets, "met": met})

    def claim(self, sentence: str, holds: bool) -> None:
        """A condition of correctness: a row whose claims do not hold has failed, however fast."""
        self.claims.append({"claim": sentence, "holds": bool(holds)})

    def finish(self, arguments: argparse.Namespace) -> int:
        """Prints the row, writes it to `--json`; the exit code is 1 when a claim does not hold, 3 when a target is missed."""
        result = {"row": self.row, "title": self.title, "environment": environment()}
        result |= {"figures": self.figures, "claims": self.claims}
        machine = result["environment"]
        print(f"{self.row}  {self.title}   (load {machine['load_average']:.2f}, {machine['processor']})")
        for figure in self.figures:
            print(f"  {figure['name']:<58}{figure['value']:>10.3g} {figure['unit']:<11}{_target(figure)}")
        for claim in self.claims:
            print(f"  {'holds ' if claim['holds'] else 'BROKEN'}  {claim['claim']}")
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if not all(claim["holds"] for claim in self.claims):
            return 1
        return 0 if all(figure["met"] for figure in self.figures) else 3


def _target(figure: dict[str, Any]) -> str:
    bounds = [(sign, figure[key]) for sign, key in ((">=", "at_least"), ("<=", "at_most")) if figure[key] is not None]
    text = " ".join(f"{sign} {bound:g}" for sign, bound in bounds)
    return text and f"{text}  {'met' if figure['met'] else 'MISSED'}"


def parse_arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments that every row takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--rounds", type=int, help="how often each contender runs")
    return parser.parse_args(argv)
