"""The small tokenizer: one token for each word of the world, bytes for everything else."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .language import DESCRIBE, NUMBERS
from .world import COLOURS, PLACES, SHAPES, SIZES

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
# The fixed text of every sentence in language.py. A test reads thousands of sentences and finds no word spelt in bytes.
_SENTENCES = (
    *DESCRIBE,
    "What colour is the object in the? What is the colour of the shape shape of the objects.",
    "How many objects are there? How many objects are in the picture? Where is the? Where in the picture is the",
    "Is there a? Does the picture show a? Is the larger than the smaller than left of right of above below yes no",
    "There is one object on a dark ground. There are objects on a light ground. In the is a; , :",
    "If every is taken away, how many objects are left? I see: , Without every: nothing. So are left. is left.",
    "Have all objects the same colour? Have all objects the same shape? So yes. So no.",
)
# What the templates of LLaVA say around the turns.
_TEMPLATES = (
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: ASSISTANT: [INST] [/INST]",
)
# A piece is a role mark, a word with the space before it, or a single other character.
_PIECE = r" ?(?:USER|ASSISTANT):| ?\[/?INST\]| ?\p{L}+(?:-\p{L}+)*| ?[^\s\p{L}]|\s"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer; the same ids each time, whatever the version of the tokenizers library.

    A byte-level BPE that needs no merges: a piece that is a word of the world is one token (`ignore_merges`), any other piece
    falls apart into its bytes. Nothing is unknown, and decoding gives back exactly what was encoded.
    """
    vocabulary: dict[str, int] = {}
    for token in (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_words()):
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[3],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _words() -> list[str]:
    """Every piece of the world's text as the byte-level alphabet writes it, with and without a space before."""
    text = " ".join((*_SENTENCES, *_TEMPLATES, *COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS))
    split = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    pieces = {piece.strip() for piece, _ in split.pre_tokenize_str(text)} - {""}
    return sorted(pieces | {"Ġ" + piece for piece in pieces})
