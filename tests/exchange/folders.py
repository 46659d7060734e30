"""Tiny random LLaVA folders as transformers writes them: model, processor, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    SiglipVisionConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_kit.testing.tokenizers import sentencepiece_tokenizer

TILE, PATCH = 28, 7
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
IMAGE = "<image>"
# As llava-hf's folders have it: no system text, each picture before its turn's text.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_tokenizer(legacy: bool = False) -> Any:
    """A small Llama tokenizer that knows `<image>`, as the last of its tokens."""
    return sentencepiece_tokenizer(legacy=legacy, specials=(IMAGE,))


def clip_config(**changes: Any) -> CLIPVisionConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    return CLIPVisionConfig(**{**sizes, "image_size": TILE, "patch_size": PATCH, **changes})


def siglip_config(**changes: Any) -> SiglipVisionConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    return SiglipVisionConfig(**{**sizes, "image_size": TILE, "patch_size": PATCH, **changes})


def text_config(kind: type = LlamaConfig, **changes: Any) -> Any:
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 768, "max_position_embeddings": 4096}
    if kind is MistralConfig:
        sizes["sliding_window"] = None
    return kind(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})


def make_model(*, anyres: bool = False, vision: Any = None, text: Any = None, seed: int = 0, **changes: Any) -> Any:
    """A random Llava or LlavaNext (`anyres`) in float32, its numbers large enough for logits of size 1."""
    torch.manual_seed(seed)
    image_token = make_tokenizer().convert_tokens_to_ids(IMAGE)
    keys = {"vision_config": vision or clip_config(), "text_config": text or text_config(), "image_token_index": image_token}
    if keys["vision_config"].model_type == "siglip_vision_model":  # it has no class token to leave out
        keys["vision_feature_select_strategy"] = "full"
    if anyres:
        model: Any = LlavaNextForConditionalGeneration(
            LlavaNextConfig(**{**keys, "image_grid_pinpoints": PINPOINTS, **changes})
        )
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**{**keys, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
    return model.eval()


def make_processor(model: Any, *, legacy: bool = False, chat_template: str | None = CHAT_TEMPLATE, **settings: Any) -> Any:
    """The processor that goes with the model; `settings` are of its image processor."""
    config = model.config
    siglip = config.vision_config.model_type == "siglip_vision_model"
    if config.model_type == "llava_next":
        images: Any = LlavaNextImageProcessorPil(
            **{"size": {"shortest_edge": TILE}, "crop_size": TILE, "image_grid_pinpoints": PINPOINTS, **settings}
        )
        kind: Any = LlavaNextProcessor
    else:
        kind = LlavaProcessor
        images = (
            SiglipImageProcessorPil(**{"size": {"height": TILE, "width": TILE}, **settings})
            if siglip
            else LlavaImageProcessorPil(**{"size": {"shortest_edge": TILE}, "crop_size": TILE, **settings})
        )
    return kind(
        image_processor=images,
        tokenizer=make_tokenizer(legacy),
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=0 if siglip else 1,
        chat_template=chat_template,
    )


def write_folder(folder: Path, model: Any, processor: Any | None = None, **how: Any) -> Path:
    """Model and processor written by transformers itself; `how` goes to the model's `save_pretrained`."""
    model.save_pretrained(folder, **how)
    (processor or make_processor(model)).save_pretrained(folder)
    return folder
