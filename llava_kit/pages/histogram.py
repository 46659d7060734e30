"""How numbers are spread: histograms of one or several series, and frequencies by rank, as inline SVG like `pages.charts`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from .charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, legend, ticks

# Series that have a colour in the style of the pages (`series-1` to `series-5`); more could not be told apart either.
MAX_SERIES = 5
# Up to so many series stand side by side in a bin; more would be hairs, and are drawn as outlines.
MAX_SIDE_BY_SIDE = 3
# Points that a line over ranks keeps, spread evenly over the logarithm.
RANK_POINTS = 200

Values = Iterable[float] | Mapping[float, int]
"""Numbers, or numbers with how often each was found (which is what stays small where rows are many)."""

NOTHING = '<p class="muted">nothing to show</p>'


class _Axis(NamedTuple):
    """Bin edges on an axis that counts in v, or in log(1 + v), where 0 keeps a place."""

    edges: list[float]
    log: bool
    whole: bool = False
    """It is of whole numbers: they stand in the middle of their bins, and nothing is written between them."""

    def place(self, value: float) -> float:
        """The value in pixels from the left."""
        low, high = self._scale(self.edges[0]), self._scale(self.edges[-1])
        return LEFT + (self._scale(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def bin_of(self, value: float) -> int:
        return min(max(bisect_right(self.edges, value) - 1, 0), len(self.edges) - 2)

    def _scale(self, value: float) -> float:
        return math.log1p(value) if self.log else value


def histogram(values_by_name: Mapping[str, Values], *, x_label: str, log: bool = False, bins: int = 24) -> str:
    """How the numbers of each series are spread over common bins, with a legend where there are several series.

    One series is counted; several are drawn as shares of each, so that sources of different sizes can be compared. With `log`
    the axis counts in log(1 + v), for numbers from 0 on with a long tail. Whole numbers never share a bin with none.
    What is not finite is left out, and so are series beyond `MAX_SERIES`, which the legend tells.
    """
    assert bins > 0
    counted = {name: _counted(values) for name, values in list(values_by_name.items())[:MAX_SERIES]}
    every = [value for counts in counted.values() for value in counts]
    if not every:
        return NOTHING
    axis = _axis(min(every), max(every), log, bins, all(float(value).is_integer() for value in every))
    heights = {name: _binned(counts, axis) for name, counts in counted.items()}
    shares = len(counted) > 1
    drawn = {name: [_height(count, sum(bars), shares) for count in bars] for name, bars in heights.items()}
    top = max(max(bars) for bars in drawn.values()) * 1.05
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_told(x_label, counted))}">']
    parts += _y_lines(top, shares)
    parts += _x_ticks(axis, x_label)
    draw = _bars if len(drawn) <= MAX_SIDE_BY_SIDE else _outlines
    parts += draw(drawn, heights, axis, top)
    parts.append("</svg>")
    names = list(drawn)
    if len(values_by_name) > MAX_SERIES:
        names.append(f"(and {len(values_by_name) - MAX_SERIES} more, not drawn)")
    return "".join(parts) + (legend(names) if shares else "")


def rank_chart(frequencies_by_name: Mapping[str, Iterable[int]], *, x_label: str = "rank", y_label: str = "frequency") -> str:
    """Frequencies from the highest down against their rank, both axes logarithmic; a line for each series (at most five).

    Words and phrases of a language fall on a straight line here (Zipf), and a filter shows as a knee.
    """
    named = list(frequencies_by_name.items())[:MAX_SERIES]
    lines = {name: sorted((count for count in counts if count > 0), reverse=True) for name, counts in named}
    lines = {name: counts for name, counts in lines.items() if counts}
    if not lines:
        return NOTHING
    x_high = max(2.0, *(float(len(counts)) for counts in lines.values()))
    y_high = max(2.0, *(float(counts[0]) for counts in lines.values()))

    def place(rank: float, count: float) -> tuple[float, float]:
        x = LEFT + math.log(rank) / math.log(x_high) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - math.log(count) / math.log(y_high) * (HEIGHT - TOP - BOTTOM)

    told = f"{y_label} by {x_label}, both logarithmic: {', '.join(lines)}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">']
    for tick in _powers(y_high):
        parts.append(_y_line(place(1, tick)[1], short(tick)))
    for tick in _powers(x_high):
        parts.append(_x_tick(place(tick, 1)[0], short(tick)))
    parts.append(_x_name(x_label))
    for number, (name, counts) in enumerate(lines.items(), 1):
        points = " ".join("{:.1f},{:.1f}".format(*place(rank, counts[rank - 1])) for rank in _log_spaced(len(counts)))
        tip = f"{escape(name)}: {len(counts):,} different, the most frequent {counts[0]:,} times"
        parts.append(f'<polyline class="line series-{number}" points="{points}"><title>{tip}</title></polyline>')
    parts.append("</svg>")
    return "".join(parts) + (legend(list(lines)) if len(lines) > 1 else "")


def short(number: float) -> str:
    """A number as it is written beside an axis: 1500 is 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _counted(values: Values) -> dict[float, int]:
    found = Counter(dict(values)) if isinstance(values, Mapping) else Counter(values)
    return {value: count for value, count in found.items() if math.isfinite(value) and count > 0}


