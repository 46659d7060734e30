"""LLaVA's conversation formats, from v0 to NeXT, byte for byte, and the tokenizer's own; what the model shall say is learnt."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.template import ConversationTemplate

SUMMARIES: dict[str, str] = {
    "plain": "Picture and caption, nothing else; for aligning a connector (stage 1).",
    "v0": "LLaVA v0: ###Human: and ###Assistant:.",
    "v0_mmtag": "v0 with the system text that announces <Image> tags.",
    "v1": "LLaVA 1.5 and NeXT on Vicuna: USER: and ASSISTANT:, the system text with 'user'.",
    "llava_v1": "As v1, the system text with 'human': what LLaVA's own chat uses.",
    "v1_mmtag": "v1 with the system text that announces <Image> tags.",
    "llama_2": "[INST] brackets with Meta's long system text.",
    "llava_llama_2": "[INST] brackets with LLaVA's system text.",
    "llava_llama_2_simple": "[INST] brackets with a one-line system text.",
    "llava_llama_2_mmtag": "[INST] brackets with the system text that announces <Image> tags.",
    "mistral_instruct": "[INST] brackets without system text: LLaVA-NeXT on Mistral.",
    "chatml_direct": "ChatML without line breaks between turns: LLaVA-NeXT on Yi-34B.",
    "mpt": "ChatML without line breaks between turns, MPT's system text.",
    "mistral_orca": "ChatML without line breaks between turns, MistralOrca's system text.",
    "mistral_zephyr": "<|user|> and <|assistant|>, each turn ended by </s>.",
    "qwen_1_5": "ChatML with line breaks: LLaVA-NeXT on Qwen 1.5 and 2.",
    "qwen_2_5": "ChatML with line breaks and the system text of Qwen 2.5.",
    "llava_llama_3": "Llama 3's headers: LLaVA-NeXT on Llama 3.",
    "gemma_instruct": "Gemma's turns of user and model, no system text.",
}
ALIASES: dict[str, str] = {
    "default": "v0",
    "llava_v0": "v0",
    "llava_v0_mmtag": "v0_mmtag",
    "v0_plain": "plain",
    "vicuna_v1": "v1",
    "llava_v1_mmtag": "v1_mmtag",
    "llava_mistral_instruct": "mistral_instruct",
    "mistral_direct": "chatml_direct",
    "qwen_2": "qwen_1_5",
}


class PlainOptions(Options):
    """Picture and caption."""

    tokenisation: Literal["chunks", "whole"] = Field(
        "chunks",
        description="chunks: text around a picture piece by piece, as LLaVA trains; whole: as transformers' processors do",
    )


class TemplateOptions(PlainOptions):
    """One of LLaVA's conversation formats."""

    system: str | None = Field(None, description="replaces the format's own system text; an empty one leaves it out")


class FormatOptions(TemplateOptions):
    """One of LLaVA's conversation formats, with other marks."""

    around_picture: tuple[str, str] | None = Field(
        None, description="marks before and after each picture, such as <im_start> and <im_end> of LLaVA v0"
    )


class EndingOptions(FormatOptions):
    """A format whose answers other programs end with the tokenizer's own mark."""

    end_of_answer: str | None = Field(
        None, description="what ends an answer, and a reply with it, such as <|endoftext|> of TinyLLaVA on Phi; default: </s>"
    )


class WideOptions(FormatOptions):
    """A format of which the original's code learns more than the answers."""

    mask: Literal["meant", "original"] = Field(
        "meant",
        description="meant: answers and what ends them are learnt; original: all that LLaVA's code learns, to repeat a run",
    )


class TaggedOptions(FormatOptions):
    """A format whose system text announces tags around pictures."""

    wrap_pictures: bool = Field(
        False, description="<Image> and </Image> around each picture, as the original's training wrote it"
    )


class TaggedWideOptions(WideOptions, TaggedOptions):
    """A format with tags around pictures, of which the original's code learns more than the answers."""


class ChatOptions(TemplateOptions):
    """The tokenizer's own chat template, taken apart."""

    template: str | None = Field(None, description="a jinja text to use instead of the tokenizer's")
    template_file: str | None = Field(None, description="a file with one")


OPTIONS: dict[str, type[Options]] = {
    "plain": PlainOptions,
    "v0": WideOptions,
    "v0_mmtag": TaggedWideOptions,
    "v1": EndingOptions,
    "llava_v1": EndingOptions,
    "v1_mmtag": TaggedOptions,
    "llava_llama_2_mmtag": TaggedOptions,
    "qwen_1_5": WideOptions,
    "qwen_2_5": WideOptions,
    "llava_llama_3": WideOptions,
}


def build_template(options: Options, *, name: str) -> ConversationTemplate:
    """One of the formats."""
    from .formats import make_format

    return make_format(name, **options.model_dump())


def build_tokenizer_chat(options: ChatOptions) -> ConversationTemplate:
    """The tokenizer's own chat template."""
    from .tokenizer_chat import make_tokenizer_chat

    return make_tokenizer_chat(options)


@hookimpl
def register_templates(register):
    for name, summary in SUMMARIES.items():
        register(name, options=OPTIONS.get(name, FormatOptions), build=partial(build_template, name=name), summary=summary)
    for alias, name in ALIASES.items():
        options = OPTIONS.get(name, FormatOptions)
        register(alias, options=options, build=partial(build_template, name=alias), summary=f"Another name of {name}.")
    register(
        "tokenizer_chat",
        options=ChatOptions,
        build=build_tokenizer_chat,
        summary="The tokenizer's own chat template, or a jinja text; what is learnt is found by taking it apart.",
    )
