"""The formats by name: the texts and marks of LLaVA and LLaVA-NeXT, nothing else.

Names are the keys of the original's `conv_templates`. Two differ from what the original does with the key: `v0` leaves out the
built-in example that the original's chat puts before the first turn and its training does not; `llava_llama_3` needs no
tokenizer to be rendered (the template of Llama 3's own tokenizer is written out here; it trims every text).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava_kit.core.template import ConversationTemplate

from . import ALIASES
from .styles import BracketFormat, PlainFormat, TurnFormat

_POLITE = (
    "A chat between a curious {person} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
)
_TAGGED = "The visual content will be provided with the following format: <Image>visual content</Image>."
_HUMAN, _USER = _POLITE.format(person="human"), _POLITE.format(person="user")
_MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural language." + _TAGGED
)
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_SIMPLE = "Answer the questions about the visual content that the user provides."
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  Your "
    "answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure "
    "that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not "
    "factually coherent, explain why instead of answering something not correct. If you don't know the answer to a question, "
    "please don't share false information."
)
_MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
_ORCA = (
    "You are MistralOrca, a large language model trained by Alignment Lab AI. Write out your reasoning step-by-step to be sure "
    "you get the right answers!"
)
_QWEN_2_5 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

_V0 = TurnFormat(
    stop=("###",),
    system=_HUMAN,
    before_system="",
    after_system="###",
    user="Human: ",
    after_user="###",
    assistant="Assistant:",
    before_answer=" ",
    end_of_answer="###",
)
_V1 = TurnFormat(
    stop=("</s>",),
    system=_USER,
    before_system="",
    after_system=" ",
    user="USER: ",
    after_user=" ",
    assistant="ASSISTANT:",
    before_answer=" ",
    end_of_answer="</s>",
)
_CHATML = TurnFormat(
    stop=("<|im_end|>",),
    system="Answer the questions.",
    before_system="<|im_start|>system\n",
    after_system="<|im_end|>",
    user="<|im_start|>user\n",
    after_user="<|im_end|>",
    assistant="<|im_start|>assistant\n",
    end_of_answer="<|im_end|>",
)
_QWEN = replace(
    _CHATML,
    system="You are a helpful assistant.",
    after_system="<|im_end|>\n",
    after_user="<|im_end|>\n",
    after_answer="\n",
)
_ZEPHYR = TurnFormat(
    stop=("</s>",),
    system="You are a helpful AI assistant.",
    before_system="<|system|>\n",
    after_system="</s>",
    user="<|user|>\n",
    after_user="</s>",
    assistant="<|assistant|>\n",
    end_of_answer="</s>",
)
_LLAMA_3 = TurnFormat(
    stop=("<|eot_id|>",),
    start="<|begin_of_text|>",
    trim=True,
    system=_VISION,
    before_system="<|start_header_id|>system<|end_header_id|>\n\n",
    after_system="<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n",
    after_user="<|eot_id|>",
    assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
    end_of_answer="<|eot_id|>",
)
_GEMMA = TurnFormat(
    stop=("<end_of_turn>",),
    system="",
    has_system=False,
    before_system="",
    after_system="",
    user="<start_of_turn>user\n",
    after_user="<end_of_turn>\n",
    assistant="<start_of_turn>model\n",
    end_of_answer="<end_of_turn>\n",
)
_BRACKETS = BracketFormat(stop=("</s>",), system=_LLAMA_2, between="<s>")

FORMATS: dict[str, TurnFormat | BracketFormat | PlainFormat] = {
    "plain": PlainFormat(),
    "v0": _V0,
    "v0_mmtag": replace(_V0, system=_MMTAG),
    "v1": _V1,
    "llava_v1": replace(_V1, system=_HUMAN),
    "v1_mmtag": replace(_V1, system=_MMTAG),
    "llama_2": _BRACKETS,
    "llava_llama_2": replace(_BRACKETS, system=_VISION),
    "llava_llama_2_simple": replace(_BRACKETS, system=_SIMPLE),
    "llava_llama_2_mmtag": replace(_BRACKETS, system=_SIMPLE + _TAGGED),
    "mistral_instruct": replace(_BRACKETS, system="", between=""),
    "chatml_direct": _CHATML,
    "mpt": replace(_CHATML, system=_MPT),
    "mistral_orca": replace(_CHATML, system=_ORCA),
    "mistral_zephyr": _ZEPHYR,
    "qwen_1_5": _QWEN,
    "qwen_2_5": replace(_QWEN, system=_QWEN_2_5),
    "llava_llama_3": _LLAMA_3,
    "gemma_instruct": _GEMMA,
}

# The layout in which the original's training writes the v0 family; its chat writes the other one.
_V0_TRAINED = replace(
    _V0,
    after_system="\n\n",
    user="### Human: ",
    learnt_opening="###",
    after_user="\n",
    assistant="### Assistant:",
    end_of_answer="\n",
    end="### ",
    whole_turn=True,
)
_QWEN_WIDE: dict[str, Any] = {"whole_turn": True, "learnt_everywhere": ("\n", "<|im_start|>", "<|im_end|>")}
_LLAMA_3_MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

ORIGINAL_MASK: dict[str, TurnFormat] = {
    "v0": _V0_TRAINED,
    "v0_mmtag": replace(_V0_TRAINED, system=_MMTAG),
    "qwen_1_5": replace(_QWEN, **_QWEN_WIDE),
    "qwen_2_5": replace(_QWEN, system=_QWEN_2_5, **_QWEN_WIDE),
    "llava_llama_3": replace(_LLAMA_3, whole_turn=True, learnt_everywhere=_LLAMA_3_MARKS),
}
"""The formats of which the original's code learns more than the answers, as it learns them."""


def make_format(
    name: str,
    *,
    system: str | None = None,
    tokenisation: str = "chunks",
    mask: str = "meant",
    wrap_pictures: bool = False,
    around_picture: tuple[str, str] | None = None,
    end_of_answer: str | None = None,
) -> ConversationTemplate:
    """The format of that name or alias, with what the recipe says about it."""
    name = ALIASES.get(name, name)
    made: Any = ORIGINAL_MASK[name] if mask == "original" else FORMATS[name]
    if system is not None:
        made = made.with_system(system)
    if wrap_pictures:
        made = replace(made, around_picture=("<Image>", "</Image>"))
    if around_picture is not None:
        made = replace(made, around_picture=around_picture)
    if end_of_answer is not None:
        made = replace(made, end_of_answer=end_of_answer, stop=(end_of_answer,))
    return replace(made, tokenisation=tokenisation)
