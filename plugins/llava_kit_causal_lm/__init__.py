"""Language models: any causal LM of transformers that is made of attention blocks (Llama, Mistral, Qwen, Phi, Gemma, ...)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.language_model import LanguageModel


class CausalLmOptions(Options):
    """Any causal language model of transformers, from a local folder or the hub."""

    checkpoint: str | None = Field(None, description="a folder in the layout of the Hugging Face hub, or a repository's name")
    config: dict[str, Any] | None = Field(
        None, description="instead of a checkpoint: the architecture as transformers writes it, whose weights lie elsewhere"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    attention: Literal["auto", "segments", "sdpa", "eager"] = Field(
        "auto",
        description="segments: packed sequences one by one with no mask; sdpa, eager: transformers' own, with a mask when "
        "packing; auto: segments where the architecture allows it",
    )
    kernels: Literal["plain", "liger"] = Field(
        "plain",
        description="plain: transformers' own; liger: Liger's norms, rotary positions and MLPs (llava-kit[liger], CUDA)",
    )
    tokenizer: str | None = Field(None, description="a folder or repository with the tokenizer; default: the checkpoint's")


def build_causal_lm(options: CausalLmOptions, *, weights: bool) -> LanguageModel:
    """The language model; with `weights=False` its architecture alone, from a folder, a preset or the hub's cache."""
    from .language_model import CausalLm

    return CausalLm(options, weights=weights)


@hookimpl
def register_language_models(register):
    register("causal_lm", options=CausalLmOptions, build=build_causal_lm)
