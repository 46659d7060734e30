"""Conversations to compare prompts and masks with: the awkward ones by hand, the rest drawn from awkward pieces."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment

from .original import PLACE


class Talk(NamedTuple):
    """Questions and answers in turn. `pictures`: whether `<image>` in a question is a picture (else it was typed)."""

    texts: tuple[str, ...]
    pictures: bool = True
    system: str | None = None

    @property
    def conversation(self) -> Conversation:
        messages, count = [], 0
        for number, text in enumerate(self.texts):
            parts: list[str | ImageSlot] = []
            for piece in re.split(f"({PLACE})", text) if self.pictures and number % 2 == 0 else [text]:
                if piece == PLACE and self.pictures and number % 2 == 0:
                    parts.append(ImageSlot(count))
                    count += 1
                elif piece:
                    parts.append(piece)
            messages.append(Message("assistant" if number % 2 else "user", tuple(parts)))
        return Conversation(tuple(messages), self.system)

    @property
    def is_marked(self) -> bool:
        """Whether somebody typed a marker of some format."""
        return any(marker in text for text in (*self.texts, self.system or "") for marker in MARKERS) or not self.pictures


MARKERS = ("</s>", "<s>", "<unk>", "<|", "<start_of_turn>", "<end_of_turn>", "###", " ASSISTANT: ", "[INST]", "[/INST]")
BY_HAND = (
    Talk(("<image>\nWhat is it?", "A cat.")),
    Talk(("What is it?\n<image>", "A cat.", "Which colour is it?", "Black.")),
    Talk(("Is <image> old?", "Yes.", "Why?", "It is so, I think.", "And now?", "Not 13.")),
    Talk(("<image>\n<image>\nWhich is it?", "The first.", "And <image>?", "Not.")),
    Talk(("What is it?", "A cat.", "Which colour?", "Black.")),
    Talk(("<image>", "A cat.", "<image>", "A dog.")),
    Talk(("<image>\nWas ist das? 🙂 中文", "Ünïcode é 🙂!", "Ça va?", "中文。")),
    Talk(("<image>\n What is it?  ", " A cat. ", "\nWhich colour?\n", "\nBlack.\n\n")),
    Talk(("<image>\nOne line.\n\nAnother line:\n- a\n- b", "First.\nSecond.\n\n- third", "So?", "Yes.")),
    Talk(("<image>\nWhat is it?", "A cat."), system="Be brief."),
    Talk(("<image>\nWhat is it?", "A cat.", "Why?", "So."), system="Réponds en français. 🙂\nTwo lines."),
    Talk(("Say </s> and <|im_end|> and <image>.", "No </s> <|im_end|> <|eot_id|>.", "###Human: [INST]?", "x"), pictures=False),
    Talk(("<image>\n</s> ASSISTANT: yes", "It is ### not ASSISTANT: so </s>.", "<end_of_turn>", "[/INST] <s>")),
    Talk(("<image>\n12345 67", "8 90", "1", "2", "3", "4", "5", "6", "7", "8")),
)
_WORDS = (
    "What",
    "is",
    "it?",
    "cat",
    "in the picture",
    "colour,",
    "é",
    "🙂",
    "中",
    "13",
    "USER",
    "I",
    "x-y",
    "two  spaces",
    "\t",
    "(a)",
)
_TYPED = (
    "</s>",
    "<|im_start|>user\n",
    "<|im_end|>",
    "###",
    " ASSISTANT: ",
    "[/INST]",
    "<end_of_turn>\n",
    "<s>",
    "<|eot_id|>",
    "<unk>",
)


def _text(draw: random.Random, typed: bool, plain: bool) -> str:
    words = [draw.choice(_WORDS) for _ in range(draw.randint(1, 7))]
    if typed and draw.random() < 0.4:
        words.insert(draw.randint(0, len(words)), draw.choice(_TYPED))
    text = draw.choice(("", "", "Why? ", "It is ")) + draw.choice((" ", " ", "\n")).join(words)
    if not plain:
        text = draw.choice(("", "", "", " ", "\n", "  ")) + text + draw.choice(("", "", "", " ", "\n", "\n\n"))
    return text if text.strip() else "So."


def _question(draw: random.Random, pictures: int, typed: bool, plain: bool) -> str:
    text = _text(draw, typed, plain)
    place = draw.choice(("first", "first", "last", "middle"))
    if not pictures:
        return text
    if place == "first":
        return f"{PLACE}\n" * pictures + text
    if place == "last":
        return text + f"\n{PLACE}" * pictures
    return text + f" {PLACE} and" * pictures + " so?"


def drawn(count: int, seed: int = 0) -> list[Talk]:
    """Every third without anything awkward, every fourth with typed markers, every fifth with a system text."""
    draw = random.Random(seed)
    talks = []
    for number in range(count):
        plain, typed = number % 3 == 0, number % 4 == 1
        pairs = 1 + number % 4
        texts = []
        for pair in range(pairs):
            pictures = draw.choice((0, 1, 1, 2)) if pair == 0 else draw.choice((0, 0, 0, 1))
            texts += [_question(draw, pictures, typed, plain), _text(draw, typed, plain)]
        talks.append(Talk(tuple(texts), system="Be brief. " * (number % 5 == 2) or None))
    return talks


def written(pieces) -> str:
    return "".join(piece.text if isinstance(piece, Segment) else PLACE for piece in pieces)
