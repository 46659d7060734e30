"""Pairs as two rings, the first word inside and its second ones around it, as inline SVG like `pages.charts`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from html import escape

from .histogram import NOTHING

SIZE = 560
# Radii of the rings in pixels: the hole, the first words, the second words.
HOLE, BETWEEN, EDGE = 62, 158, 268
# A word is written where its share of the circle is as wide as its letters are high.
LETTER = 11.0
COLOURS = 5


def ring_chart(pairs: Mapping[tuple[str, str], int], *, label: str, firsts: int = 18, seconds: int = 5) -> str:
    """The most frequent first words as an inner ring, around each its most frequent second ones; `label` says what they are."""
    by_first: dict[str, Counter[str]] = defaultdict(Counter)
    for (first, second), count in pairs.items():
        by_first[first][second] += count
    chosen = sorted(by_first.items(), key=lambda pair: (-pair[1].total(), pair[0]))[:firsts]
    if not chosen:
        return NOTHING
    kept = {first: found.most_common(seconds) for first, found in chosen}
    total = sum(count for found in kept.values() for _, count in found)
    told = f"{label}: " + ", ".join(f"{first} {found[0][0]}" for first, found in list(kept.items())[:8])
    parts = [f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{escape(told)}" style="max-width:{SIZE}px;margin:auto">']
    angle = 0.0
    for number, (first, found) in enumerate(kept.items()):
        colour = number % COLOURS + 1
        whole = sum(count for _, count in found)
        width = whole / total * 2 * math.pi
        tip = f"{first}: {by_first[first].total():,}"
        parts.append(_piece(angle, width, HOLE, BETWEEN, colour, 0.5, first, tip))
        for second, count in found:
            part = count / total * 2 * math.pi
            parts.append(_piece(angle, part, BETWEEN, EDGE, colour, 0.22, second, f"{first} {second}: {count:,}"))
            angle += part
    parts.append("</svg>")
    return "".join(parts)


def _piece(start: float, width: float, inner: float, outer: float, colour: int, strength: float, word: str, tip: str) -> str:
    """One piece of a ring with its word along the radius, upright on both sides."""
    width = min(width, 2 * math.pi - 1e-4)  # a whole circle has no beginning to draw from
    end, large = start + width, int(width > math.pi)
    corners = [_point(start, inner), _point(start, outer), _point(end, outer), _point(end, inner)]
    path = (
        f"M{corners[0]} L{corners[1]} A{outer} {outer} 0 {large} 1 {corners[2]} "
        f"L{corners[3]} A{inner} {inner} 0 {large} 0 {corners[0]} Z"
    )
    drawn = (
        f'<path class="bar series-{colour}" d="{path}" fill-opacity="{strength}" style="stroke:var(--card);stroke-width:1">'
        f"<title>{escape(tip)}</title></path>"
    )
    middle = (inner + outer) / 2
    if width * middle < LETTER:
        return drawn
    x, y = map(float, _point(start + width / 2, middle).split(","))
    turn = math.degrees(start + width / 2) - 90
    if 90 < turn % 360 < 270:
        turn += 180
    fits = int((outer - inner - 8) / (LETTER * 0.55))
    shown = escape(word if len(word) <= fits else word[: fits - 1] + "…")
    place = f'x="{x:.1f}" y="{y:.1f}" transform="rotate({turn:.1f} {x:.1f} {y:.1f})"'
    return f'{drawn}<text class="row" {place} text-anchor="middle" dominant-baseline="central">{shown}</text>'


def _point(angle: float, radius: float) -> str:
    """A place on a circle around the middle, clockwise from the top."""
    return f"{SIZE / 2 + radius * math.sin(angle):.2f},{SIZE / 2 - radius * math.cos(angle):.2f}"
