"""Token ids and masks are what the original meant, for every format, every kind of tokenizer, and whatever is said."""

from __future__ import annotations

import pytest

from llava_kit.assemble.parts import build

from .formats import PROMPTS
from .masks import KINDS, NAMES, TALKS, fast, ours, reading, same, slow, talks_for
from .original import places_apart


@pytest.mark.parametrize("kind", KINDS)
def test_the_slow_and_the_fast_tokenizer_agree(kind):
    if kind.startswith("bytes"):
        return
    for talk in TALKS[::2]:
        for text in talk.texts:
            assert slow(kind)(text) == fast(kind)(text).input_ids
            assert slow(kind)(f"###{text}</s>{text}<|im_end|>\n") == fast(kind)(f"###{text}</s>{text}<|im_end|>\n").input_ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_meant_is_learnt(name, kind):
    """No conversation is dropped, whatever is said in it."""
    template = build("template", name)
    for talk in talks_for(name):
        bits = places_apart(PROMPTS[name].bits(talk.system, talk.texts, False), talk.pictures)
        found = ours(template, talk.conversation, kind)
        assert same(found, reading(kind).meant(bits)), talk
        assert any(found.learnt)
