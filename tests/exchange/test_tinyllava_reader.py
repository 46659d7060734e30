"""Folders of TinyLLaVA_Factory: logits equal those of the model they were made of; on SigLIP the first patch is left out."""

from __future__ import annotations

import json

import pytest
import torch
from folders import make_model, make_tokenizer, siglip_config, text_config
from originals import write_json, write_weights
from test_original_reader import assert_same
from transformers import PhiConfig

import llava_kit
from llava_kit import CheckpointError


def tiny_tensors(model):
    """The model's tensors by TinyLLaVA's names."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.vision_tower."):
            name = "vision_tower._vision_tower.vision_model." + name.removeprefix("model.vision_tower.")
        elif name.startswith("model.multi_modal_projector."):
            name = name.replace("model.multi_modal_projector.linear_1", "connector._connector.0")
            name = name.replace("model.multi_modal_projector.linear_2", "connector._connector.2")
        else:
            name = "language_model." + name.replace("model.language_model.", "model.")
        tensors[name] = tensor
    return tensors


def tiny_config(model, **keys):
    text = json.loads(model.config.text_config.to_json_string(use_diff=False))
    vision = json.loads(model.config.vision_config.to_json_string(use_diff=False))
    config = {"model_type": "tinyllava", "architectures": ["TinyLlavaForConditionalGeneration"], "connector_type": "mlp2x_gelu"}
    config |= {"llm_model_name_or_path": "microsoft/phi-2", "vision_model_name_or_path": "google/siglip-so400m-patch14-384"}
    config |= {"text_config": text, "vision_config": vision, "vision_feature_layer": -2, "image_aspect_ratio": "pad"}
    return {**config, "vision_feature_select_strategy": "patch", **keys}


def write(folder, model, extra=None, **keys):
    write_weights(folder, {**tiny_tensors(model), **(extra or {})})
    write_json(folder / "config.json", tiny_config(model, **keys))
    make_tokenizer().save_pretrained(folder)
    return folder


def test_on_clip(tmp_path):
    model = make_model()
    assembly = llava_kit.load_model(write(tmp_path / "x", model))
    assert assembly.recipe_model.template.type == "v1"
    assert_same(assembly, model)


@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
def test_on_siglip_the_first_patch_is_taken_for_a_class_token(tmp_path, feature):
    model = make_model(vision=siglip_config())
    model.config.vision_feature_select_strategy = "default" if feature == "patch" else "full"
    assembly = llava_kit.load_model(write(tmp_path / "x", model, vision_feature_select_strategy=feature))
    assert assembly.side.area == 16 - (feature == "patch")
    assert_same(assembly, model)


def test_on_phi_answers_end_with_its_own_mark(tmp_path):
    text = text_config(PhiConfig, hidden_act="gelu_new")
    bias = {"language_model.lm_head.bias": torch.zeros(768)}  # Phi's head has one, the head of transformers' Llava has none
    folder = write(tmp_path / "x", make_model(text=text), bias)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**config, "eos_token": "<|endoftext|>"})
    template = llava_kit.load_model(folder).template
    assert template.stop == ("<|endoftext|>",)


def test_a_lora_folder(tmp_path):
    """The adapter with the three parts beside it, whose adapted weights carry peft's word for what it wrapped."""
    model, folder = make_model(), tmp_path / "x"
    for part, prefix in {
        "language_model": "language_model.",
        "vision_tower": "vision_tower._vision_tower.",
        "connector": "connector.",
    }.items():
        tensors = {name.removeprefix(prefix): value for name, value in tiny_tensors(model).items() if name.startswith(prefix)}
        tensors = {name.replace("q_proj.weight", "q_proj.base_layer.weight"): value.clone() for name, value in tensors.items()}
        write_weights(folder / part, tensors, pickled=True)
    write_json(folder / "config.json", tiny_config(model))
    make_tokenizer().save_pretrained(folder)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    a, b = torch.randn(2, 48), torch.randn(48, 2)
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj"
    torch.save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.bin")
    expected = make_model()
    with torch.no_grad():
        expected.state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"].add_(b @ a)
    assert_same(llava_kit.load_model(folder), expected)
    (folder / "connector" / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"connector/pytorch_model\.bin"):
        llava_kit.load_model(folder)


def test_what_cannot_be_read_is_said_at_once(tmp_path):
    keys = {"connector_type": "qformer", "vision_model_name_or_path": "mof:a", "text_config": {}, "vision_feature_layer": None}
    folder = write(tmp_path / "x", make_model(), **keys)
    with pytest.raises(CheckpointError) as error:
        llava_kit.load_model(folder)
    for word in ("connector_type: found 'qformer'", "mof:a", "text_config", "vision_feature_layer"):
        assert word in str(error.value)