def _axis(low: float, high: float, log: bool, bins: int, whole: bool) -> _Axis:
    if log and whole and high - low < bins:
        return _Axis([low - 0.5 + number for number in range(int(high - low) + 2)], True, True)
    if log:
        assert low >= 0, "a logarithmic axis begins at 0"
        start, end = math.log1p(low), math.log1p(max(high, low + 1))
        edges = [math.expm1(start + (end - start) * number / bins) for number in range(bins + 1)]
        return _Axis(_whole_edges(edges) if whole else edges, True, whole)
    if whole:
        # The same number of whole numbers in each bin; else every few bins would look taller than their neighbours.
        wide = math.ceil((high - low + 1) / bins)
        count = math.ceil((high - low + 1) / wide)
        return _Axis([low - 0.5 + wide * number for number in range(count + 1)], False, True)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return _Axis([low + (high - low) * number / bins for number in range(bins + 1)], False)


def _whole_edges(edges: list[float]) -> list[float]:
    """Edges between whole numbers, each bin at least one of them wide; else narrow bins would stand empty between others."""
    found = [round(edges[0]) - 0.5]
    for edge in edges[1:]:
        if edge >= found[-1] + 1:
            found.append(math.floor(edge) + 0.5)
    last = round(edges[-1]) + 0.5
    if len(found) > 1 and last - found[-1] < found[-1] - found[-2]:
        found.pop()  # a narrow last bin would be a hair
    return [*found, last]


def _binned(counts: Mapping[float, int], axis: _Axis) -> list[int]:
    bars = [0] * (len(axis.edges) - 1)
    for value, count in counts.items():
        bars[axis.bin_of(value)] += count
    return bars


def _height(count: int, total: int, shares: bool) -> float:
    return count / max(total, 1) if shares else float(count)


def _told(x_label: str, counted: Mapping[str, Mapping[float, int]]) -> str:
    """The chart in words, for those who do not see it."""
    said = []
    for name, counts in counted.items():
        if counts:
            said.append(f"{name}: {sum(counts.values())} values from {min(counts):g} to {max(counts):g}")
        else:
            said.append(f"{name}: none")
    return f"histogram of {x_label}; " + "; ".join(said)


def _y_lines(top: float, shares: bool) -> list[str]:
    lines = []
    for tick in ticks(0, top) if shares else _whole(ticks(0, top)):
        y = HEIGHT - BOTTOM - tick / top * (HEIGHT - TOP - BOTTOM)
        lines.append(_y_line(y, f"{100 * tick:g}%" if shares else short(tick)))
    return lines


