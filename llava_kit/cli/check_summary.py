"""What `data check` says on the terminal: what is wrong, how often, where, what to do, and how the numbers are spread."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from ..audit.reasons import REASONS, SEVERITIES
from ..audit.report import Report

# Examples of each reason; all of them are in --findings.
EXAMPLES = 3
_BARS = "▁▂▃▄▅▆▇█"
_BINS = 20
_WIDEST = 100
_TOLD = {
    "turns": "turns",
    "pictures": "pictures",
    "question_words": "words of a question",
    "answer_words": "words of an answer",
    "picture_width": "picture width",
    "picture_height": "picture height",
    "picture_kilobytes": "kilobytes of a file",
    "length": "positions",
    "picture_length": "of them for pictures",
    "tiles": "tiles",
    "targets": "learnt tokens",
    "learnt_percent": "learnt, % of positions",
}
SERIES = _TOLD
"""What is counted, as people call it."""


def width_of_terminal() -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns)


def summary_lines(report: Report, width: int) -> Iterator[str]:
    """The whole summary of one report, in lines of at most `width` letters."""
    speed = report.samples / max(report.seconds, 1e-9)
    what = "decoded" if report.decoded else "looked at by their headers"
    yield from _wrapped(f"{report.name}: {report.samples:,} samples, {report.pictures:,} pictures {what}", width)
    clean = report.samples - report.bad - report.doubtful
    yield f"{report.bad:,} with errors, {report.doubtful:,} with warnings, {clean:,} clean; {speed:,.0f} samples/s"
    for split, count in report.against.items():
        yield from _wrapped(f"compared with {split} ({count:,} samples)", width)
    for note in report.notes:
        yield from _wrapped(f"note: {note}", width)
    if report.counts:
        yield ""
        yield from _found(report, width)
    if any(report.spread.values()):
        yield ""
        yield from _spread(report.spread, width)
    if len(report.sources) > 1:
        yield ""
        named = sorted(report.sources.items(), key=lambda item: (-item[1], item[0]))
        yield from _wrapped("sources: " + ", ".join(f"{name} {count:,}" for name, count in named[:12]), width)


def _found(report: Report, width: int) -> Iterator[str]:
    for code in report.codes():
        finding = report.kept[code][0]
        reason = REASONS.get(code)
        yield f"{finding.severity:<8} {code:<26}{report.counts[code]:>9,}"
        if reason is not None:
            yield from _wrapped(f"{reason.means} -> {reason.todo}", width, "         ")
        for example in report.kept[code][:EXAMPLES]:
            yield _cut(f"         row {example.row} {_printable(example.id)!r}: {_printable(example.message)}", width)
        if report.counts[code] > EXAMPLES:
            yield f"         ... and {report.counts[code] - EXAMPLES:,} more"


def _spread(spread: Mapping[str, Mapping[int, int]], width: int) -> Iterator[str]:
    yield f"{'':<24}{'least':>8}{'median':>8}{'most':>9}"
    for name, counts in spread.items():
        if counts:
            values = sorted(counts)
            told = f"{_TOLD.get(name, name):<24}{values[0]:>8,}{median_of(counts):>8,}{values[-1]:>9,}"
            yield f"{told}  {bars(counts)}"[:width]


def median_of(counts: Mapping[int, int]) -> int:
    """The value in the middle."""
    half, before = sum(counts.values()) / 2, 0
    for value in sorted(counts):
        before += counts[value]
        if before >= half:
            return value
    raise AssertionError("there are no values")


def bars(counts: Mapping[int, int]) -> str:
    """How values are spread from the least to the most, as a row of small bars; nothing where all are equal."""
    least, most = min(counts), max(counts)
    if least == most:
        return ""
    number = min(_BINS, most - least + 1)
    bins = [0] * number
    for value, count in counts.items():
        bins[min(number - 1, (value - least) * number // (most - least + 1))] += count
    highest = max(bins)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] if count else " " for count in bins)


def explain_lines(width: int) -> Iterator[str]:
    """The table of all reasons."""
    for severity in SEVERITIES:
        yield {
            "error": "error: cannot be trained on, or teaches something false; exit code 3",
            "warning": "warning: probably not meant; exit code 3 with --strict",
            "note": "note: worth knowing",
        }[severity]
        for code, reason in REASONS.items():
            if reason.severity == severity:
                yield from _wrapped(f"{code:<24} {reason.means} -> {reason.todo}", width, "  ", " " * 27)
        yield ""


def _wrapped(text: str, width: int, first: str = "", rest: str | None = None) -> Sequence[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def _printable(text: str) -> str:
    """Text of a stranger as a terminal may be given it: no escape sequences, no halves of characters, one line."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
