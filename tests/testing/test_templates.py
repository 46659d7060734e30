"""The contract must be able to fail: each template here breaks one promise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llava_kit.core.conversation import Conversation, ImageSlot, Segment
from llava_kit.core.template import ConversationTemplate
from llava_kit.testing.templates import check_template, sample_conversation
from llava_kit_templates.formats import FORMATS


@dataclass
class Broken(ConversationTemplate):
    """The format `v1` with one fault."""

    fault: str
    stop: tuple[str, ...] = ("</s>",)

    def render(self, conversation: Conversation, *, reply: bool = False) -> list[Segment | ImageSlot]:
        if self.fault == "answers an answer" and conversation.messages[-1:] and reply:
            pieces = FORMATS["v1"].render(Conversation(conversation.messages[:1]), reply=True)
        else:
            pieces = FORMATS["v1"].render(conversation, reply=reply)
        return getattr(self, self.fault.replace(" ", "_"))(pieces, reply)

    def none(self, pieces, reply):
        return pieces

    def space_in_the_prompt(self, pieces, reply):
        return [*pieces, Segment(" ", special=True)] if reply else pieces

    def another_role(self, pieces, reply):
        return [*pieces[:-1], Segment("AI:", special=True)] if reply else pieces

    def answers_an_answer(self, pieces, reply):
        return pieces

    def stop_is_not_learnt(self, pieces, reply):
        return [Segment(piece.text) if isinstance(piece, Segment) and piece.text == "</s>" else piece for piece in pieces]

    def learns_questions(self, pieces, reply):
        return [Segment(piece.text, True, piece.special) if isinstance(piece, Segment) else piece for piece in pieces]

    def learns_nothing(self, pieces, reply):
        return [Segment(piece.text, False, piece.special) if isinstance(piece, Segment) else piece for piece in pieces]

    def all_special(self, pieces, reply):
        return [Segment(piece.text, piece.trainable, True) if isinstance(piece, Segment) else piece for piece in pieces]

    def twice_the_picture(self, pieces, reply):
        return [copy for piece in pieces for copy in ([piece, piece] if isinstance(piece, ImageSlot) else [piece])]

    def learns_the_next_mark(self, pieces, reply):
        return [
            Segment(piece.text, True, True) if isinstance(piece, Segment) and piece.text == "USER: " else piece
            for piece in pieces
        ]


def test_a_good_template_passes():
    check_template(Broken("none"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("space in the prompt", "before the first answer"),
        ("answers an answer", "is not learnt"),
        ("another role", "no prefix"),
        ("stop is not learnt", "no stop string"),
        ("learns questions", "before the first answer"),
        ("learns nothing", "is not learnt"),
        ("all special", "is special"),
        ("twice the picture", "each once"),
        ("learns the next mark", "before the first answer"),
    ],
)
def test_a_broken_promise_is_told(fault, told):
    with pytest.raises(AssertionError, match=told):
        check_template(Broken(fault), tokenizers={})


class Twofold(Broken):
    def chat_template(self):
        return FORMATS["llava_v1"].chat_template()


def test_a_chat_template_that_says_something_else_is_told():
    with pytest.raises(AssertionError, match=r"the chat template writes .A chat between a curious human"):
        check_template(Twofold("none"), tokenizers={})
    check_template(Twofold("none"), tokenizers={}, own_chat_template=False)


def test_a_wide_mask_must_hold_the_answers():
    check_template(Broken("learns questions"), tokenizers={}, wide=True)
    with pytest.raises(AssertionError, match="is not learnt"):
        check_template(Broken("learns nothing"), tokenizers={}, wide=True)


def test_empty_answers_must_be_refused():
    class Lax(Broken):
        def render(self, conversation, *, reply=False):
            if any(message.role == "assistant" and not message.text.strip() for message in conversation.messages):
                return []
            return super().render(conversation, reply=reply)

    import llava_kit.testing.templates as module

    with pytest.raises(AssertionError, match="an empty answer is rendered"):
        module._check_refusals(Lax("none"))


def test_border_through_a_token_is_told(monkeypatch):
    """A space before the answer that belongs to the prompt is joined to the answer's first token when taught."""

    @dataclass
    class Spaced(ConversationTemplate):
        stop: tuple[str, ...] = ("</s>",)

        def render(self, conversation, *, reply=False):
            pieces = FORMATS["v1"].render(conversation, reply=reply)
            moved: list[Segment | ImageSlot] = []
            for piece in pieces:
                if isinstance(piece, Segment) and piece.trainable and piece.text.startswith(" "):
                    moved += [Segment(" ", special=True), Segment(piece.text[1:], True)]
                else:
                    moved.append(piece)
            return [*moved, Segment(" ", special=True)] if reply else moved

    import llava_kit.testing.templates as module
    from llava_kit.testing.tokenizers import tokenizer_variants

    with pytest.raises(AssertionError, match="runs through a token"):
        module._check_tokens(Spaced(), sample_conversation(1), "legacy", tokenizer_variants()["legacy"])
