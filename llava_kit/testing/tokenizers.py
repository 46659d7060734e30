"""Small tokenizers of the kinds that language models have, trained in a second on text that is written here; no download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
CHATML = ("<|im_start|>", "<|im_end|>")
_PHRASES = (
    "What is in the picture?",
    "Describe it in a few words.",
    "Answer the question using a single word or phrase.",
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "A cat sits on the mat. There are two black dogs and 13 birds, 4 of them white.",
    "USER: Which colour is it? ASSISTANT: It is blue.",
    "###Human: Is it old?###Assistant: Yes.",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] Because it is so.",
    "system\nYou are a helpful assistant.",
    "user\nWhere?",
    "assistant\nHere.",
)


def sentencepiece_tokenizer(
    *, legacy: bool = True, specials: Sequence[str] = (), vocabulary: int = 700, add_bos: bool = True
) -> PreTrainedTokenizerFast:
    """A BPE as Llama and Vicuna have it: spaces written as `▁`, bytes as a fallback, `<s>` before the text.

    `legacy`: a `▁` is put before every piece of text, also after a special token; else only before the first piece.
    `specials` are added as special tokens at the end of the vocabulary.
    """
    pieces, merges = _train_pieces(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=list(merges), unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    parts: Any = tokenizer  # the stubs of tokenizers declare these attributes read-only
    if legacy:
        parts.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        parts.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    parts.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer, (UNKNOWN, BOS, EOS, *specials), add_bos=add_bos)


def byte_level_tokenizer(
    *, specials: Sequence[str] = CHATML, vocabulary: int = 700, add_bos: bool = False, trim_offsets: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Qwen and Llama 3 have it: no unknown text, no prefix space; special tokens come last."""
    tokenizer = Tokenizer(models.BPE())
    parts: Any = tokenizer
    parts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)  # pyright: ignore[reportCallIssue]
    tokenizer.train_from_iterator(_lines(), trainer)
    parts.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _finish(tokenizer, (BOS, EOS, *specials), add_bos=add_bos)


def tokenizer_variants() -> dict[str, PreTrainedTokenizerFast]:
    """One of each kind, by name, all with the markers of ChatML: what a template or the tokenisation is tried with."""
    return {
        "legacy": sentencepiece_tokenizer(legacy=True, specials=CHATML),
        "metaspace": sentencepiece_tokenizer(legacy=False, specials=CHATML),
        "without_bos": sentencepiece_tokenizer(legacy=False, specials=CHATML, add_bos=False),
        "byte_level": byte_level_tokenizer(),
        "byte_level_bos": byte_level_tokenizer(add_bos=True, trim_offsets=False),
    }


def _finish(tokenizer: Tokenizer, specials: Sequence[str], *, add_bos: bool) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in specials])
    if add_bos:
        template = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
        before = [tokenizer.post_processor] if tokenizer.post_processor is not None else []
        parts: Any = tokenizer
        parts.post_processor = processors.Sequence([*before, template])
    unknown = {"unk_token": UNKNOWN, "pad_token": UNKNOWN} if UNKNOWN in specials else {"pad_token": EOS}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False, **unknown
    )


def _lines() -> list[str]:
    """Some 500 lines: every phrase beside every other, so that there are merges within words and none across lines."""
    return [f"{first} {second}" for first, second in product(_PHRASES, _PHRASES)] + [*_PHRASES] * 30


@lru_cache(maxsize=4)
def _train_pieces(vocabulary: int) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    parts: Any = tokenizer
    parts.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", behavior="removed"), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    start = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=start, show_progress=False)  # pyright: ignore[reportCallIssue, reportArgumentType]
    tokenizer.train_from_iterator(_lines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], tuple((left, right) for left, right in model["merges"])
