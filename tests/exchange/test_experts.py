"""A mixture of experts in the names that checkpoints have: stacked as transformers does."""

from __future__ import annotations

import pytest
import torch
from folders import make_model, make_tokenizer, text_config
from originals import original_config, original_tensors, write_json, write_tower, write_weights
from safetensors.torch import load_file
from test_original_reader import assert_same
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

import llava_kit
from llava_kit import CheckpointError
from llava_kit.exchange.experts import stacked
from llava_kit.exchange.tensors import MemoryTensors

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
MODELS = {
    "mixtral": (MixtralForCausalLM, MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3)),
    "qwen2_moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(**SIZES, num_key_value_heads=2, num_experts=3, moe_intermediate_size=12, num_experts_per_tok=2),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_stacked_as_transformers_does(name, tmp_path):
    model_class, config = MODELS[name]
    model = model_class(config)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(".experts.0." in key for key in stored)
    tensors = stacked(MemoryTensors(stored, "x"))
    wanted = model.state_dict()
    assert tensors.shapes() == {key: tuple(value.shape) for key, value in wanted.items()}
    for key, value in wanted.items():
        assert torch.equal(tensors.read(key), value)
        assert tensors.dtype(key) == value.dtype


def test_an_expert_without_a_matrix():
    tensors = {
        f"model.layers.0.block_sparse_moe.experts.{n}.w{m}.weight": torch.ones(2, 2) for n in range(2) for m in (1, 2, 3)
    }
    del tensors["model.layers.0.block_sparse_moe.experts.1.w3.weight"]
    with pytest.raises(CheckpointError, match=r"model\.layers\.0: expert 1 of 2 lacks its up matrix"):
        stacked(MemoryTensors(tensors, "x"))


def test_without_experts_nothing_changes():
    tensors = MemoryTensors({"model.layers.0.mlp.up_proj.weight": torch.ones(1)}, "x")
    assert stacked(tensors) is tensors


def test_a_mixtral_checkpoint_of_the_original(tmp_path):
    model = make_model(text=text_config(MixtralConfig, num_local_experts=2))
    language_model = MixtralForCausalLM(model.config.text_config)
    language_model.model.load_state_dict(model.model.language_model.state_dict())
    language_model.lm_head.load_state_dict(model.lm_head.state_dict())
    language_model.save_pretrained(tmp_path / "lm")
    connector = {name: value for name, value in original_tensors(model, tower=False).items() if "mm_projector" in name}
    folder = tmp_path / "x"
    write_weights(folder, {**load_file(tmp_path / "lm" / "model.safetensors"), **connector})
    write_json(folder / "config.json", original_config(model, str(write_tower(tmp_path / "tower", model))))
    make_tokenizer().save_pretrained(folder)
    assert_same(llava_kit.load_model(folder, template="mistral_instruct"), model)
