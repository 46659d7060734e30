"""C7: how long the command line takes to answer, against `transformers --help` and torchrun's, and what it imports for it.

Each command is a process of its own, started turn by turn after one warm-up; the smallest wall time counts, for what another
process on the machine adds is not ours. CPU time stands beside it, and a Python that does nothing is the floor.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from .common import Report, parse_arguments

ROUNDS = 7
SCRIPTS = Path(sys.executable).parent

OURS = {
    "import llava_kit": [sys.executable, "-c", "import llava_kit"],
    "llava-kit --help": [str(SCRIPTS / "llava-kit"), "--help"],
    "llava-kit plugins list": [str(SCRIPTS / "llava-kit"), "plugins", "list"],
}
PEERS = {
    "transformers --help": [str(SCRIPTS / "transformers"), "--help"],
    "torchrun --help": [sys.executable, "-m", "torch.distributed.run", "--help"],
}
FLOOR = {"python, nothing else": [sys.executable, "-c", "pass"]}

WALL_MS = {"llava-kit --help": 120, "llava-kit plugins list": 200}
"""What a user does not notice, and what listing may add to it."""

TIMES_FASTER = 12
# Compiled modules may be kept, as everywhere: pip compiles what it installs, and the warm-up does so for a source tree.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
HEAVY = {"torch", "transformers", "numpy", "triton", "liger_kernel"}


def run_once(command: list[str]) -> tuple[float, float]:
    """Wall and CPU time of one process, in ms."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * wall, 1000 * cpu


def imported(command: list[str]) -> set[str]:
    """The modules that a command of ours imports, by Python's own account."""
    told = subprocess.run([sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True).stderr
    return {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}


def main() -> int:
    arguments = parse_arguments(__doc__)
    commands = {**FLOOR, **OURS, **PEERS}
    for command in commands.values():
        run_once(command)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(arguments.rounds or ROUNDS):
        for name, command in commands.items():
            measured[name].append(run_once(command))
    wall = {name: min(times)[0] for name, times in measured.items()}

    report = Report("C7", "start-up of the command line")
    for name, times in measured.items():
        report.figure(name, wall[name], "ms wall", at_most=WALL_MS.get(name))
        report.figure(f"{name}, processor", min(cpu for _, cpu in times), "ms CPU")
    for name in PEERS:
        report.figure(f"{name} / llava-kit --help", wall[name] / wall["llava-kit --help"], "x", at_least=TIMES_FASTER)
    for name, command in OURS.items():
        words = command[1:] if command[0] == sys.executable else command
        report.claim(f"`{name}` imports none of {', '.join(sorted(HEAVY))}", not imported(words) & HEAVY)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
