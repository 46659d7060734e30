"""Model blocks of tiny real parts, their checkpoints written as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from folders import PINPOINTS, clip_config, siglip_config
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionModel,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    SiglipVisionModel,
)

import llava_kit
from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer

TEXTS: dict[str, Any] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def write_tower(folder: Path, kind: str = "clip") -> Path:
    torch.manual_seed(1)
    model: Any = CLIPVisionModel(clip_config()) if kind == "clip" else SiglipVisionModel(siglip_config())
    _spread(model)
    model.save_pretrained(folder)
    return folder


def write_language_model(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """With a tokenizer that knows no image token."""
    torch.manual_seed(2)
    tokenizer = byte_level_tokenizer() if kind == "qwen2" else sentencepiece_tokenizer()
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": len(tokenizer)}
    # As Qwen's own: more rows than tokens (transformers' class for it adds one of its own).
    sizes["vocab_size"] += 8 * (kind == "qwen2")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    window = {"sliding_window": None} if kind == "mistral" else {}
    model = AutoModelForCausalLM.from_config(TEXTS[kind](**{**sizes, **ends, **window, **changes}))
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_block(
    folder: Path, tower: str = "clip", text: str = "llama", *, anyres: bool = False, **parts: Any
) -> dict[str, Any]:
    """A recipe's model block; `parts` replace its keys."""
    encoder, language_model = folder / f"tower_{tower}", folder / f"lm_{text}"
    if not encoder.exists():
        write_tower(encoder, tower)
    if not language_model.exists():
        write_language_model(language_model, text)
    mode = "pad" if tower == "clip" else "resize"
    return {
        "encoder": {"type": tower, "checkpoint": str(encoder)},
        "connector": {"type": "mlp"},
        "language_model": {"type": "causal_lm", "checkpoint": str(language_model)},
        "template": {"type": "qwen_2" if text == "qwen2" else "v1"},
        "tiling": {"mode": "anyres", "pinpoints": PINPOINTS} if anyres else {"mode": mode},
        **parts,
    }


def assembled(block: dict[str, Any], seed: int = 3) -> Any:
    assembly = llava_kit.assemble(block, seed=seed)
    assembly.model.eval()
    return assembly


def _spread(model: torch.nn.Module) -> None:
    """Numbers large enough for logits of size 1, and norms that are no identity."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
