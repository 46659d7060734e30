"""What the GPU rows share: fair timing of peers on a device, memory, traces, and a result that outlives a cut-off.

Every row takes `--tiny`: shapes so small that the CPU runs them in float32 (Triton by its interpreter). It measures nothing, it
proves that each line of the row works, since nobody has a second try on a borrowed GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from llava_kit_kernels.ops.clock import event_times

from ..common import Report, Times, count_host_reads, count_operations, environment

# Dense bfloat16 FLOP/s of the data sheets, by the beginning of the device's name; for others no utilisation is told.
PEAKS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA A100": 312e12}
MIB, GIB = 1 << 20, 1 << 30

Functions = dict[str, Callable[[], Any]]


class Row:
    """One row on its way: its report, what went wrong, what was left out, and the time that is left."""

    def __init__(self, name: str, title: str, arguments: argparse.Namespace):
        self.report = Report(name, title)
        self.arguments = arguments
        self.tiny: bool = arguments.tiny
        if not self.tiny and not torch.cuda.is_available():
            raise SystemExit(f"{name}: no CUDA device was found; `--tiny` tries the row on a CPU, and measures nothing")
        self.device = torch.device("cpu" if self.tiny else "cuda")
        self.dtype = torch.float32 if self.tiny else torch.bfloat16
        self.notes: list[str] = []
        self.errors: list[dict[str, str]] = []
        self.traces: dict[str, list[dict[str, Any]]] = {}
        self._ends = time.monotonic() + arguments.seconds

    @property
    def left(self) -> float:
        """Seconds until the row's time is over."""
        return self._ends - time.monotonic()

    def note(self, sentence: str) -> None:
        """Something that a reader of the figures must know; told once."""
        if sentence in self.notes:
            return
        self.notes.append(sentence)
        print(f"  note: {sentence}", flush=True)

    def part(self, name: str, function: Callable[..., Any], *values: Any, needs: float = 0.0) -> Any:
        """`function(*values)`, unless fewer than `needs` seconds are left; what it raises is kept and the row goes on."""
        if self.left < needs and not self.tiny:
            self.note(f"{name}: left out; it takes about {needs:.0f} s and {max(0.0, self.left):.0f} s were left")
            return None
        print(f"  {name} ... ({self.left:.0f} s left)", flush=True)
        try:
            return function(*values)
        except Exception:
            text = traceback.format_exc()
            self.errors.append({"part": name, "trace": text})
            print(text, file=sys.stderr, flush=True)
            return None
        finally:
            free()
            self.save()

    def save(self) -> None:
        """Writes what is known so far to `--json`."""
        path: Path | None = self.arguments.json
        if path is None:
            return
        report = self.report
        result = {"row": report.row, "title": report.title, "tiny": self.tiny, "environment": machine()}
        result |= {"figures": report.figures, "claims": report.claims, "notes": self.notes, "errors": self.errors}
        result["traces"] = self.traces
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def finish(self) -> int:
        """Prints the row; the exit code is 1 when a claim is broken or a part failed, 3 when a target is missed."""
        code = self.report.finish(self.arguments)
        self.save()
        for error in self.errors:
            print(f"  FAILED  {error['part']}: {error['trace'].strip().splitlines()[-1]}")
        return 1 if self.errors else code


def parse_arguments(description: str | None, argv: Sequence[str] | None, seconds: float, **flags: str) -> argparse.Namespace:
    """The arguments of every GPU row; `seconds` is what it may take. `flags`: a row's own switches and what they do."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, after each part")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU: tries every line, measures nothing")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"leave out what would not fit (default {seconds:g})")
    for name, meaning in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    return parser.parse_args(argv)


def free() -> None:
    """Gives memory back that nobody uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gpu_times(row: Row, functions: Functions, *, seconds: float, most: int = 100, flush: bool = True) -> dict[str, Times]:
    """Seconds on the device's own clock, the functions in turn: A B C A B C ..., as many rounds as fit into `seconds`.

    Up to a quarter of the rounds warm up (25 for 100). With `flush` the cache holds nothing of the last call.
    """
    warm_up, rounds = _fit(row, functions, seconds, most)
    for _ in range(warm_up):
        for function in functions.values():
            function()
    if row.device.type != "cuda":
        return _host(functions, rounds)
    found = event_times(functions, rounds, flush=flush)
    return {name: _times([microseconds / 1e6 for microseconds in taken]) for name, taken in found.items()}


def _fit(row: Row, functions: Functions, seconds: float, most: int) -> tuple[int, int]:
    """How many rounds to warm up and to time; the first two calls of each (compilation, first allocation) come before."""
    for function in functions.values():
        function()
        function()
    synchronise()
    begin = time.perf_counter()
    for function in functions.values():
        function()
    synchronise()
    one = time.perf_counter() - begin
    if row.tiny:
        return 0, 2
    rounds = int(max(8, min(most, seconds / (1.25 * max(one, 1e-6)))))
    return rounds // 4, rounds


def _host(functions: Functions, rounds: int) -> dict[str, Times]:
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: _times(values) for name, values in seconds.items()}


def _times(seconds: list[float]) -> Times:
    return Times(min(seconds), statistics.median(seconds))


