"""Row C3: conversations a second, from turns to token ids and labels, against the original's way of making labels.

Peer: an own writing of the algorithm of LLaVA's `preprocess_v1` (llava/train/train.py of haotian-liu/LLaVA), with a fast
tokenizer although the original takes the slow one: the whole prompt is tokenised stretch by stretch round the picture; then the
text is split at `</s>` into rounds, and every round, and the part of it before the answer, is tokenised again for its length.
Ours: the template's segments, one encoding, labels from offsets. The tokenizer is a BPE of 8,000 pieces trained here on seeded
pseudo-English; 4 sets of 60 conversations.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llava_kit.core.conversation import Conversation, ImageSlot, Message
from llava_kit.data.tokenize import encode
from llava_kit_templates.formats import FORMATS

from .common import Report, interleaved, parse_arguments, steady

IMAGE, IGNORED = -200, -100
TEMPLATE = FORMATS["v1"]
CONVERSATIONS = 60
PIECES, TRAINING_WORDS = 8000, 360_000  # 360,000 words are some 2 MB
# (turns, words of a question, words of an answer): VQA with short answers, GQA with many turns, one long description.
SETS = {"5 short turns": (5, 9, 2), "13 short turns": (13, 9, 2), "1 long turn": (1, 10, 110)}


def pseudo_words(generator: np.random.Generator, count: int = 12_000) -> list[str]:
    """Words of one to four syllables, as English as they need to be."""
    onsets = [
        "b",
        "c",
        "d",
        "f",
        "g",
        "h",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "t",
        "v",
        "w",
        "st",
        "tr",
        "ch",
        "sh",
        "th",
        "pl",
        "gr",
    ]
    vowels, codas = ["a", "e", "i", "o", "u", "ea", "ou", "ai"], ["", "", "n", "r", "s", "t", "l", "ng", "nd"]
    draw = generator.integers(0, [len(onsets), len(vowels), len(codas)], size=(count, 4, 3))
    syllables = generator.choice([1, 2, 3, 4], size=count, p=[0.35, 0.4, 0.2, 0.05])
    return [
        "".join(onsets[a] + vowels[b] + codas[c] for a, b, c in word[:number])
        for word, number in zip(draw.tolist(), syllables.tolist())
    ]


def sentence(generator: np.random.Generator, words: list[str], count: int) -> str:
    """`count` words, frequent ones often (Zipf), with a capital and a full stop."""
    ranks = np.minimum(generator.zipf(1.3, size=count), len(words)) - 1
    text = " ".join(words[rank] for rank in ranks.tolist())
    return text.capitalize() + "."


def train_tokenizer(generator: np.random.Generator, words: list[str]) -> PreTrainedTokenizerFast:
    """A Llama-like BPE: spaces as `▁` before words, bytes as a fallback, `<s>` before the text, `<image>` added."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    start = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=start, show_progress=False)
    lines = [sentence(generator, words, 20) for _ in range(TRAINING_WORDS // 20)]
    system = "USER: ASSISTANT: " + TEMPLATE.system
    tokenizer.train_from_iterator([*lines, *[system] * 100], trainer)
    vocabulary = tokenizer.get_vocab()
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    llama = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    llama.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>", "<image>")])
    llama.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=llama, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_sets(generator: np.random.Generator, words: list[str]) -> dict[str, list[Conversation]]:
    def conversation(turns: int, question: int, answer: int) -> Conversation:
        messages = []
        for turn in range(turns):
            shown = [ImageSlot(0), "\n"] if turn == 0 else []
            lengths = [max(1, int(length)) for length in generator.normal([question, answer], [2, answer / 4])]
            messages.append(Message("user", (*shown, sentence(generator, words, lengths[0]))))
            messages.append(Message("assistant", (sentence(generator, words, lengths[1]),)))
        return Conversation(tuple(messages))

    sets = {name: [conversation(*shape) for _ in range(CONVERSATIONS)] for name, shape in SETS.items()}
    shapes = [*SETS.values(), (4, 14, 70)]  # the last: a conversation with long answers, as in LLaVA-Instruct
    sets["mixture"] = [conversation(*shapes[number % len(shapes)]) for number in range(CONVERSATIONS)]
    return sets


@dataclass(frozen=True)
class Labelled:
    token_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def ours(conversation: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    encoded = encode(TEMPLATE.render(conversation), tokenizer)
    return Labelled(encoded.token_ids, np.where(encoded.trainable, encoded.token_ids, IGNORED))


def prompt_of(conversation: Conversation) -> str:
    """The whole prompt as one text, put together as the original's conversation class does it."""
    text = TEMPLATE.system + " "
    for message in conversation.messages:
        said = "".join(part if isinstance(part, str) else "<image>" for part in message.parts)
        text += f"USER: {said} " if message.role == "user" else f"ASSISTANT: {said}</s>"
    return text


def tokenise_with_picture(prompt: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The algorithm of `tokenizer_image_token`."""
    first, *rest = [tokenizer(stretch).input_ids for stretch in prompt.split("<image>")]
    ids = list(first)
    for stretch in rest:
        ids += [IMAGE, *stretch[1:]]
    return ids


def original(conversation: Conversation, tokenizer: PreTrainedTokenizerFast) -> Labelled:
    """The algorithm of `preprocess_v1` for a legacy tokenizer."""
    prompt = prompt_of(conversation)
    ids = np.array(tokenise_with_picture(prompt, tokenizer))
    labels = ids.copy()
    labels[0] = IGNORED
    place = 1
    for turn in prompt.split("</s>"):
        if not turn:
            break
        question, _ = turn.split(" ASSISTANT: ")
        turn_length = len(tokenise_with_picture(turn, tokenizer))
        question_length = len(tokenise_with_picture(question + " ASSISTANT: ", tokenizer)) - 2
        labels[place : place + question_length] = IGNORED
        place += turn_length
    labels[place:] = IGNORED
    assert place == len(ids), "the original would mask this conversation"
    return Labelled(ids, labels)


def encode_only(conversation: Conversation, tokenizer: PreTrainedTokenizerFast) -> None:
    """The floor: the text made beforehand would still have to be encoded once."""
    tokenizer.backend_tokenizer.encode(prompt_of(conversation), add_special_tokens=False)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    steady()
    generator = np.random.default_rng(0)
    words = pseudo_words(generator)
    tokenizer = train_tokenizer(generator, words)
    report = Report("C3", "conversations a second: token ids and labels")
    equal, ratios = True, []
    for name, conversations in make_sets(generator, words).items():
        for conversation in conversations:
            one, other = ours(conversation, tokenizer), original(conversation, tokenizer)
            equal &= np.array_equal(one.token_ids, other.token_ids) and np.array_equal(one.labels, other.labels)
        ways = {"ours": ours, "original": original, "encode only": encode_only}
        times = interleaved(
            {way: lambda run=run, rows=conversations: [run(row, tokenizer) for row in rows] for way, run in ways.items()},
            rounds=arguments.rounds or 5,
        )
        tokens = sum(len(ours(conversation, tokenizer).token_ids) for conversation in conversations) / len(conversations)
        report.figure(f"{name}: tokens of a conversation", tokens)
        for way, measured in times.items():
            report.figure(f"{name}: {way}, median", len(conversations) / measured.median, "1/s")
        ratio = times["original"].median / times["ours"].median
        ratios.append(ratio)
        report.figure(f"{name}: ours / original", ratio, "x")
        report.figure(f"{name}: encode only / original", times["original"].median / times["encode only"].median, "x")
    report.figure("geometric mean of ours / original", float(np.exp(np.mean(np.log(ratios)))), "x", at_least=3.0)
    report.claim("token ids and labels equal the original's on every conversation of every set", equal)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
