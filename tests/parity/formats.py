"""The formats of `conv_templates` for the peer in `original.py`, by the names they have there."""

from __future__ import annotations

from llava_kit_templates.formats import FORMATS

from .original import Prompt

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
USER = HUMAN.replace("human", "user")
TAGS = "The visual content will be provided with the following format: <Image>visual content</Image>."
MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the visual "
    f"content that the user provides, and assist the user with a variety of tasks using natural language.{TAGS}"
)
VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
SIMPLE = "Answer the questions about the visual content that the user provides."
META = FORMATS["llama_2"].system  # type: ignore[union-attr]
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
ORCA = (
    "You are MistralOrca, a large language model trained by Alignment Lab AI. Write out your reasoning step-by-step to be sure "
    "you get the right answers!"
)
IM = ("<|im_start|>user\n", "<|im_start|>assistant\n")
CHATML = ("<|im_start|>user", "<|im_start|>assistant")


def _v0(system: str) -> Prompt:
    return Prompt("single", system, ("Human", "Assistant"), "###")


def _v1(system: str) -> Prompt:
    return Prompt("two", system, ("USER", "ASSISTANT"), " ", "</s>")


def _llama(system: str, sep: str = "<s>") -> Prompt:
    return Prompt("llama_2", system, ("USER", "ASSISTANT"), sep, "</s>")


def _im(system: str) -> Prompt:
    return Prompt("mpt", system, IM, "<|im_end|>")


PROMPTS: dict[str, Prompt] = {
    "default": _v0(HUMAN),
    "v0": _v0(HUMAN),
    "llava_v0": _v0(HUMAN),
    "v0_mmtag": _v0(MMTAG),
    "llava_v0_mmtag": _v0(MMTAG),
    "v1": _v1(USER),
    "vicuna_v1": _v1(USER),
    "llava_v1": _v1(HUMAN),
    "v1_mmtag": _v1(MMTAG),
    "llava_v1_mmtag": _v1(MMTAG),
    "llama_2": _llama(META),
    "llava_llama_2": _llama(VISION),
    "llava_llama_2_simple": _llama(SIMPLE),
    "llava_llama_2_mmtag": _llama(SIMPLE + TAGS),
    "mistral_instruct": _llama("", ""),
    "llava_mistral_instruct": _llama("", ""),
    "chatml_direct": _im("Answer the questions."),
    "mistral_direct": _im("Answer the questions."),
    "mpt": _im(MPT),
    "mistral_orca": _im(ORCA),
    "mistral_zephyr": Prompt("mpt", "You are a helpful AI assistant.", ("<|user|>\n", "<|assistant|>\n"), "</s>"),
    "qwen_1_5": Prompt("chatml", "You are a helpful assistant.", CHATML, "<|im_end|>"),
    "qwen_2": Prompt("chatml", "You are a helpful assistant.", CHATML, "<|im_end|>"),
    "qwen_2_5": Prompt("chatml", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", CHATML, "<|im_end|>"),
    "llava_llama_3": Prompt("llama_3", VISION, ("user", "assistant"), "<|eot_id|>"),
    "gemma_instruct": Prompt("gemma", "", ("<start_of_turn>user\n", "<start_of_turn>model\n"), "<end_of_turn>\n"),
    "plain": Prompt("plain", "", ("", ""), "\n"),
    "v0_plain": Prompt("plain", "", ("", ""), "\n"),
}
WITHOUT_SYSTEM = {"gemma_instruct"}


def fits(name: str, talk) -> bool:
    """Whether the format can say this at all."""
    if PROMPTS[name].style == "plain":
        return len(talk.texts) == 2 and "<image>" in talk.texts[0] and talk.pictures
    return talk.system is None or name not in WITHOUT_SYSTEM
