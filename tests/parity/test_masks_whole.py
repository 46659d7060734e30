"""`tokenisation: whole` gives the ids of transformers' processors: `<image>` as an added special token of the tokenizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, LlavaProcessor

from llava_kit.assemble.parts import build
from llava_kit.data.tokenize import encode
from llava_kit.splice.build import IMAGE

from .conversations import BY_HAND, drawn, written
from .formats import PROMPTS, fits
from .masks import KINDS, fast, ours

TALKS = [talk for talk in [*BY_HAND, *drawn(60)] if not talk.is_marked]
NAMES = [
    "v1",
    "v0",
    "llava_llama_2",
    "mistral_instruct",
    "chatml_direct",
    "qwen_1_5",
    "llava_llama_3",
    "gemma_instruct",
    "plain",
]
PER_PICTURE = 4


def with_image_token(kind: str):
    tokenizer = copy.deepcopy(fast(kind))
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_a_tokenizer_with_an_image_token(kind):
    tokenizer = with_image_token(kind)
    place = tokenizer.convert_tokens_to_ids("<image>")
    count = 0
    for name in NAMES:
        template = build("template", name, tokenisation="whole")
        for talk in TALKS:
            if not fits(name, talk):
                continue
            pieces = template.render(talk.conversation)
            expected = [IMAGE if token == place else token for token in tokenizer(written(pieces)).input_ids]
            if name == "llava_llama_3" and kind == "bytes_bos":
                assert expected.count(tokenizer.bos_token_id) == 1
            assert encode(pieces, fast(kind), tokenisation="whole").token_ids.tolist() == expected
            count += 1
    assert count > 300


@pytest.mark.parametrize("kind", ["legacy", "later", "bytes"])
def test_ids_are_those_of_the_processor(kind):
    """The whole way: a picture and a text go in, and each place has as many tokens as the picture has rows."""
    pictures = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        pictures,
        with_image_token(kind),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    template = build("template", "v1", tokenisation="whole")
    for talk in TALKS[:12]:
        pieces = template.render(talk.conversation)
        slots = written(pieces).count("<image>")
        shown = {"images": [Image.fromarray(np.zeros((8, 8, 3), np.uint8))] * slots} if slots else {}
        found = processor(text=written(pieces), **shown, return_tensors="pt").input_ids[0].tolist()
        ids = encode(pieces, fast(kind), tokenisation="whole").token_ids.tolist()
        wanted = [token for id_ in ids for token in ([processor.image_token_id] * PER_PICTURE if id_ == IMAGE else [id_])]
        assert found == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_covers_the_same_text_either_way(kind):
    """Only the tokens beside a picture differ, and only where a space is put before each text."""
    differ = 0
    for name in ("v1", "chatml_direct"):
        ways = [build("template", name, tokenisation=way) for way in ("chunks", "whole")]
        for talk in TALKS:
            chunks, whole = (ours(template, talk.conversation, kind) for template in ways)
            tokens = fast(kind).convert_ids_to_tokens
            learnt = [tokens([i for i, flag in zip(*found) if flag]) for found in (chunks, whole)]
            assert learnt[0] == learnt[1]
            differ += chunks.ids != whole.ids
    assert (differ > 0) == (kind.startswith("later"))


@pytest.mark.parametrize("kind", KINDS)
def test_who_types_the_place_of_a_picture_types_letters(kind):
    from llava_kit.core.conversation import ImageSlot, Segment
    from llava_kit.data.tokenize import PICTURE

    typed = [Segment("a "), ImageSlot(0), Segment(f" {PICTURE} <image> </s> b"), ImageSlot(1), Segment("</s>", True, True)]
    found = encode(typed, fast(kind), tokenisation="whole")
    assert found.token_ids.tolist().count(IMAGE) == 2
    assert found.token_ids.tolist().count(fast(kind).eos_token_id) == 1
    assert found.slots == (0, 1)
    assert found.trainable.tolist() == [False] * (len(found.trainable) - 1) + [True]
    text = fast(kind).decode([token for token in found.token_ids.tolist() if token >= 0], skip_special_tokens=True)
    assert f"{PICTURE} <image> </s> b" in text


def test_every_format_has_the_option():
    for name in PROMPTS:
        assert build("template", name).tokenisation == "chunks"
        assert build("template", name, tokenisation="whole").tokenisation == "whole"
