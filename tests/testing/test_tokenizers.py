from __future__ import annotations

import pickle

import pytest
from transformers import AutoTokenizer

from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer, tokenizer_variants

TEXT = "USER: What is it? 🙂 é\nASSISTANT: A cat.</s>USER: Why?"


@pytest.mark.parametrize("kind", sorted(tokenizer_variants()))
def test_same_ids_when_made_saved_or_sent(kind, tmp_path):
    tokenizer = tokenizer_variants()[kind]
    ids = tokenizer(TEXT).input_ids
    assert tokenizer_variants()[kind](TEXT).input_ids == ids
    assert pickle.loads(pickle.dumps(tokenizer))(TEXT).input_ids == ids
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT).input_ids == ids
    assert tokenizer.is_fast
    assert len(tokenizer) < 1000
    assert max(ids) < len(tokenizer)


def test_where_the_prefix_space_goes():
    legacy, later = sentencepiece_tokenizer(legacy=True), sentencepiece_tokenizer(legacy=False)
    assert legacy.tokenize("It</s>It") == ["▁It", "</s>", "▁It"]
    assert later.tokenize("It</s>It") == ["▁It", "</s>", "I", "t"]
    assert legacy("A").input_ids[0] == legacy.bos_token_id
    assert sentencepiece_tokenizer(add_bos=False)("A").input_ids[0] != legacy.bos_token_id


@pytest.mark.parametrize("make", [sentencepiece_tokenizer, byte_level_tokenizer])
def test_nothing_is_unknown(make):
    tokenizer = make(specials=("<image>",))
    text = "Zz 中文 🙂 <image>"
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids or tokenizer.unk_token_id is None
    assert tokenizer.convert_tokens_to_ids("<image>") in ids
    assert tokenizer.decode(ids).replace("<s>", "").strip().startswith("Zz 中文 🙂")
