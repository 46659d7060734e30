"""Real SentencePiece models with Llama's settings, a slow Llama tokenizer over one of them, and the fast one made from it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
CHATML = ("<|im_start|>", "<|im_end|>")
TEXTS = (
    (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
        "polite answers to the user's questions."
    ),
    "USER: What is it? ASSISTANT: A cat. USER: Which colour is it? ASSISTANT: Black.",
    "### Human: What is it? ### Assistant: A cat. ### Human: Is it old? ### Assistant: Yes.",
    "[INST] What is in the picture? [/INST] Two dogs, 13 birds and 4 cats.",
    "You are a helpful assistant. Answer the questions. Describe it in a few words, I think.",
    "system user assistant model Human Assistant: it is what it is, and so it was.",
    "It is not 1, not 2, not 30; it is 4567.",
)


@lru_cache(maxsize=2)
def train(vocabulary: int = 640) -> bytes:
    """A BPE as Llama's: bytes as a fallback, no normalisation, a space before each text, digits one by one.

    As in Llama's vocabulary `###` is one piece at the start of a word and two elsewhere, and `USER` two at the start of a word
    and one elsewhere: the token counts of LLaVA's code are right for such a vocabulary alone.
    """
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=written,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    _like_llama(model)
    return model.SerializeToString()


def _like_llama(model) -> None:
    """Rewrites the three pieces of least merit as Llama's `##`, `▁##` and `▁###`, and takes `###` and `▁USER` out."""
    next(piece for piece in model.pieces if piece.piece == "▁USER").piece = "USER"
    wanted = ["##", "▁##", "▁###"]
    normal = [piece for piece in model.pieces if piece.type == piece.NORMAL]
    for piece in normal:
        if "#" in piece.piece and piece.piece != "#":
            piece.piece = f"\u2402{piece.piece.replace('#', chr(0x2403))}"  # never in a text
    long = sorted((piece for piece in normal if len(piece.piece) > 1), key=lambda piece: -piece.score)
    for piece in long[-3:]:
        piece.piece = wanted.pop(0)
    best = max(piece.score for piece in normal)
    for number, text in enumerate(("##", "▁##", "▁###")):
        next(piece for piece in normal if piece.piece == text).score = best + 3 - number


class SlowLlama:
    """A tokenizer as transformers' slow Llama tokenizer was: the text is split at special tokens, the rest is SentencePiece's.

    `legacy`: each piece of text gets a space before it; else only the first.
    """

    def __init__(self, model: bytes, specials: Sequence[str] = (), *, legacy: bool, add_bos: bool = True):
        self.legacy, self.add_bos = legacy, add_bos
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self.spaced = sentencepiece.SentencePieceProcessor(model_proto=model)
        proto.normalizer_spec.add_dummy_prefix = False
        self.bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.special_ids = {name: self.spaced.piece_to_id(name) for name in (UNKNOWN, BOS, EOS)}
        for name in specials:
            self.special_ids.setdefault(name, len(proto.pieces) + len(self.special_ids) - 3)
        self.split = re.compile("(" + "|".join(map(re.escape, sorted(self.special_ids, key=len, reverse=True))) + ")")
        self.bos_token_id = self.special_ids[BOS]

    def __call__(self, text: str) -> list[int]:
        ids = [self.bos_token_id] if self.add_bos else []
        for number, piece in enumerate(self.split.split(text)):
            ids += [self.special_ids[piece]] if number % 2 else self.letters(piece, number == 0)
        return ids

    def letters(self, text: str, first: bool) -> list[int]:
        """The ids of text in which nothing is special. As with the fast one, none is put before a space."""
        spaced = self.legacy or (first and not text.startswith((" ", "▁")))
        return (self.spaced if spaced else self.bare).encode(text) if text else []


def fast_llama(model: bytes, specials: Sequence[str] = (), *, legacy: bool, add_bos: bool = True) -> PreTrainedTokenizerFast:
    """The same model as a fast tokenizer, converted as transformers converts it: merges in order of the pieces' merit."""
    pieces = sentencepiece_model_pb2.ModelProto.FromString(model).pieces
    vocabulary = {piece.piece: number for number, piece in enumerate(pieces)}
    merit = {piece.piece: piece.score for piece in pieces}
    merges = []
    for piece in vocabulary:
        parts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        local = [(left, right) for left, right in parts if left in vocabulary and right in vocabulary]
        merges += [
            (left, right, merit[piece])
            for left, right in sorted(local, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        ]
    merges = [(left, right) for left, right, _ in sorted(merges, key=lambda merge: -merge[2])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = (UNKNOWN, BOS, EOS, *specials)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
