"""LLaVA's and LLaVA-NeXT's prompts and masks, written anew: what theirs give, and what they were meant to give.

`Prompt` renders as `Conversation.get_prompt` does. The functions `mask_...` follow the algorithms of the training scripts, with
their counting of tokens; they give None where the original drops the sample. `meant` marks the answers by their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

IMAGE = -200
PLACE = "<image>"


class Bit(NamedTuple):
    """Some text of a prompt: whether it is the format's own, and whether it is meant to be learnt."""

    text: str
    own: bool
    learnt: bool = False


@dataclass(frozen=True)
class Prompt:
    """A format of `conv_templates`: `style` is its separator style; `roles` as there."""

    style: str
    system: str
    roles: tuple[str, str]
    sep: str
    sep2: str = ""

    def bits(self, system: str | None, texts: Sequence[str], reply: bool) -> list[Bit]:
        system = self.system if system is None else system
        return [bit for bit in getattr(self, f"_{self.style}")(system, texts, reply) if bit.text]

    def _single(self, system, texts, reply):
        yield from (Bit(system, False), Bit(self.sep, True))
        for number, text in enumerate(texts):
            yield from (Bit(f"{self.roles[number % 2]}:", True), Bit(" ", True, number % 2 == 1))
            yield from (Bit(text, False, number % 2 == 1), Bit(self.sep, True, number % 2 == 1))
        if reply:
            yield Bit(f"{self.roles[1]}:", True)

    def _two(self, system, texts, reply):
        yield from (Bit(system, False), Bit(self.sep, True))
        for number, text in enumerate(texts):
            answer = number % 2 == 1
            yield from (Bit(f"{self.roles[number % 2]}:", True), Bit(" ", True, answer), Bit(text, False, answer))
            yield Bit(self.sep2 if answer else self.sep, True, answer)
        if reply:
            yield Bit(f"{self.roles[1]}:", True)

    def _llama_2(self, system, texts, reply):
        for number, text in enumerate(texts):
            if number % 2:
                yield from (Bit(" ", True, True), Bit(text, False, True), Bit(" ", True, True), Bit(self.sep2, True, True))
                continue
            yield Bit((self.sep if number else "") + "[INST] ", True)
            if number == 0 and system:
                yield from (Bit("<<SYS>>\n", True), Bit(system, False), Bit("\n<</SYS>>\n\n", True))
            yield from (Bit(text, False), Bit(" [/INST]", True))

    def _mpt(self, system, texts, reply):
        opening, _, _ = self.roles[0].partition("user")
        yield from (Bit(f"{opening}system{self.roles[0].partition('user')[2]}", True), Bit(system, False), Bit(self.sep, True))
        for number, text in enumerate(texts):
            answer = number % 2 == 1
            yield from (Bit(self.roles[number % 2], True), Bit(text, False, answer), Bit(self.sep, True, answer))
        if reply:
            yield Bit(self.roles[1], True)

    def _chatml(self, system, texts, reply):
        yield from (Bit("<|im_start|>system\n", True), Bit(system, False), Bit(f"{self.sep}\n", True))
        for number, text in enumerate(texts):
            answer = number % 2 == 1
            yield from (Bit(f"{self.roles[number % 2]}\n", True), Bit(text, False, answer))
            yield from (Bit(self.sep, True, answer), Bit("\n", True))
        if reply:
            yield Bit(f"{self.roles[1]}\n", True)

    def _llama_3(self, system, texts, reply):
        yield Bit("<|begin_of_text|>", True)
        for number, text in enumerate((system, *texts)):
            role = ("user", "assistant")[(number + 1) % 2] if number else "system"
            yield Bit(f"<|start_header_id|>{role}<|end_header_id|>\n\n", True)
            answer = role == "assistant"
            yield from (Bit(text.strip(), False, answer), Bit(self.sep, True, answer))
        if reply:
            yield Bit("<|start_header_id|>assistant<|end_header_id|>\n\n", True)

    def _gemma(self, system, texts, reply):
        for number, text in enumerate(texts):
            answer = number % 2 == 1
            yield from (Bit(self.roles[number % 2], True), Bit(text, False, answer), Bit(self.sep, True, answer))
        if reply:
            yield Bit(self.roles[1], True)

    def _plain(self, system, texts, reply):
        yield Bit(PLACE * texts[0].count(PLACE), True)
        if not reply:
            yield from (Bit(texts[1], False, True), Bit(self.sep, True, True))


