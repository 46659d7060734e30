"""The image token in tokenizers of every kind, and the rows that an embedding gets for it."""

import pytest
import torch

from llava_kit import CheckpointError
from llava_kit.export.vocabulary import extended_rows, with_image_token
from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer, tokenizer_variants


@pytest.mark.parametrize("name", tokenizer_variants())
def test_token_is_one_and_new_and_the_rest_stays(name):
    tokenizer = tokenizer_variants()[name]
    before = tokenizer.get_vocab()
    found = with_image_token(tokenizer, len(before))
    assert found.image_id == len(before)
    assert found.tokenizer.encode("a <image> b", add_special_tokens=False).count(found.image_id) == 1
    assert found.rows % 64 == 0
    assert found.rows - len(before) < 128
    assert tokenizer.get_vocab() == before  # the model's own is left alone
    text = "Describe it in a few words."
    assert found.tokenizer.encode(text) == tokenizer.encode(text)


def test_known_token_needs_no_rows():
    tokenizer = sentencepiece_tokenizer(specials=("<image>",))
    found = with_image_token(tokenizer, len(tokenizer) + 3)
    assert found.added == ()
    assert found.rows == len(tokenizer) + 3


def test_spare_rows_are_used_first():
    tokenizer = byte_level_tokenizer()
    found = with_image_token(tokenizer, len(tokenizer) + 40)
    assert found.rows == len(tokenizer) + 40
    assert found.added == ("<image>",)


def test_padding_token_is_added_where_there_is_none():
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = None
    found = with_image_token(tokenizer, len(tokenizer))
    assert found.added == ("<image>", "<pad>")
    assert found.pad_id == found.image_id + 1


def test_tokenizer_that_cannot_be_extended_is_an_error(monkeypatch):
    tokenizer = byte_level_tokenizer()
    monkeypatch.setattr(type(tokenizer), "add_tokens", lambda self, *args, **kwargs: 0)
    with pytest.raises(CheckpointError, match=r"cannot be extended by '<image>'.*expected one new id"):
        with_image_token(tokenizer, len(tokenizer))


def test_new_rows_are_the_mean():
    table = torch.randn(5, 3, dtype=torch.bfloat16)
    longer = extended_rows(table, 8)
    assert longer.dtype == table.dtype
    assert torch.equal(longer[:5], table)
    assert torch.equal(longer[5:], table.float().mean(0).to(torch.bfloat16).expand(3, -1))
    assert extended_rows(table, 5) is table
