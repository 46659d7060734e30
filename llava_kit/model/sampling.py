"""How an answer is chosen, as typed options, and where it ends; no torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from ..errors import LlavaKitError


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda v: _whole(v) and v >= 1, "a whole number from 1"),
    "temperature": (lambda v: _number(v) and v >= 0, "0 (greedy) or more"),
    "top_p": (lambda v: _number(v) and 0 < v <= 1, "a share above 0 and up to 1"),
    "top_k": (lambda v: _whole(v) and v >= 0, "0 (all) or more"),
    "min_p": (lambda v: _number(v) and 0 <= v <= 1, "a share from 0 to 1"),
    "repetition_penalty": (lambda v: _number(v) and v > 0, "a number above 0 (1 is none)"),
    "num_beams": (lambda v: _whole(v) and v >= 1, "a whole number from 1"),
    "length_penalty": (lambda v: _number(v), "a number"),
    "stop": (
        lambda v: isinstance(v, (tuple, list)) and all(isinstance(text, str) and text for text in v),
        "texts, none of them empty",
    ),
    "seed": (lambda v: v is None or (_whole(v) and 0 <= v < 2**63), "a whole number from 0 to 2**63 - 1, or none"),
}


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen. Raises `LlavaKitError` naming every wrong value.

    max_new_tokens      the answer has at most so many tokens
    temperature         0 is greedy; above it tokens are drawn, from scores divided by it
    top_k, top_p, min_p what may be drawn, one after the other: the `top_k` most probable tokens (0: all), the most probable
                        that together reach `top_p`, those at least `min_p` times as probable as the first
    repetition_penalty  scores of tokens that the answer already holds are divided by it (those below zero multiplied). The
                        prompt does not count: a question's words may be said again.
    num_beams           above 1: beam search. Best with temperature 0; the answer then comes in one piece, also when streamed.
    length_penalty      of beams: a finished beam's score is divided by its length to this power; above 0 favours long answers
    stop                texts at which an answer ends, besides those of the template; they are not part of it
    seed                draws repeat with it (a batch is drawn together); torch's own generators stay as they are. None: other
                        draws every time
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self):
        wrong = []
        for option in fields(self):
            is_right, expected = _CHECKS[option.name]
            value = getattr(self, option.name)
            if not is_right(value):
                wrong.append(f"{option.name}: found {value!r}, expected {expected}")
        if wrong:
            raise LlavaKitError("\n".join(wrong))
        object.__setattr__(self, "stop", tuple(self.stop))


@dataclass(frozen=True)
class End:
    """Where answers end: with a token of `ids`, and where `is_over` says so of their text.

    `is_over` gets the last `tail` tokens of some answers, after each token, and says which of the answers end there.
    """

    ids: tuple[int, ...]
    is_over: Callable[[list[list[int]]], list[bool]] | None = None
    tail: int = 1

    def trim(self, tokens: list[int]) -> list[int]:
        """The answer without the token at which it ends, and what comes after it."""
        return tokens[: next((place for place, token in enumerate(tokens) if token in self.ids), len(tokens))]
