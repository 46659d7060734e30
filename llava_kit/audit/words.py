"""What texts are about: their words, how far two of them are apart, and their verbs with the nouns these are about.

Tags are those of textblob's own lexicon, so nothing is downloaded. A sentence's verb is its first that is no auxiliary and not
"to be", and its noun the head of what follows: "Could you give me a list of ideas?" is give, list. That is the pair of
Self-Instruct's plot (Wang et al. 2023, figure 3) without a parser.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from ..errors import PluginError

# Letters of a text that are tagged: the first twenty sentences, and no more work for an answer that is a book.
TAGGED_LETTERS = 2000

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_ENGLISH = json.loads((files("llava_kit.audit") / "english.json").read_text(encoding="utf-8"))
# Words that say nothing about a picture; they count for the distance of two texts, and are not shown.
STOP_WORDS = frozenset(_ENGLISH["stop_words"].split())
_IRREGULAR = {form: verb for verb, forms in _ENGLISH["verbs"].items() for form in forms.split()}


class Tagged(NamedTuple):
    """What a text's sentences are about: verbs, nouns, (verb, noun) pairs, and how many sentences were looked at."""

    verbs: Counter[str]
    nouns: Counter[str]
    pairs: Counter[tuple[str, str]]
    sentences: int


def words_of(text: str) -> Iterator[str]:
    """The words of a text in lower case; numbers are words."""
    return iter(_WORD.findall(text.lower().replace("’", "'")))


def divergence(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """The Jensen-Shannon divergence of two counts of words, in bits: 0 where they are used alike, 1 where none is shared."""
    return sum(max(0.0, part) for part in _parts(first, second).values()) if first and second else math.nan


def telling(first: Mapping[str, int], second: Mapping[str, int], limit: int) -> list[str]:
    """The words that `first` uses more than `second`, those first that part them most."""
    if not first or not second:
        return []
    total, other = sum(first.values()), sum(second.values())
    more = {
        word: part
        for word, part in _parts(first, second).items()
        if first.get(word, 0) / total > second.get(word, 0) / other and word not in STOP_WORDS
    }
    return sorted(more, key=lambda word: (-more[word], word))[:limit]


def _parts(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, float]:
    """What each word adds to the divergence (Lin 1991): p/2 log(2p/(p+q)) + q/2 log(2q/(p+q))."""
    total, other = sum(first.values()), sum(second.values())
    parts = {}
    for word in first.keys() | second.keys():
        p, q = first.get(word, 0) / total, second.get(word, 0) / other
        parts[word] = sum(share / 2 * math.log2(2 * share / (p + q)) for share in (p, q) if share)
    return parts


def tagger_problem() -> str | None:
    """Why verbs and nouns cannot be found here, in one line, or None."""
    try:
        _library()
    except PluginError as error:
        return str(error)
    return None


def tagged(text: str) -> Tagged:
    """Verbs, nouns and pairs of the first `TAGGED_LETTERS` of a text. Raises PluginError where textblob is missing."""
    parse, _, singular = _library()
    verbs: Counter[str] = Counter()
    nouns: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    sentences = 0
    text = text[:TAGGED_LETTERS].strip()
    for sentence in str(parse(text, tokenize=True, tags=True, chunks=False)).split("\n") if text else ():
        tokens = [(word.lower(), tag) for word, _, tag in (token.rpartition("/") for token in sentence.split(" ")) if word]
        tokens = _with_verbs(tokens)
        sentences += 1
        nouns.update(
            singular(word) if tag == "NNS" else word for word, tag in tokens if tag.startswith("NN") and word.isalpha()
        )
        place = _main_verb(tokens)
        if place is None:
            continue
        verb = base_form(*tokens[place])
        verbs[verb] += 1
        if (noun := _object(tokens[place + 1 :])) is not None:
            pairs[verb, singular(noun[0]) if noun[1] == "NNS" else noun[0]] += 1
    return Tagged(verbs, nouns, pairs, sentences)


def base_form(word: str, tag: str) -> str:
    """A verb as a dictionary has it; a form that no rule fits stays as it is."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    return next((form for form in _candidates(word, tag) if _is_known(form)), word)


def _candidates(word: str, tag: str) -> list[str]:
    if tag == "VBZ" and word.endswith("s"):
        return [word[:-3] + "y", word[:-1], word[:-2]] if word.endswith("ies") else [word[:-1], word[:-2]]
    ending = {"VBG": "ing", "VBD": "ed", "VBN": "ed"}.get(tag, "")
    if not ending or not word.endswith(ending) or len(word) < len(ending) + 2:
        return [word]
    stem = word[: -len(ending)]
    if ending == "ed" and stem.endswith("i"):
        return [stem[:-1] + "y"]
    if stem[-1] == stem[-2]:
        return [stem, stem[:-1]]
    # After one vowel a single consonant was not doubled, so an e was dropped: riding is of ride, not of rid.
    short = stem[-1] not in "aeiouwxy" and stem[-2] in "aeiouy" and (len(stem) < 3 or stem[-3] not in "aeiou")
    return [stem + "e", stem] if short else [stem, stem + "e"]


def _with_verbs(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The tokens, what stands as a plural between a noun and an article made a verb: "a man rides a horse"."""
    found = list(tokens)
    for place in range(1, len(tokens) - 1):
        before, (word, tag), after = tokens[place - 1][1], tokens[place], tokens[place + 1][1]
        if tag == "NNS" and before in ("NN", "NNP") and after in ("DT", "PRP$") and word.endswith("s"):
            found[place] = (word, "VBZ")
    return found


def _main_verb(tokens: list[tuple[str, str]]) -> int | None:
    """The place of the first verb that is no auxiliary and not "to be"."""
    for place, (word, tag) in enumerate(tokens):
        if not tag.startswith("VB") or not word.replace("'", "").isalpha():
            continue
        form = base_form(word, tag)
        if form == "be":
            continue
        # "is doing", "has eaten", "do you see", "going to eat": what follows is what is said.
        following = [
            other for other in tokens[place + 1 : place + 5] if not other[1].startswith(("RB", "PRP", "TO", "NN", "DT"))
        ]
        if form in ("have", "do", "go", "let") and following and following[0][1].startswith("VB"):
            continue
        return place
    return None


def _object(tokens: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The head of the noun phrase that comes next: the last of its nouns."""
    head = None
    for word, tag in tokens:
        if tag.startswith("NN") and word.isalpha():
            head = (word, tag)
        elif head is not None or not tag.startswith(("DT", "PRP", "JJ", "CD", "RB", "VBN", "VBG", "POS", "RP", "PDT", "WP$")):
            break
    return head


@cache
def _is_known(word: str) -> bool:
    _, lexicon, _ = _library()
    return word in lexicon


@cache
def _library() -> tuple[Callable[..., Any], Any, Callable[[str], str]]:
    """The tagger, its lexicon, and what makes plurals singular."""
    try:
        from textblob.en import lexicon, parse
        from textblob.en.inflect import singularize
    except ImportError as error:
        raise PluginError(f"verbs and nouns need textblob ({error}): pip install 'llava-kit[generate]'") from None
    return parse, lexicon, cache(singularize)
