"""Token ids of an answer become its text, up to where it ends. The text of special tokens is never shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..model.sampling import End

_HALF_LETTER = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers decode the first bytes of a letter to, while the others are missing."""


class Ending:
    """Where answers end: at the tokens `ids`, and at the first of the texts `texts`.

    `stop` are the stop strings of template and user. One that is a special token of the tokenizer (`<|im_end|>`), or holds one,
    ends the answer at that token; all are searched for in the text too, where a model may spell them in letters.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        self.decode = partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=True)
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
        return [any(stop in text for stop in self.texts) for text in map(self.decode, tails)]

    def text(self, ids: Sequence[int]) -> str:
        """The whole answer: up to the first stop string, without spaces around it."""
        writer = Writer(self)
        pieces = []
        for token in ids:
            pieces.append(writer.add(token))
            if writer.done:
                break
        return "".join([*pieces, writer.close()])

    def find(self, text: str, start: int = 0) -> int | None:
        """Where the first stop string begins; None if there is none from `start` on."""
        return min((at for stop in self.texts if (at := text.find(stop, start)) >= 0), default=None)


class Writer:
    """The text of one growing answer: what can be shown of it, which is never half a letter and nothing of a stop string."""

    def __init__(self, ending: Ending):
        self.ending = ending
        self.text = ""
        self.done = False
        self._shown = 0
        # Tokens make sense beside their neighbours only (a leading space, bytes of a letter), so new ones are decoded together
        # with the last ones that said something: `_said` of `_ids`, whose text is `_said_text`.
        self._ids: list[int] = []
        self._said = 0
        self._said_text = ""

    def add(self, token: int) -> str:
        """What can be shown now that could not before. `done` is set when the answer is over."""
        self._ids.append(token)
        text = self.ending.decode(self._ids)
        if not text.endswith(_HALF_LETTER):
            self._take(text)
        return self._show()

    def close(self) -> str:
        """The rest, when no more tokens come; a letter of which only half came is dropped."""
        if not self.done:
            self.done = True
            self._take(self.ending.decode(self._ids))
        return self._show()

    def _take(self, text: str) -> None:
        if text.startswith(self._said_text):
            new = text[len(self._said_text) :]
        else:  # bytes that make no letter take those before them along, which were shown already
            new = self.ending.decode(self._ids[self._said :])
        if self.done:
            new = new.rstrip(_HALF_LETTER)
        if not new:
            return
        before = len(self.text)
        self.text += new
        self._ids = self._ids[self._said :]
        self._said, self._said_text = len(self._ids), self.ending.decode(self._ids)
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
