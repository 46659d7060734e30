"""How fast `data check` is, and how much memory it takes: rows with JPEG files, and rows of text alone.

No peer: nothing like it is published. Two processes, as by default; every picture is decoded. The pictures are 200 procedural
photographs of 640 x 480; each row has a file of its own, with a few bytes behind the picture's end, so that none is the same.
Memory is that of this process (the marks of all rows) and of the larger of its workers, above what they had at the start.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from llava_kit.assemble.parts import build
from llava_kit.audit.check import check
from llava_kit.audit.likeness import LOOK_SIDE, alike_pairs

from .common import Report, parse_arguments
from .photos import HALVED_COLOURS, QUALITY, photograph
from .tokenise import pseudo_words, sentence

PICTURE_ROWS, TEXT_ROWS, PHOTOGRAPHS = 6_000, 40_000, 60
HASHES = 1_000_000
# 100,000 rows in "minutes": four of them.
ENOUGH = 100_000 / 240


def write_rows(folder: Path, count: int, pictures: list[bytes]) -> Path:
    """Conversations of two turns, each with a picture file of its own where there are `pictures`."""
    generator = np.random.default_rng(0)
    words = pseudo_words(generator)
    folder.mkdir()
    path = folder / "data.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            texts = [sentence(generator, words, length) for length in (9, 40, 9, 12)]
            row: dict[str, object] = {"id": f"row-{number}"}
            if pictures:
                (folder / f"{number}.jpg").write_bytes(pictures[number % len(pictures)] + number.to_bytes(4, "little"))
                row["image"] = f"{number}.jpg"
                texts[0] = f"<image>\n{texts[0]}"
            row["conversations"] = [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(texts)]
            file.write(json.dumps(row) + "\n")
    return path


def megabytes() -> float:
    """The most that this process and the largest of its ended children have had."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def main() -> int:
    arguments = parse_arguments(__doc__)
    report = Report("D2", "data check: rows a second, two processes")
    pictures = []
    for seed in range(PHOTOGRAPHS):
        stream = io.BytesIO()
        photograph(640, 480, seed).save(stream, "JPEG", quality=QUALITY, subsampling=HALVED_COLOURS)
        pictures.append(stream.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        for name, count, shown in (("text", TEXT_ROWS, []), ("640 x 480 JPEG", PICTURE_ROWS, pictures)):
            path = write_rows(Path(folder) / name.split()[0], count, shown)
            source = build("source", "llava_json", path=str(path))
            before = megabytes()
            found = check(source)
            report.figure(f"rows a second, {name}", found.samples / found.seconds, "rows/s", at_least=ENOUGH)
            report.figure(f"memory above the start, {name}", megabytes() - before, "MB", at_most=1024)
            expected = {"near_duplicate_picture": count - PHOTOGRAPHS} if shown else {}
            report.claim(
                f"{name}: the pictures that are there again are found, and nothing else", dict(found.counts) == expected
            )
    search(report)
    return report.finish(arguments)


def search(report: Report) -> None:
    """Near pairs among a million hashes: nobody's are near but those of a thousand copies."""
    import time

    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, HASHES, np.uint64)
    copies = generator.choice(HASHES, 2_000, replace=False).reshape(2, -1)
    bits = np.uint64(1) << generator.integers(0, 64, (3, 1_000), np.uint64)
    hashes[copies[1]] = hashes[copies[0]] ^ bits[0] ^ bits[1] ^ bits[2]
    look = generator.integers(0, 256, (1, 3 * LOOK_SIDE**2), np.uint8)
    start = time.process_time()
    found = alike_pairs(hashes, lambda numbers: np.repeat(look, len(numbers), 0))
    report.figure("a million hashes searched", time.process_time() - start, "s", at_most=120)
    report.claim(
        "all copies with three bits changed are found", len(found) >= len({tuple(sorted(pair)) for pair in copies.T.tolist()})
    )


if __name__ == "__main__":
    sys.exit(main())
