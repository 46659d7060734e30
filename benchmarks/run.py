"""`make bench`: all CPU rows of the scoreboard in turn; results under benchmarks/results/, tables into the README."""

from __future__ import annotations

import subprocess
import sys

from . import readme

DATA = ("convert", "check", "datagen", "filter")
ROWS = ("preprocess", "tokenise", "request", "splice", "packing", "startup", *DATA, "quickstart")


def main(names: list[str]) -> int:
    """Runs the named rows (all by default). A row that misses a target or breaks a claim is told; the others still run."""
    failed = []
    for name in names or ROWS:
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(readme.RESULTS / f"{name}.json")]
        if subprocess.run(command, cwd=readme.ROOT).returncode:
            failed.append(name)
    readme.main()
    if failed:
        print(f"rows with a missed target or a broken claim: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
