"""Where the pictures of a question stand: as they were written, before its text, or before or after it by a coin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.conversation import Conversation, ImageSlot, Message, Sample
from ..core.source import DataSource
from ..errors import LlavaKitError, suggest
from .order import coin

RULES = ("as_written", "first", "random")


def arranged(source: DataSource, rule: str, seed: int, epoch: int = 0) -> DataSource:
    """`source` with the pictures of each sample where the rule puts them: a pure function of seed, epoch and sample number.

    as_written  as the source gives them
    first       a question's only picture on a line before its text, and no space around the text, as LLaVA's training code
                has it; several pictures stay where they are, as in LLaVA-NeXT's
    random      the pictures of the first question before or after its text, each time by a coin (the rule of the first LLaVA
                paper); later questions as written

    Raises:
        LlavaKitError: there is no such rule.
    """
    if rule not in RULES:
        raise LlavaKitError(f"pictures: found {rule!r}; {suggest(rule, RULES)}")
    return source if rule == "as_written" else _Arranged(source, rule, seed, epoch)


@dataclass(frozen=True)
class _Arranged(DataSource):
    source: DataSource
    rule: str
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        messages = list(sample.conversation.messages)
        if self.rule == "random":
            if messages and messages[0].role == "user":
                messages[0] = _place(messages[0], after=coin(self.seed, self.epoch, index))
        else:
            messages = [_place(message) if _num_pictures(message) == 1 else message for message in messages]
        return replace(sample, conversation=Conversation(tuple(messages), sample.conversation.system))

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()}:{self.rule}"


def _num_pictures(message: Message) -> int:
    return sum(isinstance(part, ImageSlot) for part in message.parts)


def _place(message: Message, after: bool = False) -> Message:
    """The turn with its pictures together, on lines of their own before (or after) its text."""
    slots = [part for part in message.parts if isinstance(part, ImageSlot)]
    text = message.text.strip()
    if not slots:
        return message
    pieces: list[str | ImageSlot] = [text, *slots] if after else [*slots, text]
    return Message(message.role, tuple(_lines([piece for piece in pieces if piece != ""])))


def _lines(pieces: Sequence[str | ImageSlot]) -> list[str | ImageSlot]:
    """A line break before every piece but the first; texts take it up, so that no two texts are neighbours."""
    lines: list[str | ImageSlot] = []
    for number, piece in enumerate(pieces):
        if number and isinstance(piece, str):
            lines.append(f"\n{piece}")
        elif number and lines and isinstance(lines[-1], str):
            lines[-1] += "\n"
            lines.append(piece)
        else:
            lines += ["\n", piece] if number else [piece]
    return lines
