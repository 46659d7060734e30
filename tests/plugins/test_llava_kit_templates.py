from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.assemble.parts import build
from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment
from llava_kit.errors import LlavaKitError, SampleError
from llava_kit.registry.manager import default_registry
from llava_kit.testing.templates import check_template, sample_conversation
from llava_kit_templates import ALIASES, SUMMARIES
from llava_kit_templates.formats import FORMATS

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
USER = HUMAN.replace("human", "user")
VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
# What the original's `get_prompt` gives for "<image>\nQ1", "A1", "Q2" and an open answer; and what it adds for the answer "A2".
ORIGINAL = {
    "v0": (f"{HUMAN}###Human: <image>\nQ1###Assistant: A1###Human: Q2###Assistant:", " A2###"),
    "llava_v0": (f"{HUMAN}###Human: <image>\nQ1###Assistant: A1###Human: Q2###Assistant:", " A2###"),
    "v1": (f"{USER} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:", " A2</s>"),
    "vicuna_v1": (f"{USER} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:", " A2</s>"),
    "llava_v1": (f"{HUMAN} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:", " A2</s>"),
    "llava_llama_2": (f"[INST] <<SYS>>\n{VISION}\n<</SYS>>\n\n<image>\nQ1 [/INST] A1 </s><s>[INST] Q2 [/INST]", " A2 </s>"),
    "mistral_instruct": ("[INST] <image>\nQ1 [/INST] A1 </s>[INST] Q2 [/INST]", " A2 </s>"),
    "chatml_direct": (
        (
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nQ1<|im_end|><|im_start|>assistant\n"
            "A1<|im_end|><|im_start|>user\nQ2<|im_end|><|im_start|>assistant\n"
        ),
        "A2<|im_end|>",
    ),
    "mpt": (
        (
            "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
            "honest answers.<|im_end|><|im_start|>user\n<image>\nQ1<|im_end|><|im_start|>assistant\n"
            "A1<|im_end|><|im_start|>user\nQ2<|im_end|><|im_start|>assistant\n"
        ),
        "A2<|im_end|>",
    ),
    "mistral_zephyr": (
        (
            "<|system|>\nYou are a helpful AI assistant.</s><|user|>\n<image>\nQ1</s><|assistant|>\nA1</s><|user|>\nQ2</s>"
            "<|assistant|>\n"
        ),
        "A2</s>",
    ),
    "qwen_1_5": (
        (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
        ),
        "A2<|im_end|>\n",
    ),
    "llava_llama_3": (
        (
            f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{VISION}<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\n<image>\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "A2<|eot_id|>",
    ),
    "gemma_instruct": (
        (
            "<start_of_turn>user\n<image>\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n<start_of_turn>user\nQ2"
            "<end_of_turn>\n<start_of_turn>model\n"
        ),
        "A2<end_of_turn>\n",
    ),
}
SPOKEN = st.text(alphabet=st.sampled_from("aZ 9.\n?é🙂<>|/#_:s"), min_size=1, max_size=20).filter(
    lambda text: text.strip() != ""
)


def text_of(pieces) -> str:
    return "".join(piece.text if isinstance(piece, Segment) else "<image>" for piece in pieces)


def turns(*texts: str) -> Conversation:
    messages = [Message("assistant" if turn % 2 else "user", (text,)) for turn, text in enumerate(texts)]
    messages[0] = Message("user", (ImageSlot(0), f"\n{texts[0]}"))
    return Conversation(tuple(messages))


@pytest.mark.parametrize("name", sorted(ORIGINAL))
def test_rendered_as_the_original_does(name):
    template = build("template", name)
    prompt, answer = ORIGINAL[name]
    assert text_of(template.render(turns("Q1", "A1", "Q2"), reply=True)) == prompt
    assert text_of(template.render(turns("Q1", "A1", "Q2", "A2"))) == prompt + answer


@pytest.mark.parametrize("name", sorted({*FORMATS, *ALIASES}))
def test_contract(name):
    check_template(build("template", name), turns=(1,) if FORMATS[ALIASES.get(name, name)] is FORMATS["plain"] else (1, 2, 4))


@pytest.mark.parametrize("tokenisation", ["chunks", "whole"])
@pytest.mark.parametrize("name", ["v0", "v0_mmtag", "qwen_1_5", "qwen_2_5", "llava_llama_3"])
def test_contract_of_the_wide_masks(name, tokenisation):
    check_template(build("template", name, mask="original", tokenisation=tokenisation), wide=True)
    with pytest.raises(AssertionError):
        check_template(build("template", name, mask="original"), tokenizers={})


@pytest.mark.parametrize("name", ["v0_mmtag", "v1_mmtag", "llava_llama_2_mmtag"])
def test_contract_of_tagged_pictures(name):
    template = build("template", name, wrap_pictures=True, tokenisation="whole")
    check_template(template, own_chat_template=False)
    assert "<Image><image></Image>\nQ1" in text_of(template.render(turns("Q1", "A1")))
    assert "<image>" in build("template", name).chat_template()


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("v1", "mask", "original", "unknown key"),
        ("v0", "mask", "orginal", "'meant' or 'original'"),
        ("v1", "tokenisation", "hole", "'chunks' or 'whole'"),
        ("plain", "system", "Be kind.", "unknown key"),
        ("chatml_direct", "wrap_pictures", True, "unknown key"),
    ],
)
def test_options_that_are_wrong(name, key, value, told):
    with pytest.raises(LlavaKitError, match=told):
        build("template", name, **{key: value})


