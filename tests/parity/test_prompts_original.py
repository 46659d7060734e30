"""Every format says byte for byte what the original's says, and its jinja form says the same."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llava_kit.assemble.parts import build
from llava_kit.core.conversation import Conversation
from llava_kit_templates import ALIASES, OPTIONS, SUMMARIES

from .conversations import BY_HAND, Talk, drawn, written
from .formats import PROMPTS, fits

SHORT = [Talk(talk.texts[:2], talk.pictures, talk.system) for talk in drawn(60, seed=3)]
TALKS = [*BY_HAND, *drawn(36), *SHORT]
NAMES = sorted(PROMPTS)


def said(name: str, talk: Talk, reply: bool) -> str:
    texts = talk.texts[:-1] if reply else talk.texts
    return "".join(bit.text for bit in PROMPTS[name].bits(talk.system, texts, reply))


def cut(talk: Talk) -> Conversation:
    return Conversation(talk.conversation.messages[:-1], talk.conversation.system)


def test_no_name_is_missing():
    assert set(PROMPTS) == {*SUMMARIES, *ALIASES}


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_the_originals(name):
    template = build("template", name)
    talks = [talk for talk in TALKS if fits(name, talk)]
    assert len(talks) >= 12
    for talk in talks:
        assert written(template.render(talk.conversation)) == said(name, talk, False)
        assert written(template.render(cut(talk), reply=True)) == said(name, talk, True)


def as_text(talk: Talk, reply: bool) -> list[dict]:
    messages = [] if talk.system is None else [{"role": "system", "content": talk.system}]
    texts = talk.texts[:-1] if reply else talk.texts
    return [*messages, *({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts))]


def as_parts(talk: Talk, reply: bool) -> list[dict]:
    messages = as_text(talk, reply)
    for message in messages:
        text = message["content"]
        pictures = text.count("<image>\n") if talk.pictures and message["role"] == "user" else 0
        parts = [{"type": "image"}] * pictures
        message["content"] = [*parts, {"type": "text", "text": text[len("<image>\n") * pictures :]}]
    return messages


def pictures_first(talk: Talk) -> bool:
    """The form in which lists of parts are written: each picture on a line before its turn's text."""
    return not talk.pictures or all(
        "<image>" not in text.replace("<image>\n", "") and text.startswith("<image>\n" * text.count("<image>"))
        for text in talk.texts[::2]
    )


def variants(name: str) -> list[dict]:
    fields = OPTIONS[ALIASES.get(name, name)].model_fields if ALIASES.get(name, name) in OPTIONS else {}
    options: list[dict] = [{}]
    options += [{"mask": "original"}] * ("mask" in fields)
    options += [{"wrap_pictures": True}] * ("wrap_pictures" in fields)
    if name not in ("plain", "v0_plain", "gemma_instruct"):
        options += [{"system": 'It\'s {{ odd }} \\n {% indeed %} "é" 🙂\n'}, {"system": ""}]
    return options


@pytest.mark.parametrize("name", NAMES)
def test_jinja_says_the_same(name):
    count = 0
    for options in variants(name):
        template = build("template", name, **options)
        text = template.chat_template()
        assert text is not None
        assert "\n" not in text
        for talk in TALKS:
            if not fits(name, talk) or (not talk.pictures and options.get("wrap_pictures")):
                continue
            for reply in (False, True):
                expected = written(template.render(cut(talk) if reply else talk.conversation, reply=reply))
                forms = [as_text(talk, reply)] + ([as_parts(talk, reply)] if pictures_first(talk) else [])
                for messages in forms:
                    found = render_jinja_template([messages], chat_template=text, add_generation_prompt=reply)[0][0]
                    assert found == expected
                    count += 1
    assert count >= 48


def test_jinja_refuses_what_the_format_cannot_say():
    gemma = build("template", "gemma_instruct").chat_template()
    with pytest.raises(Exception, match="no place for a system text"):
        render_jinja_template([[{"role": "system", "content": "Be brief."}]], chat_template=gemma)
    with pytest.raises(Exception, match="found tool"):
        render_jinja_template([[{"role": "tool", "content": "x"}]], chat_template=build("template", "v1").chat_template())