class Tokens(NamedTuple):
    ids: list[int]
    learnt: list[bool]


Tokenize = Callable[[str], list[int]]


def by_chunks(text: str, tokenize: Tokenize, bos: int | None) -> list[int]:
    """`tokenizer_image_token`."""
    first, *rest = (tokenize(chunk) for chunk in text.split(PLACE))
    start = 1 if bos is not None and first[:1] == [bos] else 0
    return [*first, *(token for chunk in rest for token in (IMAGE, *chunk[start:]))]


@dataclass(frozen=True)
class Kind:
    """A tokenizer for the original's code: `tokenize` as its call, `bos` the token it puts first (None: none)."""

    tokenize: Tokenize
    bos: int | None
    legacy: bool | None = None

    def __call__(self, text: str) -> list[int]:
        return by_chunks(text, self.tokenize, self.bos)

    def ids(self, text: str) -> list[int]:
        """Without the beginning-of-sequence token."""
        found = self.tokenize(text)
        return found[1:] if self.bos is not None and found[:1] == [self.bos] else found


def _checked(ids: list[int], learnt: list[bool], position: int) -> Tokens | None:
    """The original drops a sample whose rounds do not add up."""
    return Tokens(ids, learnt) if position == len(ids) else None


def _by_rounds(ids, rounds, separator, start, measure) -> Tokens | None:
    """Each round's instruction masked; `measure(number, round, instruction)` counts the tokens of both."""
    learnt = [True] * len(ids)
    learnt[:start] = [False] * start
    position = start
    for number, piece in enumerate(rounds):
        if piece == "":
            break
        parts = piece.split(separator)
        if len(parts) != 2:
            break
        whole, instruction = measure(number, piece, parts[0] + separator)
        learnt[position : position + instruction] = [False] * len(learnt[position : position + instruction])
        position += whole
    return _checked(ids, learnt, position)


def mask_two(prompt: Prompt, text: str, kind: Kind) -> Tokens | None:
    def measure(number, piece, instruction):
        less = 1 if number and not kind.legacy else 0
        return len(kind(piece)) - less, len(kind(instruction)) - 2 - less

    return _by_rounds(kind(text), text.split(prompt.sep2), f"{prompt.sep}{prompt.roles[1]}: ", 1, measure)


def mask_llama_2(prompt: Prompt, text: str, kind: Kind) -> Tokens | None:
    def measure(number, piece, instruction):
        return len(kind(piece)), len(kind(instruction)) - 2

    return _by_rounds(kind(text), text.split(prompt.sep2), "[/INST] ", 1, measure)


def mask_mpt(prompt: Prompt, text: str, kind: Kind, start: int = 1) -> Tokens | None:
    """LLaVA-NeXT's counts from 1, LLaVA's from 0."""
    rounds = text.split(prompt.sep)
    rounds = [prompt.sep.join(rounds[:3]), *(prompt.sep.join(rounds[at : at + 2]) for at in range(3, len(rounds), 2))]

    def measure(number, piece, instruction):
        more = 1 if number and kind.legacy else 0
        return len(kind(piece)) + more, len(kind(instruction)) - 1 + more

    return _by_rounds(kind(text), rounds, prompt.sep + prompt.roles[1], start, measure)


def mask_gemma(prompt: Prompt, text: str, kind: Kind) -> Tokens | None:
    rounds = text.split(prompt.sep)
    rounds = [prompt.sep.join(rounds[at : at + 2]) for at in range(0, len(rounds), 2)]

    def measure(number, piece, instruction):
        return len(kind(piece)) - 1 + 2, len(kind(instruction)) - 1

    return _by_rounds(kind(text), rounds, prompt.sep + prompt.roles[1], 1, measure)


def mask_v0(prompt: Prompt, system: str | None, texts: Sequence[str], kind: Kind) -> tuple[str, Tokens | None]:
    """The generic `preprocess`: a layout of its own, every turn counted by itself. It has no check; None where one fails."""
    header = f"{prompt.system if system is None else system}\n\n"
    turns = [f"### {prompt.roles[number % 2]}: {text}\n" for number, text in enumerate(texts)]
    whole = header + "".join(turns) + "### "
    ids = kind(whole)
    learnt = [True] * len(ids)
    position = len(kind(header))
    learnt[:position] = [False] * position
    for number, turn in enumerate(turns):
        length = len(kind(turn))
        if number % 2 == 0:
            hidden = range(position + 2, min(position + length, len(ids)))
            learnt[hidden.start : hidden.stop] = [False] * len(hidden)
        position += length
    rest = len(kind.ids("\n### ")) - len(kind.ids("\n"))
    return whole, _checked(ids, learnt, position + rest)


