"""The three ways in which LLaVA's formats put turns together: one after the other, Llama 2's brackets, picture and caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment
from llava_kit.core.template import ConversationTemplate
from llava_kit.errors import SampleError

from .as_jinja import bracket_template, plain_template, turn_template

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


def _say(message: Message, trim: bool = False, around: tuple[str, str] = ("", "")) -> Iterator[Segment | ImageSlot]:
    """The user's turn as it was written: all of it letters. `around` stands before and after each picture."""
    parts = list(message.parts)
    if trim and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if trim and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    before, after = around
    for part in parts:
        if isinstance(part, str):
            yield Segment(part)
        else:
            yield from _marker(before)
            yield part
            yield from _marker(after)


@dataclass(frozen=True, kw_only=True)
class TurnFormat(ConversationTemplate):
    """System text, then turns: each text between its role's marks.

    Learnt is what stands between `assistant` and `after_answer`: the answer, `before_answer` (a space that the answer's first
    token carries) and `end_of_answer` (the mark at which a reply stops, and what the original learns with it). Three fields
    widen this to what the original's code learns: `whole_turn`, `learnt_opening` and `learnt_everywhere`.
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
    end: str = ""
    """What ends a conversation that does not go on."""
    has_system: bool = True
    trim: bool = False
    """Texts are written without the space around them."""
    around_picture: tuple[str, str] = ("", "")
    whole_turn: bool = False
    """The assistant's mark and what follows the answer are learnt too, up to the end."""
    learnt_opening: str = ""
    """How `user` begins, as far as that is learnt."""
    tokenisation: Literal["chunks", "whole"] = "chunks"
    learnt_everywhere: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.user.startswith(self.learnt_opening)

    def with_system(self, system: str | None) -> Self:
        """The same format with another system text; None keeps it."""
        if system and not self.has_system:
            raise SampleError("system_text", "this format has no place for a system text; leave it out or use another format")
        return self if system is None else replace(self, system=system)

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        learnt = self.whole_turn
        pieces: Pieces = [*_marker(self.start), *self._system(conversation)]
        for message in conversation.messages:
            if message.role == "user":
                pieces += _marker(self.learnt_opening, trainable=True)
                pieces += _marker(self.user.removeprefix(self.learnt_opening))
                pieces += [*_say(message, self.trim, self.around_picture), *_marker(self.after_user)]
            else:
                text = message.text.strip() if self.trim else message.text
                pieces += _marker(self.assistant, trainable=learnt)
                pieces.append(Segment(self.before_answer + text, trainable=True))
                pieces += _marker(self.end_of_answer, trainable=True)
                pieces += _marker(self.after_answer, trainable=learnt)
        pieces += _marker(self.assistant if reply else self.end, trainable=learnt)
        return pieces

    def chat_template(self) -> str:
        return turn_template(self)

    def _system(self, conversation: Conversation) -> Iterator[Segment]:
        system = self.with_system(conversation.system).system
        if self.trim:
            system = system.strip()
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
    around_picture: tuple[str, str] = ("", "")
    tokenisation: Literal["chunks", "whole"] = "chunks"

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
            pieces += [*_say(message, around=self.around_picture), *_marker(" [/INST]")]
        return pieces

    def chat_template(self) -> str:
        return bracket_template(self)


@dataclass(frozen=True, kw_only=True)
class PlainFormat(ConversationTemplate):
    """Pictures, then their caption and a newline, both learnt; what the user wrote is left out. For aligning a connector."""

    stop: tuple[str, ...] = ("\n",)
    tokenisation: Literal["chunks", "whole"] = "chunks"

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        question, *answers = conversation.messages
        if len(answers) > 1:
            raise SampleError("bad_turns", f"found {len(answers) + 1} turns; 'plain' expects one question and its answer")
        pictures = [part for part in question.parts if isinstance(part, ImageSlot)]
        if not pictures:
            raise SampleError("no_picture", "has no picture; 'plain' keeps only the picture and its caption")
        return [*pictures, *(Segment(answer.text + "\n", trainable=True) for answer in answers)]

    def chat_template(self) -> str:
        return plain_template()
