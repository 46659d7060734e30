"""`make gpu`: the GPU tests, then rows G3, G4, G1, G2, G6, G5, most telling first, each in a process and a time of its own.

What is known is written after each step, to `benchmarks/results/<device>-<date>.json`, so that a cut-off keeps it. A row that
fails or runs out of its time leaves its trace there, and the next one begins with the whole memory of the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..readme import RESULTS, ROOT, gpu_table
from ..readme import main as write_readme

# A process needs so long for its imports, before its row's clock begins.
STARTING = 15.0


@dataclass(frozen=True)
class Entry:
    """One row: its module, its arguments, and the seconds it may take, imports included."""

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: float


TESTS_SECONDS, TUNING_SECONDS = 105.0, 40.0
ROWS = (
    Entry("G3", "head", (), 50),
    Entry("G4", "training", (), 150),
    Entry("G1", "projector", (), 70),
    Entry("G2", "projector", ("--backward",), 60),
    Entry("G6", "decode", (), 90),
    Entry("G5", "first_token", (), 60),
)
TABLES = ROOT / "kernels" / "llava_kit_kernels" / "tables"
# The products of a LLaVA-1.5-7B projector at 1, 8 and 32 pictures: what rows G1 and G2 ask the tables for first.
SHAPES = tuple(f"{op}:{m}x4096x{k}" for m in (4608, 576, 18_432) for op, k in (("linear_gelu", 1024), ("linear_scatter", 4096)))


class Session:
    """A run of all steps: its clock, its result and where that lies."""

    def __init__(self, arguments: argparse.Namespace):
        self.tiny: bool = arguments.tiny
        self.begin = time.monotonic()
        self.total: float = arguments.total
        self.folder: Path = arguments.folder
        device = "tiny" if self.tiny else _device()
        today = datetime.now(UTC).date().isoformat()
        self.path = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{today}.json"
        self.result: dict[str, Any] = {"device": device, "date": today, "tiny": self.tiny, "rows": {}}

    @property
    def left(self) -> float:
        return self.total - (time.monotonic() - self.begin)

    def save(self) -> None:
        """Writes the result, and a copy into the folder that the variable OUT names."""
        self.result["seconds"] = round(time.monotonic() - self.begin, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        out = os.environ.get("OUT")
        if out and Path(out).is_dir():
            shutil.copy(self.path, out)

    def call(self, command: Sequence[str], seconds: float) -> tuple[int | None, str]:
        """Exit code (None: its time was over) and what it said, whose end is shown."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.tiny:
            environment["TRITON_INTERPRET"] = "1"
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )
            try:
                code = process.wait(max(1.0, seconds))
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # Its helpers too (workers of pytest and of torch.compile), which would go on using the GPU beside the next row.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.seek(0)
            said = log.read()
        print(said[-6000:], flush=True)
        return code, said

    def run_tests(self) -> None:
        """All tests that need a GPU, from the files that have some."""
        files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8"))
        if not files:
            self.result["tests"] = {"note": "no tests need a GPU"}
            return
        command = [sys.executable, "-m", "pytest", "-m", "gpu and not slow", "-v", "-v", "--tb=short", "-p", "no:cacheprovider"]
        command.append("--continue-on-collection-errors")  # a package that one file needs may be missing
        if importlib.util.find_spec("xdist") is not None:
            command += ["-n", "4"]
        _say(f"GPU tests, at most {min(TESTS_SECONDS, self.left):.0f} s")
        code, said = self.call([*command, *map(str, files)], min(TESTS_SECONDS, self.left))
        outcomes = re.findall(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b", said)
        found: dict[str, Any] = {word.lower(): outcomes.count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
        found |= {"code": code, "finished": code is not None}
        print(f"GPU tests: {found}", flush=True)
        self.result["tests"] = found if code == 0 else {**found, "said": said[-20_000:]}

    def tune(self) -> None:
        """Tables of choices for this device, of which rows G1 and G2 then make use."""
        seconds = min(TUNING_SECONDS, self.left)
        _say(f"tuning, at most {seconds:.0f} s")
        shapes = [word for shape in SHAPES for word in ("--shape", shape)]
        code, said = self.call([sys.executable, "-m", "llava_kit", "kernels", "tune", *shapes], seconds)
        self.result["tuning"] = {"code": code, "said": said[-8000:], "tables": keep_tables()}

    def run_row(self, entry: Entry, share: float = 0.0) -> None:
        """`share`: seconds that the row may take if that is more than what it has among all rows."""
        seconds = self.left if self.tiny else min(max(entry.seconds, share), self.left)
        if seconds < STARTING + 5:
            self.result["rows"][entry.name] = {"row": entry.name, "notes": ["left out: no time was left"]}
            return
        _say(f"{entry.name}, at most {seconds:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "row.json"
            command = [sys.executable, "-m", f"benchmarks.gpu.{entry.module}", *entry.arguments, "--json", str(path)]
            command += ["--tiny"] if self.tiny else ["--seconds", str(seconds - STARTING)]
            code, said = self.call(command, seconds)
            found: dict[str, Any] = {"row": entry.name}
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
        found["code"] = code
        if code is None:
            found.setdefault("notes", []).append(f"cut off after {seconds:.0f} s; what is here was known by then")
        if code not in (0, 3):
            found["said"] = said[-10_000:]
        self.result["rows"][entry.name] = found


def _say(text: str) -> None:
    print(f"\n=== {text} ({datetime.now(UTC):%H:%M:%S} UTC)", flush=True)


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("make gpu: torch finds no CUDA device here; expected a machine with a GPU (docs/gpu.md)")
    return torch.cuda.get_device_name()


def keep_tables() -> list[str]:
    """Copies what was measured to where shipped tables lie (and to OUT), for whoever wants to commit it."""
    found = sorted(Path(os.environ["LLAVA_KIT_CACHE"], "kernels").glob("*.json"))
    for folder in filter(None, (TABLES, os.environ.get("OUT"))):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copy(path, folder)
    return [path.name for path in found]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(entry.name for entry in ROWS)}; default: all")
    parser.add_argument("--total", type=float, default=570, help="seconds for all (default 570)")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--no-tests", action="store_true", help="rows alone")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU: tries every line, measures nothing")
    arguments = parser.parse_args(argv)
    if arguments.tiny and arguments.folder == RESULTS:
        parser.error("--tiny measures nothing: name another --folder than that of the results")
    session = Session(arguments)
    with tempfile.TemporaryDirectory() as cache:
        # The user's own tables stay out of it: rows see those that ship and what this run measures.
        os.environ["LLAVA_KIT_CACHE"] = cache
        wanted = [entry for entry in ROWS if entry.name in arguments.rows or not arguments.rows]
        if not arguments.no_tests:
            session.run_tests()
            session.save()
        for number, entry in enumerate(wanted):
            if entry.name == "G1" and not session.tiny:
                session.tune()
            # Rows that were asked for by name have the whole time between them.
            session.run_row(entry, session.left / (len(wanted) - number) if arguments.rows else 0.0)
            session.save()
    print("\n" + gpu_table(session.result))
    print(f"written: {session.path}")
    if not arguments.tiny and arguments.folder == RESULTS:
        write_readme()
    broken = [name for name, row in session.result["rows"].items() if row.get("code") not in (0, 3)]
    if broken:
        print(f"rows that failed, were cut off or broke a claim: {', '.join(broken)}")
    return 1 if broken or session.result.get("tests", {}).get("code") not in (0, None, 5) else 0


if __name__ == "__main__":
    sys.exit(main())
