"""Noun chunks by textblob: its tags and chunks, with chunks made to begin and end where spaCy's do.

They end at their last noun and part at "and" and commas. After an article, a possessive or an adjective a noun must come, so
what textblob takes for a verb there ("a white sink") is one; "a surfer rides" ends before the verb that looks like a plural.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from ..errors import LlavaKitError


def load() -> str:
    """Reads the lexicon, and gives the library's name with its version. Raises LlavaKitError where it is not installed."""
    _parser()("a dog")
    return f"textblob {version('textblob')}"


def chunks(caption: str) -> list[list[str]]:
    """The words of each noun chunk of a caption, in order."""
    found: list[list[str]] = []
    for sentence in str(_parser()(caption, tokenize=True, tags=True, chunks=True)).split("\n"):
        tokens = [_Token.read(token) for token in sentence.split(" ") if token]
        found += _chunks(_with_possessives(tokens))
    return found


@cache
def _parser() -> Callable[..., Any]:
    try:
        from textblob.en import parse
    except ImportError:
        raise LlavaKitError("finder 'textblob' needs textblob; pip install 'llava-kit[generate]'") from None
    return parse


class _Token:
    """A word with its tag (as in the Penn treebank) and the kind of chunk that it is in."""

    __slots__ = ("begins", "inside", "tag", "word")

    def __init__(self, word: str, tag: str, chunk: str):
        self.word, self.tag = word, tag
        self.begins, self.inside = chunk == "B-NP", chunk.endswith("-NP")

    @classmethod
    def read(cls, token: str) -> _Token:
        word, tag, chunk, *_ = [*token.split("/"), "", ""]
        return cls(word.replace("&slash;", "/"), tag, chunk)


_NOUNS = ("NN", "PRP")
_OPENERS = ("DT", "PRP$")
# What may stand between an article and its noun, whatever chunk textblob put it into.
_AFTER_ARTICLE = ("JJ", "CD", "NN", "VBN", "VBG", "VB", "POS")
_BREAKS = ("CC", ",", ":", ".", "(", ")", '"', "IN", "TO", "MD", "WDT", "WP")
# After these "a" stands before a plural.
_OF_MANY = frozenset(("few", "dozen", "hundred", "thousand", "million"))


def _with_possessives(tokens: Sequence[_Token]) -> list[_Token]:
    """`man ' s` as the one word `man's`."""
    joined: list[_Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        following = tokens[place + 1].word.lower() if place + 1 < len(tokens) else ""
        if joined and token.word in ("'", "’") and following == "s" and joined[-1].tag.startswith("NN"):
            joined[-1].word += "'s"
            joined[-1].tag = "POS"
            place += 2
        elif joined and token.word in ("'s", "’s") and joined[-1].tag.startswith("NN"):
            joined[-1].word += "'s"
            joined[-1].tag = "POS"
            place += 1
        else:
            joined.append(token)
            place += 1
    return joined


def _chunks(tokens: Sequence[_Token]) -> list[list[str]]:
    """The words of each noun chunk: a stretch of what may stand before a noun, up to its last noun."""
    chunks: list[list[str]] = []
    run: list[_Token] = []
    for place, token in enumerate([*tokens, _Token("", ".", "")]):
        if token.tag in _OPENERS:
            chunks += _ended(run)
            run = [token]
        elif _goes_on(run, token) or _joins_adjectives(run, tokens[place : place + 2]):
            run.append(token)
        else:
            chunks += _ended(run)
            begins = (token.inside or token.tag == "JJ") and not token.tag.startswith(_BREAKS)
            run = [token] if begins else []
    return chunks


def _goes_on(run: Sequence[_Token], token: _Token) -> bool:
    if not run or token.tag.startswith(_BREAKS):
        return False
    if run[-1].tag == "POS" or (run[-1].tag == "VB" and _expects_noun(run) and token.tag.startswith("NN")):
        return token.tag.startswith(_AFTER_ARTICLE)
    if token.inside:
        return not token.begins or not _has_noun(run)
    return _expects_noun(run) and not _has_noun(run) and token.tag.startswith(_AFTER_ARTICLE) and token.tag != "VBZ"


def _joins_adjectives(run: Sequence[_Token], pair: Sequence[_Token]) -> bool:
    """`black and white photo`: an "and" between adjectives, before any noun."""
    return (
        len(pair) == 2
        and pair[0].word.lower() in ("and", "&")
        and bool(run)
        and run[-1].tag == pair[1].tag == "JJ"
        and not _has_noun(run)
    )


def _expects_noun(run: Sequence[_Token]) -> bool:
    """After an article, a possessive or an adjective a noun must come."""
    return run[0].tag in (*_OPENERS, "JJ")


def _has_noun(run: Sequence[_Token]) -> bool:
    return any(token.tag.startswith((*_NOUNS, "VB")) and token.tag not in ("PRP$", "VBN", "VBG") for token in run)


def _ended(run: list[_Token]) -> list[list[str]]:
    """The words of the run without what follows its last noun, if it has one."""
    opener = run[0].word.lower() if run else ""
    if len(run) > 1 and run[0].tag in _OPENERS and not _has_noun(run) and run[-1].tag in ("JJ", "VBN"):
        return [[token.word for token in run]]  # "the top", "an orange": what stands after an article alone is its noun
    while run and not _is_noun(run[-1], _expects_noun(run)):
        run = run[:-1]
    plural = len(run) > 2 and run[-1].tag == "NNS" and _is_noun(run[-2], False)
    if plural and opener in ("a", "an") and run[1].word.lower() not in _OF_MANY:
        run = run[:-1]
    return [[token.word for token in run]] if run else []


def _is_noun(token: _Token, after_article: bool) -> bool:
    return (token.tag.startswith(_NOUNS) and token.tag != "PRP$") or (after_article and token.tag == "VB")