def _x_ticks(axis: _Axis, x_label: str) -> list[str]:
    low, high = axis.edges[0], axis.edges[-1]
    if axis.log:
        # 0 and powers of ten, with halves and fifths between where there are few.
        steps = [0.0, *(factor * 10.0**power for power in range(10) for factor in (1, 2, 5))]
        places = [tick for tick in steps if low <= tick + 1e-9 and tick <= high * (1 + 1e-9)]
        if len(places) > 8:
            places = [tick for tick in places if tick == 0 or math.log10(tick).is_integer()]
        if len(places) < 3:
            places = ticks(low, high)
    else:
        places = ticks(low, high, 8)
    if axis.whole:
        places = _whole(places)
    return [*(_x_tick(axis.place(tick), short(tick)) for tick in places), _x_name(x_label)]


def _whole(places: Iterable[float]) -> list[float]:
    return [place for place in places if float(place).is_integer()]


def _bars(drawn: Mapping[str, list[float]], heights: Mapping[str, list[int]], axis: _Axis, top: float) -> list[str]:
    """Bars side by side in each bin."""
    parts = []
    for number, (name, bars) in enumerate(drawn.items()):
        for place, share in enumerate(bars):
            if not share:
                continue
            left, right = axis.place(axis.edges[place]), axis.place(axis.edges[place + 1])
            gap = min(0.75, (right - left) / 4)  # between bars; a bin that is thinner than two of them has a bar too
            left, right = left + gap, right - gap
            width = (right - left) / len(drawn)
            tall = max(share / top * (HEIGHT - TOP - BOTTOM), 0.8)
            box = f'x="{left + number * width:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
            tip = f"{escape(name)}, {_span(axis, place)}: {heights[name][place]:,}"
            parts.append(f'<rect class="bar series-{number + 1}" {box}><title>{tip}</title></rect>')
    return parts


def _outlines(drawn: Mapping[str, list[float]], heights: Mapping[str, list[int]], axis: _Axis, top: float) -> list[str]:
    """A line of steps for each series."""
    parts = []
    for number, (name, bars) in enumerate(drawn.items(), 1):
        points = []
        for place, share in enumerate(bars):
            y = HEIGHT - BOTTOM - share / top * (HEIGHT - TOP - BOTTOM)
            points += [f"{axis.place(axis.edges[place]):.1f},{y:.1f}", f"{axis.place(axis.edges[place + 1]):.1f},{y:.1f}"]
        tip = f"{escape(name)}: {sum(heights[name]):,} values"
        parts.append(f'<polyline class="line series-{number}" points="{" ".join(points)}"><title>{tip}</title></polyline>')
    return parts


def _span(axis: _Axis, place: int) -> str:
    """What a bin holds, in words."""
    low, high = axis.edges[place], axis.edges[place + 1]
    if low % 1 == 0.5 and high % 1 == 0.5:
        first, last = math.ceil(low), math.floor(high)
        return f"{first}" if first == last else f"{first} to {last}"
    return f"{low:.4g} to {high:.4g}"


def _y_line(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _x_tick(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>'


def _x_name(x_label: str) -> str:
    return f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>'


def _powers(high: float) -> Sequence[float]:
    """1, 10, 100 ... up to `high`; with 2 and 5 between where there are few of them."""
    whole = [10.0**power for power in range(int(math.log10(high) + 1e-9) + 1)]
    if len(whole) > 2:
        return whole
    return [tick for power in whole for factor in (1, 2, 5) if (tick := power * factor) <= high]


def _log_spaced(count: int) -> list[int]:
    """Ranks from 1 to `count`, all of the first and fewer of the later ones."""
    if count == 1:
        return [1]
    spread = (round(math.exp(math.log(count) * number / (RANK_POINTS - 1))) for number in range(RANK_POINTS))
    return sorted({min(max(rank, 1), count) for rank in spread})
