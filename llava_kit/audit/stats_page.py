"""Sources and mixtures side by side as one page: figures, spreads, words, verbs with their nouns, distances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from ..pages.histogram import MAX_SERIES, histogram
from ..pages.rings import ring_chart
from ..pages.style import STYLE
from .stats import Comparison, Group, quantile
from .words import STOP_WORDS, telling

HEADINGS: tuple[str, ...] = (
    "",
    "samples",
    "pictures",
    "turns",
    "question words",
    "(90 %)",
    "answer words",
    "(90 %)",
    "longer side",
    "width : height",
    "tokens",
    "(90 %)",
    "learnt",
)
_WORDS_SHOWN, _VERBS_SHOWN, _RINGS = 20, 12, 6
# Wider and flatter than this are a hundredth of all pictures; they are drawn at the edge.
_ASPECTS = (0.25, 4.0)


def figures(comparison: Comparison, ingredients: bool = True) -> list[list[str]]:
    """The table: one row for each input and (indented) each of its ingredients, below `HEADINGS`. Lengths are medians."""
    rows = [list(HEADINGS)]
    for mixture in comparison.mixtures:
        rows.append([mixture.name, *_figures(mixture.all)])
        if ingredients:
            rows += [[f"  {name}", *_figures(group)] for name, group in mixture.ingredients.items()]
    filled = [any(row[column] for row in rows[1:]) for column in range(len(HEADINGS))]
    return [[cell for cell, kept in zip(row, filled) if kept] for row in rows]


def top_words(group: Group, limit: int = _WORDS_SHOWN) -> list[tuple[str, float]]:
    """The most frequent words of the answers that say something, and how many they are in a thousand."""
    total = max(1, group.words.total())
    found = ((word, 1000 * count / total) for word, count in group.words.most_common() if word not in STOP_WORDS)
    return [pair for _, pair in zip(range(limit), found)]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """All of it for JSON."""
    names, rows = comparison.distances()
    return {
        "seed": comparison.seed,
        "notes": comparison.notes,
        "mixtures": [
            {
                "name": mixture.name,
                "from": mixture.told,
                "bad": dict(mixture.bad),
                "groups": {name: _as_dict(group) for name, group in mixture.groups.items()},
            }
            for mixture in comparison.mixtures
        ],
        "distance_of_answers_in_bits": {
            name: {other: None if math.isnan(bits) else round(bits, 4) for other, bits in zip(names, row)}
            for name, row in zip(names, rows)
        },
    }


def telling_words(comparison: Comparison, limit: int = 10) -> dict[str, list[str]]:
    """For each that is compared, the words that part it most from all others together."""
    groups = comparison.compared()
    if len(groups) < 2:
        return {}
    together: Counter[str] = Counter()
    for group in groups.values():
        together.update(group.words)
    return {name: telling(group.words, together - group.words, limit) for name, group in groups.items()}


def render_page(comparison: Comparison, title: str) -> str:
    """The page as one HTML text; it asks nothing of a network."""
    environment = Environment(
        loader=PackageLoader("llava_kit.audit"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    groups = comparison.compared()
    names, rows = comparison.distances()
    shown = dict(list(groups.items())[:MAX_SERIES])
    parting = telling_words(comparison)
    words = {
        name: {"top": top_words(group), "parting": parting.get(name, []), "verbs": group.verbs.most_common(_VERBS_SHOWN)}
        for name, group in shown.items()
    }
    rings = [
        {"name": name, "what": what, "chart": Markup(ring_chart(pairs, label=f"verbs and nouns of {what} in {name}"))}
        for name, group in list(({mixture.name: mixture.all for mixture in comparison.mixtures} | groups).items())[:_RINGS]
        for what, pairs in (("questions", group.asked), ("answers", group.pairs))
        if pairs
    ]
    return environment.get_template("stats.html.jinja").render(
        title=title,
        comparison=comparison,
        table=figures(comparison),
        tops={mixture.name for mixture in comparison.mixtures},
        charts=[{"title": name, "chart": Markup(chart)} for name, chart in _charts(shown)],
        left_out=len(groups) - len(shown),
        words=words,
        most=max((share for told in words.values() for _, share in told["top"]), default=1.0),
        rings=rings,
        names=names,
        distances=rows,
        style=Markup(STYLE),
    )


def _charts(groups: Mapping[str, Group]) -> list[tuple[str, str]]:
    """Heading and histogram of all that was counted."""
    low, high = _ASPECTS
    aspects = {name: _at_edges(group.aspects, low, high) for name, group in groups.items()}
    every: list[tuple[str, Mapping[str, Mapping[Any, int]], str, bool]] = [
        ("Words of an answer", {name: group.answer_words for name, group in groups.items()}, "words", True),
        ("Words of a question", {name: group.question_words for name, group in groups.items()}, "words", True),
        ("Turns of a sample", {name: group.turns for name, group in groups.items()}, "turns, questions and answers", False),
        ("Longer side of a picture", {name: group.longest for name, group in groups.items()}, "pixels", False),
        ("Shape of a picture", aspects, "width : height", False),
        ("Tokens of a sample", {name: group.tokens for name, group in groups.items()}, "positions, pictures included", False),
        ("Tokens that are learnt", {name: group.taught for name, group in groups.items()}, "tokens", True),
    ]
    return [
        (heading, histogram(counts, x_label=label, log=log)) for heading, counts, label, log in every if any(counts.values())
    ]


def _at_edges(counts: Mapping[float, int], low: float, high: float) -> Counter[float]:
    moved: Counter[float] = Counter()
    for value, count in counts.items():
        moved[min(max(value, low), high)] += count
    return moved


def _figures(group: Group) -> list[str]:
    def told(counts: Mapping[Any, int], share: float = 0.5) -> str:
        value = quantile(counts, share)
        return "" if value is None else f"{value:,}"

    return [
        f"{group.samples:,}",
        f"{group.pictures:,}" + (f" + {group.clips:,} clips" if group.clips else ""),
        told(group.turns),
        told(group.question_words),
        told(group.question_words, 0.9),
        told(group.answer_words),
        told(group.answer_words, 0.9),
        told(group.longest),
        told(group.aspects),
        told(group.tokens),
        told(group.tokens, 0.9),
        told(group.taught),
    ]


def _as_dict(group: Group) -> dict[str, Any]:
    def spread(counts: Mapping[Any, int]) -> dict[str, Any]:
        total = sum(counts.values())
        if not total:
            return {"count": 0}
        shares = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        mean = sum(value * count for value, count in counts.items()) / total
        return {"count": total, "mean": round(mean, 3), **{name: quantile(counts, share) for name, share in shares.items()}}

    lengths = ("turns", "question_words", "answer_words", "longest", "aspects", "tokens", "taught")
    return {
        **{name: getattr(group, name) for name in ("samples", "pictures", "clips", "boxes", "unread", "unfit", "tagged_rows")},
        **{name: spread(getattr(group, name)) for name in lengths},
        "different_words": len(group.words),
        "answer_words_in_all": group.words.total(),
        "words": dict(group.words.most_common(100)),
        "verbs": dict(group.verbs.most_common(50)),
        "nouns": dict(group.nouns.most_common(50)),
        "pairs_of_answers": [[*pair, count] for pair, count in group.pairs.most_common(100)],
        "pairs_of_questions": [[*pair, count] for pair, count in group.asked.most_common(100)],
    }
