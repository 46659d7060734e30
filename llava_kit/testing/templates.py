"""What every conversation template must keep; a plugin's author calls `check_template` in her own tests."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from ..core.conversation import Conversation, ImageSlot, Message, Segment
from ..core.template import ConversationTemplate
from ..data.tokenize import encode
from ..errors import SampleError
from .tokenizers import BOS, EOS, tokenizer_variants

ANSWERS = ("A cat.", "Black", "It is 13, I think; not 4.", "Ünïcode 🙂!")


class _Letter(NamedTuple):
    """One character of a rendering, or one picture."""

    text: str | ImageSlot
    trainable: bool


def check_template(
    template: ConversationTemplate,
    *,
    turns: Iterable[int] = (1, 2, 4),
    conversations: Sequence[Conversation] = (),
    tokenizers: Mapping[str, Any] | None = None,
    wide: bool = False,
    own_chat_template: bool = True,
) -> None:
    """Holds `template` to the contract; an AssertionError says what it broke.

    Tried are conversations with so many question-and-answer pairs as `turns` says, and those given; with the token ids of
    `tokenizers` (default: `tokenizer_variants()`).

    - The prompt of every turn is a prefix of the whole rendering, in characters and in tokens: asked as taught.
    - Only the answer and what ends it is learnt, the answer and one stop string at least.
    - Every picture is shown once, in order; nobody's text is special.
    - Wrong order and empty answers are refused; the template travels to worker processes.
    - Its chat template, if it has one, says the same.

    `wide`: it is meant to learn more than the answers (an original's mask), so what else is learnt is not looked at. A template
    that depends on its tokenizer is given as what `for_tokenizer` gives, with that tokenizer alone. `own_chat_template=False`
    does not look at the chat template: one that came from elsewhere may take pictures in another form.
    """
    assert pickle.loads(pickle.dumps(template)).stop == template.stop, "the template changes when it is pickled"
    known = tokenizer_variants() if tokenizers is None else tokenizers
    for conversation in (*map(sample_conversation, turns), *conversations):
        _check_rendering(template, conversation, wide)
        if own_chat_template:
            _check_chat_template(template, conversation)
        for name, tokenizer in known.items():
            _check_tokens(template, conversation, name, tokenizer)
    _check_refusals(template)


def sample_conversation(pairs: int) -> Conversation:
    """Questions with a picture at the first and the third, and answers."""
    messages = []
    for pair in range(pairs):
        shown = [ImageSlot(pair // 2), "\n"] if pair % 2 == 0 else []
        messages.append(Message("user", (*shown, f"Question {pair}, what is it?")))
        messages.append(Message("assistant", (ANSWERS[pair % len(ANSWERS)],)))
    return Conversation(tuple(messages))


def _letters(pieces: Sequence[Segment | ImageSlot]) -> list[_Letter]:
    letters = []
    for piece in pieces:
        if isinstance(piece, ImageSlot):
            letters.append(_Letter(piece, False))
        else:
            letters.extend(_Letter(letter, piece.trainable) for letter in piece.text)
    return letters


def _prompts(template: ConversationTemplate, conversation: Conversation) -> list[list[Segment | ImageSlot]]:
    """What is asked before each answer."""
    messages = conversation.messages
    cuts = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
    return [template.render(Conversation(messages[:cut], conversation.system), reply=True) for cut in cuts]


def _check_rendering(template: ConversationTemplate, conversation: Conversation, wide: bool) -> None:
    pieces = template.render(conversation)
    whole = _letters(pieces)
    said = {part for message in conversation.messages for part in message.parts if isinstance(part, str)}
    for piece in pieces:
        if isinstance(piece, Segment) and piece.special:
            assert not any(text.strip() and text in piece.text for text in said), (
                f"{piece.text!r} is special, but part of it was said by somebody: markers in it would come alive"
            )
    shown = [letter.text.index for letter in whole if isinstance(letter.text, ImageSlot)]
    assert shown == sorted(set(shown)), f"pictures are shown as {shown}; expected each once, in order"

    answers = [message.text for message in conversation.messages if message.role == "assistant"]
    ends = []
    for prompt in _prompts(template, conversation):
        asked = [letter.text for letter in _letters(prompt)]
        assert asked == [letter.text for letter in whole[: len(asked)]], (
            f"the prompt {_text(_letters(prompt))!r} is no prefix of {_text(whole)!r}: the model is asked otherwise than taught"
        )
        ends.append(len(asked))
    if wide:
        _check_answers_are_learnt(answers, ends, whole)
        return
    assert not any(letter.trainable for letter in whole[: ends[0]]), "something is learnt before the first answer"
    for answer, (start, stop) in zip(answers, pairwise([*ends, len(whole)])):
        learnt = _text([letter for letter in whole[start:stop] if letter.trainable])
        run = [letter.trainable for letter in whole[start : start + len(learnt)]]
        assert all(run), f"what is learnt of {_text(whole[start:stop])!r} is {learnt!r}; expected one run from the prompt on"
        assert answer in learnt, f"the answer {answer!r} is not learnt; found {learnt!r}"
        rest = learnt.replace(answer, "", 1)
        if template.stop:
            assert any(mark in rest for mark in template.stop), (
                f"no stop string of {template.stop} is learnt after {answer!r}; found {learnt!r}: the model would never stop"
            )
        questions = [message.text for message in conversation.messages if message.role == "user"]
        assert not any(text.strip() and text in rest for text in questions), f"a question is learnt: {learnt!r}"


def _check_answers_are_learnt(answers: Sequence[str], ends: Sequence[int], whole: Sequence[_Letter]) -> None:
    for answer, end in zip(answers, ends):
        start = _text(whole[end:]).index(answer) + end
        assert all(letter.trainable for letter in whole[start : start + len(answer)]), f"the answer {answer!r} is not learnt"


def _check_chat_template(template: ConversationTemplate, conversation: Conversation) -> None:
    text = template.chat_template()
    if text is None:
        return
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": conversation.system})
    for message in conversation.messages:
        parts = [part if isinstance(part, str) else "<image>" for part in message.parts]
        messages.append({"role": message.role, "content": "".join(parts)})
    written = render_jinja_template([messages], chat_template=text, bos_token=BOS, eos_token=EOS)[0][0]
    said = _text(_letters(template.render(conversation)))
    assert written == said, f"the chat template writes {written!r}, the template {said!r}"


def _text(letters: Sequence[_Letter]) -> str:
    return "".join(letter.text if isinstance(letter.text, str) else "<image>" for letter in letters)


def _check_tokens(template: ConversationTemplate, conversation: Conversation, name: str, tokenizer: Any) -> None:
    way: Any = {"tokenisation": template.tokenisation, "learnt_everywhere": template.learnt_everywhere}
    whole = encode(template.render(conversation), tokenizer, **way)
    for prompt in _prompts(template, conversation):
        asked = encode(prompt, tokenizer, **way).token_ids
        assert asked.tolist() == whole.token_ids[: len(asked)].tolist(), (
            f"tokenizer {name!r}: the prompt's {len(asked)} tokens are no prefix of the whole's: a border between the "
            "template's text and the answer runs through a token; give the space before an answer to the answer"
        )
        assert bool(whole.trainable[len(asked)]), f"tokenizer {name!r}: the first token after a prompt is not learnt"


def _check_refusals(template: ConversationTemplate) -> None:
    first, second = sample_conversation(1).messages
    wrong = {
        "an empty answer": ((first, Message("assistant", (" ",))), False),
        "no turn": ((), False),
        "an answer first": ((second, first), False),
        "two questions in a row": ((first, first, second), False),
        "a question left open": ((first, second, first), False),
        "a prompt that ends with an answer": ((first, second), True),
    }
    for what, (messages, reply) in wrong.items():
        try:
            template.render(Conversation(messages), reply=reply)
        except SampleError:
            continue
        raise AssertionError(f"{what} is rendered; expected SampleError")
