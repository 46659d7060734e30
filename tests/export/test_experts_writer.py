"""Mixtures of experts leave as checkpoints have them, and come back to the same bits."""

from __future__ import annotations

import pytest
import torch
from recipes_small import TEXTS, assembled, model_block, write_language_model
from safetensors import safe_open
from transformers import MixtralConfig, Qwen2MoeConfig

import llava_kit
from llava_kit.export.run import export

SIZES = {
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
    },
}
NAMES = {
    "mixtral": "model.layers.0.block_sparse_moe.experts.2.w3.weight",
    "qwen2_moe": "model.layers.1.mlp.experts.2.up_proj.weight",
}


@pytest.mark.parametrize("to", ["transformers", "original"])
@pytest.mark.parametrize("kind", SIZES)
def test_one_expert_at_a_time(tmp_path, monkeypatch, kind, to):
    monkeypatch.setitem(TEXTS, "mixtral", MixtralConfig)
    monkeypatch.setitem(TEXTS, "qwen2_moe", Qwen2MoeConfig)
    write_language_model(tmp_path / f"lm_{kind}", kind, **SIZES[kind])
    assembly = assembled(model_block(tmp_path, text=kind))
    outcome = export(assembly, tmp_path / "out", to=to, verify=True)
    assert outcome.verification.passed
    with safe_open(outcome.folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert ("language_model." if to == "transformers" else "") + NAMES[kind] in names
    assert not any("gate_up_proj" in name for name in names)
    again = llava_kit.load_model(outcome.folder).model.language_model.state_dict()
    for name, tensor in assembly.model.language_model.state_dict().items():
        assert torch.equal(again[name][: len(tensor)], tensor), name
