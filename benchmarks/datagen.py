"""Row D3: `llava-kit data generate` against an endpoint full of faults: 2,000 requests, killed three times with -9.

The endpoint (`stub_endpoint`) answers slowly, with 429 and Retry-After, 500, connections cut before and within an answer, wrong
JSON, empty texts, duplicates and texts of the wrong form; the client is the real one of `openai`. A request that was on its way
when the program was killed is asked again, with the same `Idempotency-Key`; no other one is. The result is compared byte by
byte with that of a run that nothing disturbs. A third run, at an endpoint that answers at once, says what a request costs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .common import Report, parse_arguments
from .stub_endpoint import Stub

OUTPUTS = ("data.jsonl", "rejected.jsonl")
KEY = "sk-stub-0123456789abcdef"
# The verb, and what it took in the end. What a parent is told of its children (`getrusage`) begins with the parent's own size.
VERB = """
import sys
from llava_kit.cli.main import main
code = main()
sys.stderr.writelines(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.exit(code)
"""


@dataclass
class Trial:
    """What came of one folder: what was written, and what the endpoint saw."""

    folder: Path
    kills: int = 0
    seconds: float = 0.0
    code: int = 0
    known_when_killed: list[set[str]] = field(default_factory=list)
    asked_again: list[str] = field(default_factory=list)
    said: str = ""

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def command(url: str, folder: Path, pictures: int, concurrency: int) -> list[str]:
    source = f"{{type: shapes, task: captions, size: {pictures}, annotations: true}}"
    teacher = f"{{type: openai, model: stub, base_url: '{url}', key_env: STUB_KEY}}"
    words = ["data", "generate", "--source", source, str(folder), "--teacher", teacher, "--concurrency", str(concurrency)]
    more = ["per_picture=2", "backoff=0.02", "tries=10", "price={input: 1.0, output: 2.0}"]
    types = "conversation=0.5,detail=0.2,reasoning=0.3"
    return [sys.executable, "-c", VERB, *words, "--types", types, *(f"--set={change}" for change in more)]


def run(stub: Stub, folder: Path, pictures: int, concurrency: int, kill_at: Sequence[float] = ()) -> Trial:
    """Runs until it is done, and kills it each time that the endpoint has served so large a share of the answers."""
    trial, wanted = Trial(folder), 2 * pictures
    environment = {**os.environ, "STUB_KEY": KEY}
    start = time.perf_counter()
    for share in [*kill_at, None]:
        process = subprocess.Popen(
            command(stub.url, folder, pictures, concurrency), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if share is not None:
            while len(stub.served) < share * wanted and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        trial.said += said.decode()
        trial.code = process.returncode
        if share is not None:
            assert process.returncode == -signal.SIGKILL, trial.said
            trial.kills += 1
            time.sleep(stub.delay * 10)  # what the endpoint still holds of the dead process
            trial.known_when_killed.append(keys_in(folder / "answers.jsonl"))
            stub.generation += 1
            before = len(stub.order)
            trial.asked_again.append(str(before))
    trial.seconds = time.perf_counter() - start
    starts = [int(place) for place in trial.asked_again]
    trial.asked_again = [
        key for known, place in zip(trial.known_when_killed, starts, strict=True) for key in stub.order[place:] if key in known
    ]
    return trial


def keys_in(path: Path) -> set[str]:
    """The keys of the whole lines of a journal of answers."""
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return {json.loads(line)["key"] for line in lines}


def settled(trial: Trial, pictures: int) -> bool:
    """Whether every answer that is wanted became a row, or stands aside with its reason."""
    if trial.code:
        print(trial.said[-2000:], file=sys.stderr)
        return False
    rows, rejected = (trial.read(name).count(b"\n") for name in OUTPUTS)
    return rows + rejected == 2 * pictures


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    report, pictures, concurrency = Report("D3", "answers of a teacher, asked through faults and kills"), 1000, 16
    with tempfile.TemporaryDirectory() as place:
        with Stub() as stub:
            killed = run(stub, Path(place, "killed"), pictures, concurrency, kill_at=(0.25, 0.5, 0.75))
            twice = sum(count > 1 for count in stub.served.values())
            most, met, served = max(stub.most.values()), dict(stub.met), len(stub.served)
        with Stub(faults={}) as calm:
            undisturbed = run(calm, Path(place, "calm"), pictures, 4)
        with Stub(delay=0.0, faults={}) as fast:
            quick = run(fast, Path(place, "fast"), pictures, concurrency)
        said = "".join(trial.said for trial in (killed, undisturbed, quick))
        memory = max((int(size) / 1024 for size in re.findall(r"VmHWM:\s+(\d+) kB", said)), default=0.0)
        summary = json.loads(killed.read("summary.json")) if killed.code == 0 else {"rows": {}, "rejected": {}}
        for name, count in met.items():
            report.figure(f"faults met: {name}", count)
        report.figure("answers kept", served)
        report.figure("rows", sum(summary["rows"].values()))
        report.figure("answers set aside", sum(summary["rejected"].values()))
        report.figure("answered twice: on their way when killed", twice, at_most=killed.kills * concurrency)
        report.figure("requests at a time, most that the endpoint saw", most, at_most=concurrency)
        report.figure("seconds, killed three times", killed.seconds, "s")
        report.figure("requests a second, endpoint that answers at once", 2 * pictures / quick.seconds, "1/s")
        report.figure("milliseconds for a request, start and writing included", 500 * quick.seconds / pictures, "ms")
        report.figure("memory of the process, peak", memory, "MiB")
        report.claim("every run ended well", killed.code == undisturbed.code == quick.code == 0)
        report.claim("no answer was lost", settled(killed, pictures) and settled(undisturbed, pictures))
        report.claim("nothing was asked again whose answer had been kept", not killed.asked_again)
        whole = killed.code == undisturbed.code == quick.code == 0
        same = whole and all(killed.read(name) == undisturbed.read(name) == quick.read(name) for name in OUTPUTS)
        report.claim("rows and what stands aside are byte for byte those of an undisturbed run", same)
        report.claim(
            "the key is nowhere: not in a file, not in what was said", KEY not in killed.said and not _holds(killed.folder)
        )
    return report.finish(arguments)


def _holds(folder: Path) -> bool:
    return any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
