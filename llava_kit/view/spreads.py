"""How lengths, sizes and sources are spread: counted over a stated sample of rows, in the background, drawn at any time."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from ..core.conversation import Sample
from ..pages.histogram import histogram
from ..store.facts import facts_of
from .boxes import count_boxes
from .gallery import Gallery

# Rows that are counted, spread evenly over all: a bin that holds a tenth of them is off by 1 % of its height (1 / sqrt(n)).
ROWS = 10_000
# Sources in the table; what is rarer is one line.
SOURCES = 30


class Spreads:
    """Counts of the rows `0, step, 2 step ...`, at most `ROWS` of them; they grow while a thread reads."""

    def __init__(self, gallery: Gallery, rows: int = ROWS):
        self.gallery = gallery
        self.numbers = range(0, gallery.count, max(1, -(-gallery.count // rows)))
        self.done = 0
        self.unreadable = 0
        self.sources: Counter[str] = Counter()
        self._counts: dict[str, Counter[float]] = {name: Counter() for name in self._names()}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _names(self) -> list[str]:
        with_recipe = ["positions", "learnt"] if self.gallery.lens.maker is not None else []
        return ["question", "answer", "turns", "pictures", "boxes", "longest", "ratio", *with_recipe]

    def start(self) -> None:
        """Begin to count in the background; at the second call nothing happens."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self.run, daemon=True, name="llava-kit histograms")
                self._thread.start()

    def run(self) -> None:
        """Count all."""
        for number in self.numbers:
            if self._stop.is_set():
                return
            self._count(number)
            self.done += 1

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _count(self, number: int) -> None:
        try:
            source, found = self._facts(self.gallery.sample(number))
        except Exception:  # besides SampleError whatever a source of somebody else makes of a row
            self.unreadable += 1
            return
        with self._lock:
            self.sources[source] += 1
            for name, value in found:
                self._counts[name][value] += 1

    def _facts(self, sample: Sample) -> tuple[str, list[tuple[str, float]]]:
        facts = facts_of(sample)
        found: list[tuple[str, float]] = [
            ("question", facts.question_words),
            ("answer", facts.answer_words),
            ("turns", facts.num_turns),
            ("pictures", facts.num_pictures + facts.num_clips),
            ("boxes", count_boxes(sample)),
        ]
        for width, height in facts.sizes:
            found += [("longest", max(width, height)), ("ratio", round(width / height, 2))]
        if counts := self.gallery.lens.counts(sample):
            found += [("positions", counts[0]), ("learnt", counts[1])]
        return facts.source, found

    def told(self) -> dict[str, Any]:
        """The charts as SVG texts, the sources, and how many rows were counted."""
        with self._lock:
            counts = {name: dict(found) for name, found in self._counts.items()}
            sources = self.sources.most_common()
        return {
            "done": self.done,
            "rows": len(self.numbers),
            "of": self.gallery.count,
            "unreadable": self.unreadable,
            "finished": self.done == len(self.numbers),
            "sources": [list(pair) for pair in sources[:SOURCES]],
            "rarer": [len(sources[SOURCES:]), sum(count for _, count in sources[SOURCES:])],
            "charts": _charts(counts),
        }


def _charts(counts: dict[str, dict[float, int]]) -> list[dict[str, str]]:
    def chart(title: str, x_label: str, name: str, log: bool = False) -> dict[str, str]:
        return {"title": title, "svg": histogram({title: counts[name]}, x_label=x_label, log=log)}

    charts = [
        chart("Words of the questions", "words a sample (logarithmic)", "question", log=True),
        chart("Words of the answers", "words a sample (logarithmic)", "answer", log=True),
        chart("Turns", "turns a sample, both sides", "turns"),
        chart("Pictures and clips", "pictures a sample", "pictures"),
        chart("Longest sides", "pixels of a picture (logarithmic)", "longest", log=True),
        chart("Shapes", "width : height of a picture (logarithmic)", "ratio", log=True),
        chart("Boxes", "boxes a sample, in the text and beside it", "boxes"),
    ]
    if "positions" in counts:
        charts += [
            chart("Positions", "positions a sample, visual rows included (logarithmic)", "positions", log=True),
            chart("Learnt tokens", "tokens a sample (logarithmic)", "learnt", log=True),
        ]
    return charts
