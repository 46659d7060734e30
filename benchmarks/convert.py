"""How fast `data convert` is, and how much memory it takes: rows with JPEG files, copied byte for byte.

No peer: nothing like it is published. A plain copy of the same files is the most that could be had. The pictures are procedural
photographs of 640 x 480, each row with a file of its own (a few bytes behind the picture's end); every header is looked at and
every file is hashed. One and two processes; memory is that of a process that converts 10,000 and then 50,000 rows of text.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from llava_kit.assemble.parts import build
from llava_kit.convert.block import Settings
from llava_kit.convert.run import convert

from .check import write_rows
from .common import Report, parse_arguments
from .photos import HALVED_COLOURS, QUALITY, photograph

PICTURE_ROWS, PHOTOGRAPHS = 2_000, 20
FEW, MANY = 10_000, 50_000
FORMS = ("llava", "parquet", "webdataset")


def timed(path: Path, folder: Path, form: str, workers: int) -> float:
    """Seconds that the conversion took; its result is removed."""
    source = build("source", "llava_json", path=str(path))
    start = time.perf_counter()
    done = convert(source, len(source), folder, Settings(form), workers=workers)
    seconds = time.perf_counter() - start
    assert (done.samples, done.counts["pictures"]) == (PICTURE_ROWS, PICTURE_ROWS)
    shutil.rmtree(folder)
    return seconds


def peak(path: Path, folder: Path) -> float:
    """Megabytes that a process of its own took at most, above what it began with."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        source = build("source", "llava_json", path=str(path))
        convert(source, len(source), folder)
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    shutil.rmtree(folder)
    return receiver.recv()


def main() -> int:
    arguments = parse_arguments(__doc__)
    report = Report("D1", "data convert: rows a second, one and two processes")
    pictures = []
    for seed in range(PHOTOGRAPHS):
        stream = io.BytesIO()
        photograph(640, 480, seed).save(stream, "JPEG", quality=QUALITY, subsampling=HALVED_COLOURS)
        pictures.append(stream.getvalue())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_rows(folder / "rows", PICTURE_ROWS, pictures)
        megabytes = sum(file.stat().st_size for file in (folder / "rows").iterdir()) / 1e6
        start = time.perf_counter()
        shutil.copytree(folder / "rows", folder / "copied")
        copied = time.perf_counter() - start
        shutil.rmtree(folder / "copied")
        report.figure("the same files by copytree", megabytes / copied, "MB/s")
        for form in FORMS:
            for workers in (1, 2):
                best = min(timed(path, folder / "out", form, workers) for _ in range(arguments.rounds or 2))
                report.figure(f"{form}, {workers} processes, rows", PICTURE_ROWS / best, "rows/s")
                report.figure(f"{form}, {workers} processes, bytes", megabytes / best, "MB/s")
        few, many = (peak(write_rows(folder / str(count), count, []), folder / "out") for count in (FEW, MANY))
        report.figure(f"memory above the start, {FEW:,} rows", few, "MB")
        report.figure(f"memory above the start, {MANY:,} rows", many, "MB")
        # 40,000 rows more have 12 bytes each in the source's index of places; the rest is the allocator's.
        report.claim("memory does not grow with the rows (10 MB at most)", many - few < 10)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
