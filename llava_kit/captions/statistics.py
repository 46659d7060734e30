"""What the filter did, in figures: for the terminal, for programs, for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..recipe.filter_captions import FilterCaptions
from .choose import Choice, Postings, Spectrum
from .write import Written


def statistics_of(options: FilterCaptions, finder: str, postings: Postings, choice: Choice, written: Written) -> dict[str, Any]:
    """All figures. Phrases are counted by captions: said twice in one caption counts once.

    `coverage` is the share of all phrases that a chosen caption still says; of those in `least` captions or more (`frequent`)
    the rule leaves none out.
    """
    rows = postings.rows
    return {
        "rule": {"least": options.least, "most": options.most, "seed": options.seed, "finder": finder, "pair": options.pair},
        "samples": len(np.unique(rows)),
        "samples_chosen": len(np.unique(rows[choice.captions])),
        "captions": len(postings),
        "captions_without_phrase": int(np.count_nonzero(postings.counts == 0)),
        "captions_chosen": len(choice.captions),
        "rows_written": written.rows,
        "pictures_written": written.pictures,
        "image_root": written.image_root,
        "phrases": choice.num_phrases,
        "phrases_rare": choice.num_rare,
        "phrases_after": choice.num_phrases_after,
        "phrases_frequent": choice.num_phrases - choice.num_rare,
        "phrases_frequent_after": choice.num_frequent_after,
        "coverage": choice.num_phrases_after / max(choice.num_phrases, 1),
        "mentions": _mentions(choice.before),
        "mentions_after": _mentions(choice.after),
        "rejected": sum(written.rejected.values()),
        "rejected_by_reason": written.rejected,
        "top": [{"phrase": written.names.get(key, ""), "before": before, "after": after} for key, before, after in choice.top],
        "before": choice.before._asdict(),
        "after": choice.after._asdict(),
    }


def figures(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a table: what, before, after."""
    least = told["rule"]["least"]
    return [
        ("", "before", "after"),
        ("captions", f"{told['captions']:,}", f"{told['captions_chosen']:,}"),
        ("pictures", f"{told['samples']:,}", f"{told['samples_chosen']:,}"),
        ("different phrases", f"{told['phrases']:,}", f"{told['phrases_after']:,}"),
        (f"  of them in {least} captions or more", f"{told['phrases_frequent']:,}", f"{told['phrases_frequent_after']:,}"),
        ("captions of a phrase, mean", _mean(told, ""), _mean(told, "_after")),
        ("captions without a phrase", f"{told['captions_without_phrase']:,}", "0"),
        ("coverage of phrases", "", f"{100 * told['coverage']:.1f} %"),
    ]


def expand(spectrum: dict[str, list[int]]) -> list[int]:
    """The frequency of each phrase, rising."""
    return np.repeat(spectrum["frequencies"], spectrum["phrases"]).tolist()


def _mean(told: dict[str, Any], when: str) -> str:
    return f"{told[f'mentions{when}'] / max(told[f'phrases{when}'], 1):.1f}"


def _mentions(spectrum: Spectrum) -> int:
    return sum(frequency * phrases for frequency, phrases in zip(*spectrum))
