"""ConversationTemplate: how turns become one text, and which of it is learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from .conversation import Conversation, ImageSlot, Segment


class ConversationTemplate(ABC):
    """A conversation as segments, in order. What the model must learn to say is marked; nothing is searched for later.

    `stop` are the strings at which a reply ends (the end-of-sequence token always ends it too).
    """

    stop: tuple[str, ...] = ()

    tokenisation: Literal["chunks", "whole"] = "chunks"
    """How text around a picture becomes token ids. `chunks`: each stretch on its own, as LLaVA's training code does; `whole`:
    in one go with the picture's place as a special token, as the processors of transformers do. They differ for tokenizers that
    put a space before each text."""

    learnt_everywhere: tuple[str, ...] = ()
    """Tokens, by their text, that are learnt wherever they stand, also outside trainable segments."""

    def for_tokenizer(self, tokenizer: Any) -> ConversationTemplate:
        """The template as it is used with this tokenizer; itself, unless the tokenizer decides what it says."""
        return self

    def chat_template(self) -> str | None:
        """The same format as a jinja chat template, for programs that take prompts from one; None where it has no such form.

        A picture is written `<image>` and a newline, before the text of its turn.
        """
        return None

    @abstractmethod
    def render(self, conversation: Conversation, *, reply: bool = False) -> list[Segment | ImageSlot]:
        """The segments of `conversation`. With `reply`, the last message is the user's and
        the text ends where the answer begins.

        For every assistant turn the rendering with `reply=True` of the turns before it must be a prefix of the whole
        rendering: the model is asked exactly as it was taught (`llava_kit.testing.check_template` holds a template to it).

        Raises `SampleError` for a conversation that the template cannot say (wrong order of turns, an empty answer).
        """
