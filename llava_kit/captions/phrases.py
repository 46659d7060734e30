"""Noun phrases of captions: who finds them, and what counts as the same phrase.

The paper counts unique phrases and does not say how they are written. Here a phrase is its words in lower case, without
articles, demonstratives, possessives and words such as "some" before it, and without quotes and stops around it: "A small dog",
"the small dog" and "Small dog." are one. Numbers stay ("two dogs" are not "dogs"), so does the plural. Pronouns are no phrases.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ..errors import LlavaKitError, first_line, suggest

# Bump when what counts as the same phrase changes: phrases that were found before are then looked for again.
RULES = 1
FINDERS = ("textblob", "spacy:<model>")

_WORDS_BEFORE = """
a an the this that these those my your his her its our their some any every each no another other such all both either neither
what which whose
"""
_WORDS_ALONE = """
i me you he him she it we us they them one ones who whom whoever someone somebody something anyone anybody anything everyone
everybody everything nobody nothing none myself yourself himself herself itself ourselves themselves mine yours hers ours theirs
there here others
"""
_BEFORE = frozenset(_WORDS_BEFORE.split())
_PRONOUNS = _BEFORE | frozenset(_WORDS_ALONE.split())
_EDGES = re.compile(r"^[^\w$€£#&+]+|[^\w%]+$")
# What is no letter to anybody: control characters, halves of pairs.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")


class PhraseFinder(Protocol):
    """Anything that finds phrases. `name` says which, with its version: a run that was stopped goes on with the same one."""

    @property
    def name(self) -> str: ...

    def phrases(self, captions: Sequence[str]) -> list[list[str]]:
        """The noun phrases of each caption, in order; what is the same phrase is spelt the same."""
        ...


def open_finder(name: str) -> PhraseFinder:
    """The finder called `name`: `textblob`, or `spacy:` with the name or folder of a model.

    Raises:
        LlavaKitError: there is none of this name, its library or its model is missing, the model finds no noun phrases.
    """
    kind, colon, model = name.partition(":")
    if kind == "textblob" and not colon:
        return TextBlobFinder()
    if kind == "spacy" and model:
        return SpacyFinder(model)
    if kind == "spacy":
        raise LlavaKitError("finder 'spacy': expected the model's name too, as in spacy:en_core_web_sm")
    raise LlavaKitError(f"there is no finder {name!r}; {suggest(name, FINDERS)}")


def clean(caption: str) -> str:
    """The caption in one line, without what is no letter; finders are handed this."""
    plain = caption if caption.isprintable() else _UNPRINTABLE.sub(" ", caption)
    return " ".join(plain.split())


def normalise(words: Sequence[str]) -> str:
    """The phrase of these words as it is counted; empty where nothing is left of it."""
    kept = [word for word in (_EDGES.sub("", word.lower()) if len(word) > 1 else word.lower() for word in words) if word]
    while kept and (kept[0] in _BEFORE or not kept[0][0].isalnum()):
        del kept[0]
    while kept and not any(letter.isalnum() for letter in kept[-1]):
        del kept[-1]
    if len(kept) == 1 and kept[0] in _PRONOUNS:
        return ""
    return " ".join(kept)


class SpacyFinder:
    """`noun_chunks` of a spaCy model, as the paper has it; the model is the user's."""

    def __init__(self, model: str):
        try:
            import spacy
        except ImportError:
            raise LlavaKitError(f"finder 'spacy:{model}' needs spaCy; pip install 'llava-kit[spacy]'") from None
        try:
            self._nlp: Any = spacy.load(model)
        except OSError:
            if os.sep in model or model.startswith("."):
                raise LlavaKitError(f"finder 'spacy:{model}': there is no spaCy model in this folder") from None
            raise LlavaKitError(
                f"finder 'spacy:{model}': the model is not installed; run: python -m spacy download {model} (it comes from "
                "GitHub), or use --finder textblob, which needs no model"
            ) from None
        except Exception as error:
            raise LlavaKitError(f"finder 'spacy:{model}': the model cannot be loaded: {first_line(error)}") from error
        try:
            list(self._nlp("a dog").noun_chunks)
        except (NotImplementedError, ValueError) as error:
            raise LlavaKitError(
                f"finder 'spacy:{model}': the model finds no noun phrases ({first_line(error)[:160]}); expected one "
                "with a parser, such as en_core_web_sm"
            ) from None
        told = self._nlp.meta
        self.name = f"spacy:{told.get('lang')}_{told.get('name')} {told.get('version')} rules {RULES}"

    def phrases(self, captions: Sequence[str]) -> list[list[str]]:
        """The noun chunks of each caption."""
        documents = self._nlp.pipe([clean(caption) for caption in captions], batch_size=256)
        # Split at spaces: what stands together in the caption (man's, t-shirt) is one word, though spaCy has several tokens.
        return [_named(chunk.text.split() for chunk in document.noun_chunks) for document in documents]


class TextBlobFinder:
    """The chunker that comes with textblob, which needs no model and no network."""

    def __init__(self) -> None:
        from . import textblob_chunks

        self._chunks = textblob_chunks.chunks
        self.name = f"{textblob_chunks.load()} rules {RULES}"

    def phrases(self, captions: Sequence[str]) -> list[list[str]]:
        """The noun chunks of each caption."""
        return [_named(self._chunks(clean(caption))) for caption in captions]


def _named(chunks: Iterable[Sequence[str]]) -> list[str]:
    return [phrase for words in chunks if (phrase := normalise(words))]
