"""How far a finder of noun phrases agrees with a person: `python -m benchmarks.phrases [--finder spacy:en_core_web_sm]`.

The sentences and the person's marks are in `noun_phrases.txt`. Those held out were written when the rules of the textblob
finder were done, and none was changed for them. Phrases are compared as the filter counts them (normalised, once a caption).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llava_kit.captions.phrases import PhraseFinder, normalise, open_finder

SENTENCES = Path(__file__).parent / "noun_phrases.txt"


class Marked(NamedTuple):
    sentence: str
    phrases: frozenset[str]
    held_out: bool


class Agreement(NamedTuple):
    """Shares of what was found that is marked, of what is marked that was found, of sentences with no difference."""

    precision: float
    recall: float
    exact: float


def read_marked(path: Path = SENTENCES) -> list[Marked]:
    marked, held_out = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        held_out |= line.startswith("# held out")
        if line and not line.startswith("#"):
            phrases = frozenset(normalise(words.split()) for words in re.findall(r"\[([^]]+)\]", line))
            marked.append(Marked(re.sub(r"[\[\]]", "", line), phrases - {""}, held_out))
    return marked


def agreement(finder: PhraseFinder, marked: Sequence[Marked]) -> Agreement:
    found = [frozenset(phrases) for phrases in finder.phrases([entry.sentence for entry in marked])]
    both = sum(len(entry.phrases & got) for entry, got in zip(marked, found))
    exact = sum(entry.phrases == got for entry, got in zip(marked, found))
    return Agreement(both / sum(map(len, found)), both / sum(len(entry.phrases) for entry in marked), exact / len(marked))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finder", default="textblob")
    parser.add_argument("--differences", action="store_true", help="show them")
    arguments = parser.parse_args(argv)
    finder, marked = open_finder(arguments.finder), read_marked()
    for name, held_out in (("looked at", False), ("held out", True)):
        part = [entry for entry in marked if entry.held_out == held_out]
        told = agreement(finder, part)
        print(f"{finder.name}, {len(part)} sentences {name}: precision {told.precision:.3f}, recall {told.recall:.3f}, "
              f"{told.exact:.0%} of sentences equal")  # fmt: skip
    if arguments.differences:
        for entry, (got,) in ((entry, finder.phrases([entry.sentence])) for entry in marked):
            if entry.phrases != set(got):
                print(f"{entry.sentence}: missing {sorted(entry.phrases - set(got))}, extra {sorted(set(got) - entry.phrases)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
