"""Small charts as inline SVG, coloured by the page's own style sheet (classes `series-1` ... follow light and dark)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 34
# Beyond this many points a line is thinned to the mean of equal pieces: no screen shows more.
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend and its (x, y) points. Points whose y is not finite are left out."""

    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Lines over a common x axis; the y axis starts at 0 and ends where the lines are after the first twentieth of the way.

    A loss begins several times higher than it soon is; what is above the axis runs along its edge.
    """
    drawn = [Series(s.label, _thin([p for p in s.points if math.isfinite(p[1])]), s.dots) for s in series]
    every = [point for s in drawn for point in s.points]
    if not every:
        return '<p class="muted">nothing was logged</p>'
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    settled = [y for x, y in every if x - x_low >= 0.05 * (x_high - x_low)]
    y_high = max(settled) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - min(1.0, y / y_high) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">']
    for tick in ticks(0, y_high):
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high):
        x, _ = place(tick, 0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    for number, s in enumerate(drawn, 1):
        points = [place(x, y) for x, y in s.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line series-{number}" points="{path}"/>')
        if s.dots:
            parts += [f'<circle class="dot series-{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
    parts.append("</svg>")
    if len(drawn) > 1:
        parts.append(legend([s.label for s in drawn]))
    return "".join(parts)


def bar_chart(columns: Mapping[str, Mapping[str, float]], *, target: float | None = None) -> str:
    """Shares 0..1 as groups of horizontal bars: `columns` maps a series to {row: share}; rows in the order of the first."""
    names = list(columns)
    rows = list(next(iter(columns.values())))
    bar, gap, left = 11, 14, 96
    height = TOP + len(rows) * (bar * len(names) + gap) + 18
    span = WIDTH - left - 44
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="accuracy by question type">']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * span
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - 18}"/>')
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="middle">{tick:.0%}</text>')
    for place, row in enumerate(rows):
        top = TOP + place * (bar * len(names) + gap)
        middle = top + bar * len(names) / 2 + 4
        parts.append(f'<text class="row" x="{left - 8}" y="{middle}" text-anchor="end">{escape(row)}</text>')
        for number, name in enumerate(names, 1):
            share = columns[name].get(row, 0.0)
            y = top + (number - 1) * bar
            box = f'x="{left}" y="{y}" width="{max(share * span, 1):.1f}" height="{bar - 2}" rx="2"'
            tip = f"{escape(name)}, {escape(row)}: {share:.1%}"
            parts.append(f'<rect class="bar series-{number}" {box}><title>{tip}</title></rect>')
            if number == 1:
                parts.append(f'<text x="{left + share * span + 5:.1f}" y="{y + bar - 3}">{share:.1%}</text>')
    if target is not None:
        x = left + target * span
        parts.append(f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 18}"/>')
    parts.append("</svg>")
    return "".join(parts) + legend(names)


def share_bar(shares: Mapping[str, float]) -> str:
    """One bar cut into named parts (seconds), with a legend that gives each part's share."""
    total = sum(shares.values()) or 1.0
    parts, labels, x = [f'<svg viewBox="0 0 {WIDTH} 22" role="img" aria-label="where the time went">'], [], 0.0
    for number, (name, value) in enumerate(shares.items(), 1):
        width = value / total * WIDTH
        tip = f"{escape(name)}: {value:.1f} s"
        parts.append(
            f'<rect class="bar series-{number}" x="{x:.1f}" y="0" width="{width:.1f}" height="22"><title>{tip}</title></rect>'
        )
        labels.append(f"{name} {value:.1f} s ({value / total:.0%})")
        x += width
    parts.append("</svg>")
    return "".join(parts) + legend(labels)


def legend(labels: Sequence[str]) -> str:
    """The names of the series, each beside its colour."""
    items = "".join(f'<li class="series-{number}">{escape(label)}</li>' for number, label in enumerate(labels, 1))
    return f'<ul class="legend">{items}</ul>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high (steps of 1, 2 or 5 times a power of ten)."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / MAX_POINTS)
    pieces = [points[at : at + size] for at in range(0, len(points), size)]
    return [(piece[-1][0], sum(y for _, y in piece) / len(piece)) for piece in pieces]