def test_each_name_says_what_it_is_and_listing_imports_no_format():
    entries = [entry for entry in default_registry().entries("template") if entry.plugin.name == "templates"]
    assert {entry.name for entry in entries} == {*SUMMARIES, *ALIASES, "tokenizer_chat"}
    own = [entry.summary for entry in entries if entry.name not in ALIASES]
    assert len(set(own)) == len(own)
    assert set(SUMMARIES) == set(FORMATS)
    code = "import sys, llava_kit_templates; print([m for m in sys.modules if m.startswith('llava_kit_templates.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_wide_masks_learn():
    def learnt(name: str) -> list[str]:
        pieces = build("template", name, mask="original").render(turns("Q1", "A1", "Q2", "A2"))
        return [piece.text for piece in pieces if isinstance(piece, Segment) and piece.trainable]

    v0 = ["### Assistant:", " A1", "\n", "###", "### Assistant:", " A2", "\n", "### "]
    assert learnt("v0") == ["###", *v0]
    assert learnt("qwen_2") == [
        *("<|im_start|>assistant\n", "A1", "<|im_end|>", "\n"),
        *("<|im_start|>assistant\n", "A2", "<|im_end|>", "\n"),
    ]
    assert build("template", "qwen_2", mask="original").learnt_everywhere == ("\n", "<|im_start|>", "<|im_end|>")
    assert build("template", "qwen_2").learnt_everywhere == ()
    prompt = text_of(build("template", "v0", mask="original").render(turns("Q1", "A1", "Q2"), reply=True))
    assert prompt == f"{HUMAN}\n\n### Human: <image>\nQ1\n### Assistant: A1\n### Human: Q2\n### Assistant:"


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"plain"}))
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(SPOKEN, min_size=4, max_size=4))
def test_only_answers_are_learnt_whatever_is_said(name, texts):
    template = FORMATS[name]
    question, answer, again, last = texts
    conversation = turns(question, answer, again, last)
    pieces = template.render(conversation)
    trained = [piece for piece in pieces if isinstance(piece, Segment) and piece.trainable]
    trim = str.strip if name == "llava_llama_3" else lambda text: text.strip(" ")
    assert [trim(piece.text) for piece in trained if not piece.special] == [trim(answer), trim(last)]
    assert [piece.text.strip() for piece in trained if piece.special] == [template.stop[0]] * 2
    prompt = text_of(template.render(Conversation(conversation.messages[:3]), reply=True))
    assert text_of(pieces).startswith(prompt)


