"""Tokenizers of every kind for the original's code and for ours, and what ours makes of a conversation."""

from __future__ import annotations

from functools import lru_cache, partial

from llava_kit.core.conversation import Conversation, Sample
from llava_kit.data.example import fit_turns
from llava_kit.splice import build as splice
from llava_kit.testing.tokenizers import byte_level_tokenizer
from llava_kit_templates import ALIASES

from . import original
from .conversations import BY_HAND, Talk, drawn
from .formats import PROMPTS, fits
from .llama import SlowLlama, fast_llama, train
from .original import Kind, Reading, Tokens

MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
)
KINDS = ("legacy", "legacy_no_bos", "later", "later_no_bos", "bytes", "bytes_bos")
NAMES = sorted(set(PROMPTS) - set(ALIASES))
TALKS = [*BY_HAND, *drawn(60)]
PAIRS = [Talk(talk.texts[:2], talk.pictures, talk.system) for talk in [*BY_HAND, *drawn(140, seed=5)]]


@lru_cache
def fast(kind: str):
    if kind.startswith("bytes"):
        return byte_level_tokenizer(specials=MARKS, add_bos="bos" in kind, trim_offsets="bos" not in kind)
    return fast_llama(train(), MARKS, legacy=kind.startswith("legacy"), add_bos="no_bos" not in kind)


@lru_cache
def slow(kind: str) -> SlowLlama:
    return SlowLlama(train(), MARKS, legacy=kind.startswith("legacy"), add_bos="no_bos" not in kind)


@lru_cache
def as_original_sees_it(kind: str) -> Kind:
    """The tokenizer for the original's code: SentencePiece itself, and the byte-level one as transformers calls it."""
    if kind.startswith("bytes"):
        tokenizer = fast(kind)
        return Kind(lambda text: tokenizer(text).input_ids, tokenizer.bos_token_id if "bos" in kind else None, None)
    tokenizer = slow(kind)
    return Kind(tokenizer, tokenizer.bos_token_id if tokenizer.add_bos else None, tokenizer.legacy)


@lru_cache
def reading(kind: str) -> Reading:
    if kind.startswith("bytes"):
        tokenizer = fast(kind)
        names = ("<s>", "</s>", *MARKS)
        letters = partial(tokenizer, add_special_tokens=False, split_special_tokens=True)
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in names}
        return Reading(ids, lambda text, first: letters(text).input_ids, tokenizer.bos_token_id if "bos" in kind else None)
    tokenizer = slow(kind)
    return Reading(tokenizer.special_ids, tokenizer.letters, tokenizer.bos_token_id if tokenizer.add_bos else None)


def talks_for(name: str) -> list[Talk]:
    talks = [talk for talk in (PAIRS if name == "plain" else TALKS) if fits(name, talk)]
    assert len(talks) >= 60
    return talks


def ours(template, conversation: Conversation, kind: str) -> Tokens:
    slots = sum(not isinstance(part, str) for message in conversation.messages for part in message.parts)
    sample = Sample("s", conversation, (None,) * slots)  # type: ignore[arg-type]
    encoded = fit_turns(sample, template, fast(kind), picture_lengths=[1] * slots, max_length=None).encoded
    ids = [original.IMAGE if token == splice.IMAGE else token for token in encoded.token_ids.tolist()]
    return Tokens(ids, encoded.trainable.tolist())


def same(found: Tokens, expected: Tokens) -> bool:
    """Whether ids and mask are equal; the first token's flag means nothing, for nothing comes before it."""
    return found.ids == expected.ids and found.learnt[1:] == expected.learnt[1:]