def wall_times(row: Row, functions: Functions, *, calls: int = 50, rounds: int = 5) -> dict[str, Times]:
    """Seconds of a call on the wall clock, `calls` of them back to back: what the host does and waits for counts too."""
    if row.tiny:
        calls, rounds = 2, 1
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            synchronise()
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            synchronise()
            seconds[name].append((time.perf_counter() - begin) / calls)
    return {name: _times(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Memory:
    """Bytes above what was allocated before: at the highest, and still there at the end. Zeros without a GPU."""

    peak: int
    kept: int

    @property
    def transient(self) -> int:
        return self.peak - self.kept


def memory_of(function: Callable[[], Any]) -> tuple[Any, Memory]:
    """What `function` gives back, and the device memory that it took."""
    if not torch.cuda.is_available():
        return function(), Memory(0, 0)
    free()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = function()
    torch.cuda.synchronize()
    return result, Memory(torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before)


@dataclass(frozen=True)
class Ceilings:
    """What this device reaches: FLOP/s of a large matrix product, bytes/s (read and written) of a large copy."""

    flops: float
    bandwidth: float


def ceilings(row: Row) -> Ceilings:
    """Measured here and now, on random numbers (zeros run faster); floors are told in terms of them."""
    side, size = (8192, GIB // 2) if not row.tiny else (64, 4096)
    a, b = (torch.randn(side, side, device=row.device, dtype=row.dtype) for _ in range(2))
    source = torch.randn(size, device=row.device, dtype=row.dtype)
    target = torch.empty_like(source)
    functions: Functions = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    times = gpu_times(row, functions, seconds=0.2, most=20)
    found = Ceilings(2 * side**3 / times["product"].median, 2 * source.nbytes / times["copy"].median)
    row.report.figure(f"product of {side} x {side} matrices", found.flops / 1e12, "TFLOP/s")
    row.report.figure("copy, bytes read and written", found.bandwidth / 1e12, "TB/s")
    return found


def peak_flops() -> float | None:
    """The data sheet's bfloat16 FLOP/s of this device; None where it is not known here."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for beginning, peak in PEAKS.items() if name.startswith(beginning)), None)


@contextmanager
def refuse_host_reads(device: torch.device) -> Iterator[None]:
    """Raises where Python waits for a tensor's value: by the driver's own alarm on a GPU, by counting calls on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return
    with count_host_reads() as reads, count_operations() as operations:
        yield
    if reads.total() + operations.reads:
        raise RuntimeError(f"host reads: {dict(reads)}, {operations.reads} operations that read")


def reads_nothing(row: Row, function: Callable[[], Any]) -> bool:
    """Whether `function` runs without one host read; where it reads is kept among the notes."""
    function()
    try:
        with refuse_host_reads(row.device):
            function()
    except RuntimeError:
        row.note("a host read: " + traceback.format_exc()[-1500:])
        return False
    return True


def keep_trace(row: Row, name: str, function: Callable[[], Any], calls: int = 3) -> None:
    """The operations of `function` that take most of the device's time, into the result, or a note why there are none."""
    found = optional(row, f"trace of {name}", lambda: _trace(row, function, calls))
    if found is not None:
        row.traces[name] = found


def _trace(row: Row, function: Callable[[], Any], calls: int) -> list[dict[str, Any]]:
    from torch.profiler import ProfilerActivity, profile

    cuda = row.device.type == "cuda"
    activities = [ProfilerActivity.CUDA, ProfilerActivity.CPU] if cuda else [ProfilerActivity.CPU]
    if cuda:
        function()
    with profile(activities=activities) as taken:
        for _ in range(calls):
            function()
        synchronise()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(taken.key_averages(), key=lambda event: -getattr(event, key))
    # On a GPU every operation is listed twice, as what the host called and as the kernels it launched: these are told.
    kernels = [event for event in events if not cuda or event.device_type.name == "CUDA"]
    return [
        {"name": event.key[:120], "calls": event.count / calls, "us": getattr(event, key) / calls} for event in kernels[:15]
    ]


def optional(row: Row, what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives, or None with a note where a package is not installed or does not fit this environment."""
    try:
        return load()
    except Exception as error:
        row.note(f"{what}: left out ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")
        return None


def kernels(row: Row, what: str, load: Callable[[], Any]) -> Any:
    """As `optional`, for kernels of ours; on a GPU they have no excuse."""
    found = optional(row, what, load)
    if row.device.type == "cuda" and found is None:
        row.report.claim(f"{what} can be used on this device", False)
    return found


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """|found - truth| / |truth| in the wider type; NaN counts as infinite."""
    wide = torch.promote_types(truth.dtype, torch.float32)
    difference = (found.to(wide) - truth.to(wide)).norm() / truth.to(wide).norm().clamp(min=1e-30)
    value = float(difference)
    return value if value == value else float("inf")


def machine() -> dict[str, Any]:
    """`environment()` and what more a reader must know of the GPU."""
    found = environment()
    found["versions"]["liger-kernel"] = version("liger-kernel") if importlib.util.find_spec("liger_kernel") else None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / GIB, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
        }
    return found