def test_plain_keeps_picture_and_caption():
    plain = build("template", "plain")
    pieces = plain.render(Conversation((Message("user", ("Describe.\n", ImageSlot(0))), Message("assistant", ("A cat.",)))))
    assert pieces == [ImageSlot(0), Segment("A cat.\n", trainable=True)]
    assert plain.render(Conversation((Message("user", ("Describe.\n", ImageSlot(0))),)), reply=True) == [ImageSlot(0)]


@pytest.mark.parametrize(
    ("reason", "conversation"),
    [
        ("bad_turns", sample_conversation(2)),
        ("no_picture", Conversation((Message("user", ("What?",)), Message("assistant", ("A cat.",))))),
    ],
)
def test_what_plain_refuses(reason, conversation):
    with pytest.raises(SampleError) as caught:
        FORMATS["plain"].render(conversation)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "messages"),
    [
        ("empty_answer", (Message("user", ("Q",)), Message("assistant", ("\n ",)))),
        ("empty_question", (Message("user", (" ",)), Message("assistant", ("A",)))),
        ("picture_in_answer", (Message("user", ("Q",)), Message("assistant", ("A", ImageSlot(0))))),
        ("bad_turns", (Message("user", ("Q",)), Message("user", ("Q",)), Message("assistant", ("A",)))),
        ("bad_turns", (Message("system", ("S",)), Message("user", ("Q",)), Message("assistant", ("A",)))),
    ],
)
@pytest.mark.parametrize("name", ["v1", "llama_2", "qwen_1_5"])
def test_what_every_format_refuses(name, reason, messages):
    with pytest.raises(SampleError) as caught:
        FORMATS[name].render(Conversation(messages))
    assert caught.value.reason == reason


def test_a_question_that_is_a_picture_alone():
    pieces = FORMATS["v1"].render(Conversation((Message("user", (ImageSlot(0),)), Message("assistant", ("A",)))))
    assert text_of(pieces).endswith(" USER: <image> ASSISTANT: A</s>")


def test_system_text():
    one = Conversation(turns("Q", "A").messages, "Be brief.")
    assert text_of(FORMATS["v1"].render(one)).startswith("Be brief. USER: ")
    assert text_of(FORMATS["llama_2"].render(one)).startswith("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>")
    assert text_of(FORMATS["qwen_1_5"].render(one)).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    none = Conversation(turns("Q", "A").messages, "")
    assert text_of(FORMATS["v1"].render(none)).startswith("USER: ")
    assert text_of(build("template", "v1", system="Be kind.").render(turns("Q", "A"))).startswith("Be kind. USER: ")
    assert text_of(build("template", "llama_2", system="").render(turns("Q", "A"))).startswith("[INST] <image>")
    typed = FORMATS["v1"].render(Conversation(turns("Q", "A").messages, "</s>"))
    assert not any(piece.special and "</s> " in piece.text for piece in typed if isinstance(piece, Segment))
    with pytest.raises(LlavaKitError, match="no place for a system text"):
        build("template", "gemma_instruct", system="Be kind.")


def test_marks_around_pictures_and_another_end_of_answers():
    """LLaVA v0 puts `<im_start>` and `<im_end>` around pictures; TinyLLaVA ends answers with its tokenizer's own mark."""
    marks = ("<im_start>", "<im_end>")
    template = build("template", "v1", around_picture=marks, end_of_answer="<|endoftext|>")
    assert template.stop == ("<|endoftext|>",)
    question = Message("user", (ImageSlot(0), "\nQ1"))
    pieces = template.render(Conversation((question, Message("assistant", ("A1",)))))
    place = pieces.index(ImageSlot(0))
    assert pieces[place - 1] == Segment("<im_start>", special=True)
    assert pieces[place + 1] == Segment("<im_end>", special=True)
    assert pieces[-1] == Segment("<|endoftext|>", trainable=True, special=True)
    assert build("template", "mistral_instruct", around_picture=marks).around_picture == marks
    check_template(template)


def test_the_documentation_names_every_format(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "templates.md").read_text(encoding="utf-8")
    assert [name for name in (*SUMMARIES, *ALIASES, "tokenizer_chat") if f"`{name}`" not in text] == []
