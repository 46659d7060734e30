"""ConversationTemplate: how turns become one text, and which of it is learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .conversation import Conversation, ImageSlot, Segment


class ConversationTemplate(ABC):
    """A conversation as segments, in order. What the model must learn to say is marked; nothing is searched for later.

    `stop` are the strings at which a reply ends (the end-of-sequence token always ends it too).
    """

    stop: tuple[str, ...] = ()

    @abstractmethod
    def render(self, conversation: Conversation, *, reply: bool = False) -> list[Segment | ImageSlot]:
        """The segments of `conversation`. With `reply`, the last message is the user's and
        the text ends where the answer begins.

        For every assistant turn the rendering with `reply=True` of the turns before it must be a prefix of the whole
        rendering: the model is asked exactly as it was taught (`llava_kit.testing.check_template` holds a template to it).

        Raises `SampleError` for a conversation that the template cannot say (wrong order of turns, an empty answer).
        """
