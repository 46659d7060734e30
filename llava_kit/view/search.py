"""Which samples match: a question that all rows are asked in the background, while what was found so far is shown."""

from __future__ import annotations

import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.conversation import Sample
from ..errors import LlavaKitError, SampleError, suggest
from ..store.facts import facts_of
from .gallery import Gallery, bad_row

# Searches that are kept at a time: tabs of one person. The oldest is stopped and forgotten.
KEPT = 4
# A scan that nobody has asked about for so long waits; the page asks twice a second.
IDLE_SECONDS = 20.0
_PICTURES = ("0", "1", "many")


@dataclass(frozen=True)
class Query:
    """What is looked for; empty fields match all. `least` and `most` are words of all turns."""

    text: str = ""
    source: str = ""
    pictures: str = ""
    boxes: bool = False
    problem: bool = False
    least: int | None = None
    most: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == Query()

    def matches(self, gallery: Gallery, number: int) -> bool:
        """Whether sample `number` is looked for; what is dear to find out is asked last."""
        try:
            sample = gallery.sample(number)
        except SampleError as error:
            row = bad_row(number, error)
            # Of a row that cannot be read nothing is known but its name.
            return self._facts_match(row) and self.text.casefold() in row["id"].casefold()
        if self.text and self.text.casefold() not in text_of(sample).casefold():
            return False
        row = gallery.facts(number, sample, facts_of(sample, sizes=False))
        return self._facts_match(row) and (not self.problem or gallery.problem(sample) is not None)

    def _facts_match(self, row: Mapping[str, Any]) -> bool:
        pictures = "many" if row["pictures"] > 1 else str(row["pictures"])
        return (
            (not self.source or row["source"] == self.source)
            and (not self.pictures or pictures == self.pictures)
            and (not self.boxes or row["boxes"] > 0)
            and (self.least is None or row["words"] >= self.least)
            and (self.most is None or row["words"] <= self.most)
        )


def read_query(fields: Mapping[str, str]) -> Query:
    """The query in the fields of a request; unknown ones are somebody else's. Raises LlavaKitError for a wrong value."""
    pictures = fields.get("pictures", "")
    if pictures and pictures not in _PICTURES:
        raise LlavaKitError(f"pictures: found {pictures!r}; {suggest(pictures, _PICTURES)}")
    return Query(
        text=fields.get("text", ""),
        source=fields.get("source", ""),
        pictures=pictures,
        boxes=fields.get("boxes", "") == "1",
        problem=fields.get("problem", "") == "1",
        least=read_number("least", fields["least"]) if fields.get("least") else None,
        most=read_number("most", fields["most"]) if fields.get("most") else None,
    )


def read_number(name: str, text: str) -> int:
    """A whole number from 0 on. Raises LlavaKitError for anything else, also for one that no list is long enough for."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise LlavaKitError(f"{name}: found {shown!r}; expected a whole number from 0 on")
    return int(text)


def text_of(sample: Sample) -> str:
    """All that a search looks at: id, system text, turns, captions."""
    parts = [sample.id, sample.conversation.system or "", *(message.text for message in sample.conversation.messages)]
    return "\n".join([*parts, *sample.annotations.captions])


class Scan:
    """One query's way through all rows, in a thread of its own; memory holds 4 bytes for each match."""

    def __init__(self, gallery: Gallery, query: Query):
        self.gallery, self.query = gallery, query
        self.matches = array("I")
        self.done = 0
        self._asked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="llava-kit search")
        self._thread.start()

    @property
    def finished(self) -> bool:
        return self.done == self.gallery.count

    def numbers(self, start: int, count: int) -> list[int]:
        """Of what was found so far, `count` from place `start` on."""
        self._asked = time.monotonic()
        return list(self.matches[start : start + count])

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stop.set()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether the scan has come to its end within so many seconds."""
        self._thread.join(seconds)
        return self.finished

    def _matches(self, number: int) -> bool:
        try:
            return self.query.matches(self.gallery, number)
        except Exception:  # a source of somebody else may give anything: what cannot be asked is shown, not lost
            return True

    def _run(self) -> None:
        for number in range(self.gallery.count):
            while time.monotonic() - self._asked > IDLE_SECONDS and not self._stop.is_set():
                self._stop.wait(0.2)
            if self._stop.is_set():
                return
            if self._matches(number):
                self.matches.append(number)
            self.done = number + 1


class Scans:
    """The scans of a page's visitors, the last `KEPT` of them."""

    def __init__(self, gallery: Gallery):
        self.gallery = gallery
        self._scans: OrderedDict[Query, Scan] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, query: Query) -> Scan:
        """The scan for `query`, begun now or before."""
        with self._lock:
            if query not in self._scans:
                while len(self._scans) >= KEPT:
                    self._scans.popitem(last=False)[1].stop()
                self._scans[query] = Scan(self.gallery, query)
            self._scans.move_to_end(query)
            return self._scans[query]

    def stop(self) -> None:
        with self._lock:
            for scan in self._scans.values():
                scan.stop()
