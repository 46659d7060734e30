"""Row C8: the quick start through the public command, three seeds: held-out accuracy and the wall time from start to report."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .common import Report, environment

ROOT = Path(__file__).parents[1]


def run_once(seed: int, folder: Path, *overrides: str) -> dict:
    """One run in a process of its own, timed from its start."""
    command = [sys.executable, "-m", "llava_kit", "train", str(ROOT / "recipes" / "quickstart.yaml")]
    start = time.perf_counter()
    subprocess.run([*command, f"seed={seed}", f"output={folder}", *overrides], check=True)
    seconds = time.perf_counter() - start
    evaluation = json.loads((folder / "quickstart" / "latest" / "evaluation.json").read_text(encoding="utf-8"))
    return {"seed": seed, "seconds": round(seconds, 1), "evaluation": evaluation}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args(argv)
    report = Report("C8", "the quick start")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            run = run_once(seed, Path(folder) / str(seed))
            runs.append(run)
            accuracy, unseen = run["evaluation"]["accuracy"], run["evaluation"]["groups"]["unseen"]["accuracy"]
            gap = run["evaluation"]["wrong_picture"]["all"] - run["evaluation"]["majority"]["all"]
            report.figure(f"seed {seed}: accuracy", accuracy["all"], at_least=0.95)
            report.figure(f"seed {seed}: accuracy, worst type", min(accuracy.values()), at_least=0.85)
            report.figure(f"seed {seed}: accuracy on combinations never seen", unseen["all"], at_least=0.95)
            report.figure(f"seed {seed}: the same, worst type", min(unseen.values()), at_least=0.85)
            report.figure(f"seed {seed}: wrong picture above majority", gap, at_most=0.05)
            report.figure(f"seed {seed}: wall", run["seconds"], "s", at_most=240)
    code = report.finish(arguments)
    if arguments.json is not None:
        result = json.loads(arguments.json.read_text(encoding="utf-8"))
        arguments.json.write_text(json.dumps({**result, "environment": environment(), "runs": runs}, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