def mask_qwen(prompt: Prompt, system: str | None, texts: Sequence[str], kind: Kind) -> tuple[str, Tokens]:
    """Every message on its own; then every line break and marker is learnt, by its id."""
    said = [("system", prompt.system if system is None else system)]
    said += [(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    messages = [(role, f"<|im_start|>{role}\n{text}<|im_end|>\n") for role, text in said]
    everywhere = {kind.ids(text)[0] for text in ("\n", "<|im_start|>", "<|im_end|>")}
    return _message_by_message(messages, kind, everywhere)


def mask_llama_3(prompt: Prompt, system: str | None, texts: Sequence[str], kind: Kind) -> tuple[str, Tokens]:
    said = [("system", prompt.system if system is None else system)]
    said += [(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    messages = [(role, f"<|start_header_id|>{role}<|end_header_id|>\n\n{text.strip()}<|eot_id|>") for role, text in said]
    messages[0] = ("system", "<|begin_of_text|>" + messages[0][1])
    names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return _message_by_message(messages, kind, {kind.ids(name)[-1] for name in names})


def _message_by_message(messages, kind: Kind, everywhere: set[int]) -> tuple[str, Tokens]:
    ids: list[int] = []
    learnt: list[bool] = []
    for role, text in messages:
        found = by_chunks(text, kind.ids, None)
        ids += found
        learnt += [role == "assistant" or token in everywhere for token in found]
    return "".join(text for _, text in messages), Tokens(ids, learnt)


class Reading:
    """Tokenises bits with the markers that a format wrote as special tokens, and those that were typed as letters.

    `letters(text, first)` are the ids of text in which nothing is special.
    """

    def __init__(self, special_ids: dict[str, int], letters: Callable[[str, bool], list[int]], bos: int | None):
        self.special_ids, self.bos = special_ids, bos
        self.letters = lru_cache(maxsize=100_000)(letters)
        self.pattern = re.compile("|".join(map(re.escape, sorted(special_ids, key=len, reverse=True))))

    def ids(self, bits: Sequence[Bit]) -> list[int]:
        found: list[int] = []
        chunk: list[Bit] = []
        for bit in (*bits, None):
            if bit is not None and bit.text != PLACE:
                chunk.append(bit)
                continue
            new = self._chunk(chunk)
            if not found and self.bos is not None and new[:1] != [self.bos]:
                found.append(self.bos)
            found += new if bit is None else [*new, IMAGE]
            chunk = []
        return found

    def _chunk(self, bits: Sequence[Bit]) -> list[int]:
        text = "".join(bit.text for bit in bits)
        own = [bit.own for bit in bits for _ in bit.text]
        found: list[int] = []
        end = 0
        for match in self.pattern.finditer(text):
            if all(own[match.start() : match.end()]):
                found += [*self.letters(text[end : match.start()], end == 0), self.special_ids[match.group()]]
                end = match.end()
        return found + self.letters(text[end:], end == 0)

    def meant(self, bits: Sequence[Bit]) -> Tokens:
        """Ids, and what was meant to be learnt: from a border of the text to the next, as many tokens as lie between them."""
        ids = self.ids(bits)
        learnt = [False] * len(ids)
        for number, bit in enumerate(bits):
            if bit.learnt and (number == 0 or not bits[number - 1].learnt):
                stop = next((n for n in range(number, len(bits)) if not bits[n].learnt), len(bits))
                start, end = len(self.ids(bits[:number])), len(self.ids(bits[:stop]))
                learnt[start:end] = [True] * (end - start)
        return Tokens(ids, learnt)


def places_apart(bits: Sequence[Bit], real: bool) -> list[Bit]:
    """Pictures as bits of their own. `real`: whether `<image>` in what was said is a picture."""
    apart: list[Bit] = []
    for bit in bits:
        pieces = re.split(f"({PLACE})", bit.text) if (real and not bit.learnt) or bit.own else [bit.text]
        apart += [Bit(piece, bit.own, bit.learnt) for piece in pieces if piece]
    return apart
