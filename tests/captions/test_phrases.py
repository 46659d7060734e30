"""Noun phrases: what counts as the same one, who finds them, and what a user is told where the finder is not there."""

from __future__ import annotations

import re
import sys

import pytest

from llava_kit.captions.phrases import normalise, open_finder
from llava_kit.errors import LlavaKitError


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("A small dog", "small dog"),
        ("the Small  dog.", "small dog"),
        ('"some small dog"', "small dog"),
        ("all the other dogs", "dogs"),
        ("two dogs", "two dogs"),
        ("its old man's hat", "old man's hat"),
        ("it", ""),
        ("Everyone", ""),
        ("the", ""),
        ("--- !!!", ""),
        ("50%", "50%"),
        ("", ""),
    ],
)
def test_what_counts_as_the_same_phrase(words, phrase):
    assert normalise(words.split()) == phrase


def test_textblob_finds_what_a_person_marks_in_most_sentences(pytestconfig):
    """The figure itself is told by `python -m benchmarks.phrases`; a broken chunker would fall far below this."""
    finder = open_finder("textblob")
    both = found = marked = 0
    for line in (pytestconfig.rootpath / "benchmarks" / "noun_phrases.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            meant = {normalise(words.split()) for words in re.findall(r"\[([^]]+)\]", line)}
            (got,) = finder.phrases([re.sub(r"[\[\]]", "", line)])
            both, found, marked = both + len(meant & set(got)), found + len(set(got)), marked + len(meant)
    assert marked > 200
    assert both / found > 0.93
    assert both / marked > 0.93


@pytest.mark.parametrize(
    "caption",
    ["", " ", "\0", "\ud800", "一只狗在草地上", "Ein Hund läuft über die Wiese", "a/b", "((( ]]] ///", "!" * 3000, "x" * 4000],
)
def test_odd_captions_break_nothing(caption):
    (phrases,) = open_finder("textblob").phrases([caption])
    assert all(phrase and phrase == phrase.lower().strip() for phrase in phrases)


def test_letters_that_nobody_sees_do_not_make_another_phrase():
    first, second = open_finder("textblob").phrases(["a small\0 dog\n runs", "\ufeffa small dog runs"])
    assert first == second == ["small dog"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("textblod", "did you mean 'textblob'"),
        ("nltk", "known: spacy:<model>, textblob"),
        ("spacy", "spacy:en_core_web_sm"),
        ("spacy:", "spacy:en_core_web_sm"),
        ("spacy:en_core_web_sm", "python -m spacy download en_core_web_sm"),
        ("spacy:./nowhere", "no spaCy model in this folder"),
    ],
)
def test_a_finder_that_is_not_there_is_one_line(name, told):
    if name.startswith("spacy:"):
        pytest.importorskip("spacy")
    with pytest.raises(LlavaKitError) as caught:
        open_finder(name)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "extra"), [("textblob", "generate"), ("spacy:en_core_web_sm", "spacy")])
def test_a_missing_library_says_which_extra_to_install(name, extra, monkeypatch):
    from llava_kit.captions import textblob_chunks

    textblob_chunks._parser.cache_clear()
    for module in ("textblob.en", "spacy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LlavaKitError, match=re.escape(f"pip install 'llava-kit[{extra}]'")):
        open_finder(name)


def test_spacy_s_own_noun_chunks_are_read_from_a_model_in_a_folder(tmp_path):
    """No model can be had from a package index, so one is made whose parser knows its sentence by heart."""
    spacy = pytest.importorskip("spacy")
    from spacy.language import Language

    tags = {"dog": "NOUN", "frisbee": "NOUN", "it": "PRON", "small": "ADJ", "red": "ADJ", "the": "DET", "a": "DET"}

    @Language.component("by_heart")
    def by_heart(document):
        verb = next((token for token in document if token.text == "likes"), document[-1])
        for token in document:
            token.pos_ = tags.get(token.lower_, "VERB")
            noun = next(
                (other for other in document[token.i :] if other.pos_ == "NOUN" or tags.get(other.lower_) == "NOUN"), verb
            )
            token.head = verb if token.pos_ in ("NOUN", "PRON", "VERB") else noun
            token.dep_ = {"DET": "det", "ADJ": "amod", "VERB": "ROOT"}.get(token.pos_, "nsubj" if token.i < verb.i else "dobj")
        return document

    nlp = spacy.blank("en")
    nlp.add_pipe("by_heart")
    nlp.to_disk(tmp_path / "model")
    finder = open_finder(f"spacy:{tmp_path / 'model'}")
    assert finder.phrases(["The small dog likes a red frisbee", "It likes the dog"]) == [["small dog", "red frisbee"], ["dog"]]
    assert finder.name.startswith("spacy:en_")

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(LlavaKitError, match="expected one with a parser"):
        open_finder(f"spacy:{tmp_path / 'blank'}")
