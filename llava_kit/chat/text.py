"""Token ids of an answer become its text, up to where it ends. The text of special tokens is never shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model.generate import End

_HALF_LETTER = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers decode the first bytes of a letter to, while the others are missing."""


class Ending:
    """Where answers end: at the tokens `ids`, and at the first of the texts `texts`.

    `stop` are the stop strings of template and user. One that is a special token of the tokenizer (`<|im_end|>`), or holds one,
    ends the answer at that token; all are searched for in the text too, where a model may spell them in letters.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        self._decode = tokenizer.backend_tokenizer.decode
        self.texts = tuple(dict.fromkeys(stop))
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        specials = {token.content: number for number, token in added.items() if token.special}
        ids = [number for text, number in specials.items() if any(text in wanted for wanted in self.texts)]
        end: int | None = tokenizer.eos_token_id
        self.ids: tuple[int, ...] = tuple(dict.fromkeys([*([] if end is None else [end]), *sorted(ids)]))

    @property
    def end(self) -> End:
        """The same for the generator."""
        if not self.texts:
            return End(self.ids)
        # A token is a byte or more, so that many tokens surely hold a stop string that ends with the last of them. One more,
        # since decoding may drop the space at the beginning.
        return End(self.ids, self._is_over, max(len(text.encode()) for text in self.texts) + 1)

    def _is_over(self, tails: list[list[int]]) -> list[bool]:
        # One by one: `decode_batch` wakes a pool of threads for what takes microseconds.
        texts = (self._decode(tail, skip_special_tokens=True) for tail in tails)
        return [any(stop in text for stop in self.texts) for text in texts]

    def text(self, ids: Sequence[int]) -> str:
        """The whole answer: up to the first stop string, without spaces around it."""
        text = self._decode(list(ids), skip_special_tokens=True)
        return text[: self.find(text)].strip()

    def find(self, text: str, start: int = 0) -> int | None:
        """Where the first stop string begins; None if there is none from `start` on."""
        return min((at for stop in self.texts if (at := text.find(stop, start)) >= 0), default=None)


class Writer:
    """The text of one growing answer: what can be shown of it, which is never half a letter and nothing of a stop string."""

    def __init__(self, tokenizer: Any, ending: Ending):
        self._decode = tokenizer.backend_tokenizer.decode
        self.ending = ending
        self.text = ""
        self.done = False
        self._shown = 0
        # Tokens make sense beside their neighbours only (a leading space, bytes of a letter), so new ones are decoded together
        # with the last ones that said something.
        self._ids: list[int] = []
        self._context = 0  # how many of `_ids` are text already
        self._context_text = ""

    def add(self, token: int) -> str:
        """What can be shown now that could not before. `done` is set when the answer is over."""
        self._ids.append(token)
        text = self._decode(self._ids, skip_special_tokens=True)
        if not text.endswith(_HALF_LETTER):
            self._take(text)
        return self._show()

    def close(self) -> str:
        """The rest, when no more tokens come."""
        if not self.done:
            self._take(self._decode(self._ids, skip_special_tokens=True))
        self.done = True
        return self._show()

    def _take(self, text: str) -> None:
        new = text[len(self._context_text) :]
        if not new:
            return
        before = len(self.text)
        self.text += new
        self._ids = self._ids[self._context :]
        self._context, self._context_text = len(self._ids), self._decode(self._ids, skip_special_tokens=True)
        longest = max(map(len, self.ending.texts), default=1)
        end = self.ending.find(self.text, max(0, before - longest + 1))
        if end is not None:
            self.text, self.done = self.text[:end], True

    def _show(self) -> str:
        text = self.text
        if not self.done:
            # What may become a stop string waits, and spaces do: the finished answer has none at its end.
            beginnings = (n for stop in self.ending.texts for n in range(1, len(stop)) if text.endswith(stop[:n]))
            text = text[: len(text) - max(beginnings, default=0)]
        text = text.strip()
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece
