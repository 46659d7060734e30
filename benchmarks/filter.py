"""The concept-balanced filter on synthetic captions whose phrases are spread as those of a language (Zipf).

The phrase finder is left out (its captions come with their phrases) and measured alone. What is timed:
- the rule: phrases counted, captions chosen;
- all but the finder: the rule, phrases written to disk and read again, two passes over a source in memory, rows written.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava_kit.captions.choose import Postings, choose
from llava_kit.captions.phrases import open_finder
from llava_kit.captions.run import JOURNAL, filter_captions
from llava_kit.captions.spool import Spool
from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import Conversation, ImageFile, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import LlavaKitError
from llava_kit.recipe.blocks import Part
from llava_kit.recipe.filter_captions import FilterCaptions

from .common import Report, parse_arguments

CAPTIONS = 1_000_000  # of the rule; CC3M has 3.3 million
WRITTEN = 100_000  # of the whole filter
PHRASES, EACH = 2_000_000, 4  # of which CC3M's captions say some four each


class Drawn(DataSource):
    """Captions that are drawn; `phrases` says what they say."""

    def __init__(self, count: int):
        self.said = draw(np.random.default_rng(1), count)

    def __len__(self) -> int:
        return len(self.said)

    def __getitem__(self, index: int) -> Sample:
        turns = (Message("user", (ImageSlot(0),)), Message("assistant", (str(index),)))
        image = ImageFile(f"{index}.jpg", "/data")
        return Sample(str(index), Conversation(turns), (image,), annotations=Annotations((str(index),)))

    def fingerprint(self) -> str:
        return "drawn"


class Told:
    """A finder that takes no time: captions are numbers of what was drawn."""

    name = "told"

    def __init__(self, source: Drawn):
        self.said = source.said

    def phrases(self, captions: Sequence[str]) -> list[list[str]]:
        return [self.said[int(caption)] for caption in captions]


def draw(generator: np.random.Generator, count: int) -> list[list[str]]:
    ranks = (generator.zipf(1.15, size=(count, EACH)) - 1) % PHRASES
    return [[f"phrase {rank}" for rank in several] for several in ranks.tolist()]


def measure_rule(report: Report, count: int) -> None:
    generator, seconds = np.random.default_rng(0), 0.0
    postings, before = Postings(), _memory()
    for first in range(0, count, 10_000):
        said = draw(generator, min(10_000, count - first))
        begin = time.process_time()
        for row, phrases in enumerate(said, first):
            postings.add(row, phrases)
        seconds += time.process_time() - begin
    counted = _memory() - before
    begin = time.process_time()
    choice = choose(postings, least=3, most=100, seed=0)
    seconds += time.process_time() - begin
    report.figure("rule: captions a second of CPU time", count / seconds, "1/s", at_least=20_000)
    report.figure(f"rule: memory for the postings of {count:,} captions", counted, "MiB")
    report.figure("rule: memory with choosing, at its highest", _memory() - before, "MiB")
    report.figure("captions chosen", len(choice.captions) / count, "of all")
    report.figure("different phrases", choice.num_phrases)
    report.figure("of them skipped as rare", choice.num_rare)
    report.claim(
        "every phrase that was not skipped is still said", choice.num_frequent_after == choice.num_phrases - choice.num_rare
    )


def measure_whole(report: Report, count: int) -> None:
    source, folder = Drawn(count), Path(tempfile.mkdtemp())
    options = FilterCaptions(source=Part(type="drawn"), to=str(folder / "out"), workers=1)
    try:
        begin = time.process_time()
        done = filter_captions(options, source, Told(source))
        seconds = time.process_time() - begin
        begin = time.process_time()
        spool = Spool(folder / "out" / JOURNAL)
        choose(spool.postings, least=3, most=100, seed=0)
        again = time.process_time() - begin
    finally:
        shutil.rmtree(folder)
    report.figure("phrases read from disk, rule: captions a second", count / again, "1/s", at_least=20_000)
    report.figure("all but the finder, rows written: captions a second", count / seconds, "1/s")
    report.figure("rows written of them", done.statistics["rows_written"])


def measure_finder(report: Report) -> None:
    lines = (Path(__file__).parent / "noun_phrases.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.replace("[", "").replace("]", "") for line in lines if line and not line.startswith("#")] * 10
    for name in ("textblob", "spacy:en_core_web_sm"):
        try:
            finder = open_finder(name)
        except LlavaKitError:
            continue
        begin = time.process_time()
        finder.phrases(captions)
        report.figure(f"{name}: captions a second, one process", len(captions) / (time.process_time() - begin), "1/s")


def _memory() -> float:
    """The most memory that was in use so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    report = Report("D4", "captions a second: the concept-balanced filter")
    measure_rule(report, CAPTIONS)
    measure_whole(report, WRITTEN)
    measure_finder(report)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
