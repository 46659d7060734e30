"""Parameter counts of the published recipes equal those of transformers' classes, both on the meta device."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig, MistralConfig
from transformers import LlavaForConditionalGeneration as Llava
from transformers import LlavaNextForConditionalGeneration as LlavaNext

from llava_kit.assemble.parts import assemble
from llava_kit.recipe.find import find_recipe
from llava_kit.recipe.load import load_recipe

# CLIP-L/14 at 336 pixels, which LLaVA 1.5 and NeXT look through (openai/clip-vit-large-patch14-336, config.json).
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
VISION |= {"image_size": 336, "patch_size": 14, "projection_dim": 768}
# The language models, of their published configs what sizes depend on.
LLAMA_7B = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
LLAMA_13B = LlamaConfig(
    vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
)
MISTRAL_7B = MistralConfig(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_key_value_heads=8)
YI_34B = LlamaConfig(
    vocab_size=64000,
    hidden_size=7168,
    intermediate_size=20480,
    num_hidden_layers=60,
    num_attention_heads=56,
    num_key_value_heads=8,
)
# (recipe, class, its config, language model, parameters in all as `num_parameters()` of the class gives them)
PRESETS = [
    ("llava_v1_5_7b", Llava, LlavaConfig, LLAMA_7B, 7_062_902_784),
    ("llava_v1_5_13b", Llava, LlavaConfig, LLAMA_13B, 13_350_839_296),
    ("llava_next_vicuna_7b", LlavaNext, LlavaNextConfig, LLAMA_7B, 7_062_906_880),
    ("llava_next_vicuna_13b", LlavaNext, LlavaNextConfig, LLAMA_13B, 13_350_844_416),
    ("llava_next_mistral_7b", LlavaNext, LlavaNextConfig, MISTRAL_7B, 7_566_223_360),
    ("llava_next_yi_34b", LlavaNext, LlavaNextConfig, YI_34B, 34_751_166_464),
]


def _count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "model_class", "config_class", "text", "total"), PRESETS, ids=[row[0] for row in PRESETS])
def test_counts_are_equal(name, model_class, config_class, text, total):
    recipe = load_recipe(find_recipe(name))
    with torch.device("meta"):
        theirs = model_class(config_class(vision_config=CLIPVisionConfig(**VISION), text_config=text))
        ours = assemble(recipe.model, weights=False).model
    tower, layer = theirs.model.vision_tower, theirs.model.vision_tower.encoder.layers[-1]
    # Behind feature layer -2: the last layer, and the norm that only the pooled class token goes through.
    assert ours.encoder.unused_parameters == _count(layer) + _count(tower.post_layernorm)
    assert _count(ours.encoder) + ours.encoder.unused_parameters == _count(tower)
    assert _count(ours.connector) == _count(theirs.model.multi_modal_projector)
    assert _count(ours.language_model) == _count(theirs.model.language_model) + _count(theirs.lm_head)
    newline = getattr(theirs.model, "image_newline", None)
    assert (ours.newline is None) == (newline is None)
    assert newline is None or ours.newline.shape == newline.shape
    assert _count(ours) + ours.encoder.unused_parameters == theirs.num_parameters() == total
