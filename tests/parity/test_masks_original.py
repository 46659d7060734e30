"""Ids and masks are those of the original's own counting wherever that adds up, and its wider masks can be had."""

from __future__ import annotations

import pytest

from llava_kit.assemble.parts import build
from llava_kit.data.tokenize import encode
from llava_kit.errors import SampleError
from llava_kit.splice import build as splice

from . import original
from .conversations import BY_HAND, Talk, written
from .formats import PROMPTS
from .masks import KINDS, NAMES, TALKS, as_original_sees_it, fast, ours, reading, same, talks_for
from .original import Tokens, places_apart

MASKS = {"two": original.mask_two, "llama_2": original.mask_llama_2, "mpt": original.mask_mpt, "gemma": original.mask_gemma}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in NAMES if PROMPTS[name].style in MASKS])
def test_the_originals_counting_where_it_adds_up(name, kind):
    """Wherever its code keeps a sample, ours has the same ids and the same mask."""
    template, prompt = build("template", name), PROMPTS[name]
    kept = 0
    for talk in talks_for(name):
        if talk.is_marked:
            continue  # its tokenizer would read typed markers as markers
        text = "".join(bit.text for bit in prompt.bits(talk.system, talk.texts, False))
        expected = MASKS[prompt.style](prompt, text, as_original_sees_it(kind))
        if expected is not None:
            kept += 1
            assert same(ours(template, talk.conversation, kind), expected), talk
    # Where the original is known to work, it must have been compared with.
    assert kept > 30 or (name, kind) not in WORKS


WORKS = {
    *((name, kind) for name in ("v1", "llava_v1", "v1_mmtag") for kind in ("legacy", "later")),
    *((name, "legacy") for name in ("llama_2", "llava_llama_2", "mistral_instruct")),
    *((name, kind) for name in ("chatml_direct", "mpt", "mistral_orca") for kind in ("legacy_no_bos", "later")),
    ("gemma_instruct", "later"),
}


@pytest.mark.parametrize(
    ("start", "kind", "result"),
    [
        (0, "legacy_no_bos", "dropped"),
        (0, "legacy", "off by one"),
        (0, "later_no_bos", "dropped"),
        (0, "later", "dropped"),
        (1, "legacy_no_bos", "right"),
        (1, "legacy", "dropped"),
        (1, "later_no_bos", "dropped"),
        (1, "later", "right"),
    ],
)
def test_the_four_cells_of_chatml(start, kind, result):
    """What LLaVA (0) and LLaVA-NeXT (1) make of ChatML with two questions and answers; ours is right in all."""
    prompt, template = PROMPTS["chatml_direct"], build("template", "chatml_direct")
    for talk in TALKS:
        if talk.is_marked or len(talk.texts) != 4:
            continue
        bits = places_apart(prompt.bits(talk.system, talk.texts, False), talk.pictures)
        meant = reading(kind).meant(bits)
        found = original.mask_mpt(prompt, "".join(bit.text for bit in bits), as_original_sees_it(kind), start)
        assert ("dropped" if found is None else "right" if same(found, meant) else "off by one") == result
        assert same(ours(template, talk.conversation, kind), meant)


@pytest.mark.parametrize("kind", ["legacy", "later"])
@pytest.mark.parametrize("name", ["v0", "v0_mmtag"])
def test_the_wide_mask_of_v0(name, kind):
    template, prompt = build("template", name, mask="original"), PROMPTS[name]
    kept = 0
    for talk in TALKS:
        if talk.is_marked:
            continue
        text, expected = original.mask_v0(prompt, talk.system, talk.texts, as_original_sees_it(kind))
        assert written(template.render(talk.conversation)) == text
        if expected is not None:
            kept += 1
            assert same(ours(template, talk.conversation, kind), expected), talk
    assert kept > 30


@pytest.mark.parametrize("kind", ["bytes", "bytes_bos"])
@pytest.mark.parametrize("name", ["qwen_1_5", "qwen_2_5", "llava_llama_3"])
def test_the_wide_masks_of_qwen_and_llama_3(name, kind):
    template, prompt = build("template", name, mask="original"), PROMPTS[name]
    mask = original.mask_llama_3 if name == "llava_llama_3" else original.mask_qwen
    count = 0
    for talk in TALKS:
        if talk.is_marked:
            continue
        text, expected = mask(prompt, talk.system, talk.texts, as_original_sees_it(kind))
        found = ours(template, talk.conversation, kind)
        bos = len(found.ids) - len(expected.ids)
        assert written(template.render(talk.conversation)) == text
        assert bos == (1 if kind == "bytes_bos" else 0)
        assert same(Tokens(found.ids[bos:], found.learnt[bos:]), expected), talk
        count += 1
    assert count > 40


@pytest.mark.parametrize(
    ("reason", "texts"),
    [("empty_answer", ("<image>\nQ", "")), ("empty_answer", ("Q", "A", "Q", " \n")), ("empty_question", (" ", "A"))],
)
def test_what_cannot_be_learnt_is_told(reason, texts):
    """The original drops these samples without a word, or learns nothing from them."""
    for name in NAMES:
        with pytest.raises(SampleError) as caught:
            build("template", name).render(Talk(texts).conversation)
        assert caught.value.reason == reason


def test_one_picture_is_a_token_among_others():
    """Ids around a picture, spelled out: each stretch begins anew."""
    tokenizer = fast("legacy")
    ids = encode(build("template", "v1").render(BY_HAND[0].conversation), tokenizer).token_ids.tolist()
    at = ids.index(splice.IMAGE)
    assert tokenizer.convert_ids_to_tokens(ids[at - 3 : at]) == ["ER", ":", "▁"]
    assert tokenizer.convert_ids_to_tokens(ids[at + 1 : at + 4]) == ["▁", "<0x0A>", "W"]
