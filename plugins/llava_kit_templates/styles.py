"""The three ways in which LLaVA's formats put turns together: one after the other, Llama 2's brackets, picture and caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment
from llava_kit.core.template import ConversationTemplate
from llava_kit.errors import SampleError

Pieces = list[Segment | ImageSlot]


def check_turns(conversation: Conversation, *, reply: bool) -> None:
    """Raises SampleError unless user and assistant take turns, the user first, and say something each time."""
    messages = conversation.messages
    roles = [message.role for message in messages]
    last = "user" if reply else "assistant"
    if not roles or roles != [("user", "assistant")[turn % 2] for turn in range(len(roles))] or roles[-1] != last:
        raise SampleError(
            "bad_turns", f"found the turns {', '.join(roles) or 'none'}; expected user, assistant, ... ending with {last}"
        )
    for turn, message in enumerate(messages):
        if message.role == "assistant":
            if any(isinstance(part, ImageSlot) for part in message.parts):
                raise SampleError("picture_in_answer", f"turn {turn} is an answer with a picture; pictures belong to the user")
            if not message.text.strip():
                raise SampleError("empty_answer", f"turn {turn}, an answer, is empty; nothing could be learnt from it")
        elif not message.text.strip() and not any(isinstance(part, ImageSlot) for part in message.parts):
            raise SampleError("empty_question", f"turn {turn}, a question, has neither text nor picture")


def _marker(text: str, *, trainable: bool = False) -> Iterator[Segment]:
    if text:
        yield Segment(text, trainable, special=True)


def _say(message: Message) -> Iterator[Segment | ImageSlot]:
    """The user's turn as it was written: all of it letters."""
    for part in message.parts:
        yield Segment(part) if isinstance(part, str) else part


@dataclass(frozen=True, kw_only=True)
class TurnFormat(ConversationTemplate):
    """System text, then turns: each text between its role's marks.

    Learnt is what stands between `assistant` and `after_answer`: the answer, `before_answer` (a space that the answer's first
    token carries) and `end_of_answer` (the mark at which a reply stops, and what the original learns with it).
    """

    stop: tuple[str, ...]
    system: str
    before_system: str
    after_system: str
    user: str
    after_user: str
    assistant: str
    end_of_answer: str
    before_answer: str = ""
    after_answer: str = ""
    start: str = ""
    """What every prompt begins with, system text or not."""
    has_system: bool = True

    def with_system(self, system: str | None) -> Self:
        """The same format with another system text; None keeps it."""
        if system and not self.has_system:
            raise SampleError("system_text", "this format has no place for a system text; leave it out or use another format")
        return self if system is None else replace(self, system=system)

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        pieces: Pieces = [*_marker(self.start), *self._system(conversation)]
        for message in conversation.messages:
            if message.role == "user":
                pieces += [*_marker(self.user), *_say(message), *_marker(self.after_user)]
            else:
                pieces += _marker(self.assistant)
                pieces.append(Segment(self.before_answer + message.text, trainable=True))
                pieces += _marker(self.end_of_answer, trainable=True)
                pieces += _marker(self.after_answer)
        if reply:
            pieces += _marker(self.assistant)
        return pieces

    def _system(self, conversation: Conversation) -> Iterator[Segment]:
        system = self.with_system(conversation.system).system
        if system:
            yield from _marker(self.before_system)
            yield Segment(system)
            yield from _marker(self.after_system)


@dataclass(frozen=True, kw_only=True)
class BracketFormat(ConversationTemplate):
    """Llama 2's and Mistral's: `[INST] question [/INST] answer </s>`, the system text inside the first question.

    Learnt is the answer with the space on either side of it, and `</s>`.
    """

    stop: tuple[str, ...]
    system: str
    between: str
    """What stands between an answer's `</s>` and the next `[INST]`."""

    def with_system(self, system: str | None) -> Self:
        """The same format with another system text; None keeps it."""
        return self if system is None else replace(self, system=system)

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        system = self.system if conversation.system is None else conversation.system
        pieces: Pieces = []
        for turn, message in enumerate(conversation.messages):
            if message.role == "assistant":
                pieces.append(Segment(f" {message.text} ", trainable=True))
                pieces += _marker("</s>", trainable=True)
                continue
            pieces += _marker(self.between + "[INST] " if turn else "[INST] ")
            if turn == 0 and system:
                pieces += [*_marker("<<SYS>>\n"), Segment(system), *_marker("\n<</SYS>>\n\n")]
            pieces += [*_say(message), *_marker(" [/INST]")]
        return pieces


@dataclass(frozen=True, kw_only=True)
class PlainFormat(ConversationTemplate):
    """Pictures, then their caption and a newline, both learnt; what the user wrote is left out. For aligning a connector."""

    stop: tuple[str, ...] = ("\n",)

    def with_system(self, system: str | None) -> Self:
        """The format itself: it has no place for a system text, and an instruction that is left out may have had one."""
        return self

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        question, *answers = conversation.messages
        if len(answers) > 1:
            raise SampleError("bad_turns", f"found {len(answers) + 1} turns; 'plain' expects one question and its answer")
        pictures = [part for part in question.parts if isinstance(part, ImageSlot)]
        if not pictures:
            raise SampleError("no_picture", "has no picture; 'plain' keeps only the picture and its caption")
        return [*pictures, *(Segment(answer.text + "\n", trainable=True) for answer in answers)]
