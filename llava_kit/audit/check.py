"""A source checked from its first row to its last: each row by itself, then the rows against each other and other splits."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ..core.source import DataSource
from ..data.workers import make_ahead
from ..errors import LlavaKitError, SampleError, TrainingError
from . import compare
from .markers import Markers, markers_of
from .reasons import reason_of
from .report import KEPT, Finding, Report
from .row import ROWS_AT_ONCE, Looked, RowChecker
from .seen import Seen

if TYPE_CHECKING:
    from ..data.example import ExampleMaker

Show = Callable[[int, int], None]
WORKERS = 2
# Sources that a report names; those beyond are counted together.
MAX_SOURCES = 1000


def check(
    source: DataSource,
    count: int | None = None,
    *,
    name: str = "data",
    maker: ExampleMaker | None = None,
    against: Mapping[str, DataSource] | None = None,
    decode: bool = True,
    workers: int = WORKERS,
    show: Show | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """All that is wrong with the first `count` samples of `source` (default: all of them).

    `maker` makes the examples of a recipe's stage: with it tokens, tiles and what `max_length` cuts are looked at. `against`
    are other splits by name, none of whose pictures and questions should be here. `decode=False` reads headers alone, so that
    damage within pictures and near duplicates are not found. So many `workers` (processes) look at rows; 0: this one.
    `on_finding` is given every finding as it is made; the report keeps the first of each reason.

    Raises:
        LlavaKitError: a worker died; or there are not as many samples.
    """
    start = time.perf_counter()
    if count is None:
        count = len(source)
    if not 0 <= count <= len(source):
        raise LlavaKitError(f"check: found count {count}; the source has {len(source)} samples")
    splits = dict(against or {})
    markers = Markers() if maker is None else markers_of(maker.template, maker.tokenizer)
    total = count + sum(map(len, splits.values()))
    tally = _Tally(count, on_finding)
    with ExitStack() as stack:
        seen = stack.enter_context(Seen())
        done = 0
        for looked in _rows(RowChecker(source, count, decode=decode, markers=markers, maker=maker), workers):
            tally.add(looked)
            seen.add(looked.marks)
            done += looked.num_rows
            if show is not None:
                show(done, total)
        pictures = seen.pictures()
        names = _Names(source)
        tally.found(compare.within(seen, pictures, names.id_of, names.picture_of))
        for split, other in splits.items():
            theirs = stack.enter_context(Seen())
            for looked in _rows(RowChecker(other, len(other), decode=decode, markers=markers, maker=None), workers):
                theirs.add(looked.marks)
                done += looked.num_rows
                if show is not None:
                    show(done, total)
            tally.found(compare.between(seen, pictures, split, theirs, theirs.pictures(), names.id_of, names.picture_of))
        num_pictures = len(np.unique(pictures.names))
    return Report(
        name=name,
        samples=count,
        bad=int(np.count_nonzero(tally.worst == 2)),
        doubtful=int(np.count_nonzero(tally.worst == 1)),
        pictures=num_pictures,
        decoded=decode,
        counts=dict(tally.counts),
        kept={code: tuple(found) for code, found in tally.kept.items()},
        spread={code: dict(found) for code, found in tally.spread.items()},
        sources=dict(tally.sources),
        against={split: len(other) for split, other in splits.items()},
        seconds=time.perf_counter() - start,
    )


def _rows(checker: RowChecker, workers: int) -> Iterator[Looked]:
    """The rows looked at, chunk by chunk in order, by so many processes; of each at most one chunk waits."""
    chunks = -(-checker.count // ROWS_AT_ONCE)
    if workers < 1 or chunks < 2:
        yield from map(checker.chunk, range(chunks))
        return
    try:
        yield from make_ahead(checker.chunk, 0, chunks, workers)
    except TrainingError as error:
        # Said for training; here nothing was begun that could go on.
        died = str(error).partition(";")[0]
        raise LlavaKitError(f"{died}; if memory ran out, --workers 1 needs less") from error


class _Tally:
    """Findings counted; of each row the worst."""

    def __init__(self, count: int, on_finding: Callable[[Finding], None] | None):
        self.worst = np.zeros(count, np.uint8)  # 2: an error, 1: a warning
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Finding]] = defaultdict(list)
        self.spread: dict[str, Counter[int]] = defaultdict(Counter)
        self.sources: Counter[str] = Counter()
        self._on_finding = on_finding

    def add(self, looked: Looked) -> None:
        self.found(looked.findings)
        for code, found in looked.spread.items():
            self.spread[code].update(found)
        for code, number in looked.sources.items():
            self.sources[code if code in self.sources or len(self.sources) < MAX_SOURCES else "(others)"] += number

    def found(self, findings: list[Finding] | Iterator[Finding]) -> None:
        for finding in findings:
            self.counts[finding.reason] += 1
            if len(self.kept[finding.reason]) < KEPT:
                self.kept[finding.reason].append(finding)
            weight = {"error": 2, "warning": 1, "note": 0}[reason_of(finding.reason).severity]
            self.worst[finding.row] = max(int(self.worst[finding.row]), weight)
            if self._on_finding is not None:
                self._on_finding(finding)


class _Names:
    """Ids and picture names of rows that are read once more: keeping all of them would take most of the memory."""

    def __init__(self, source: DataSource):
        self.source = source

    def id_of(self, row: int) -> str:
        try:
            return self.source[row].id
        except SampleError as error:
            return error.sample_id or f"row {row}"

    def picture_of(self, row: int, slot: int) -> str:
        return self.source[row].images[slot].name
