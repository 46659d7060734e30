"""Folders of the original repositories: what is in them, in their words, and that reading them back gives the same bits."""

from __future__ import annotations

import json

import pytest
import torch
from folders import PINPOINTS
from originals import original_config, original_tensors
from recipes_small import assembled, model_block
from safetensors import safe_open
from transformers import CLIPVisionModel, SiglipVisionModel

import llava_kit
from llava_kit import CheckpointError
from llava_kit.export import original_writer
from llava_kit.export.run import export

KINDS = {
    "clip": {},
    "siglip": {"tower": "siglip"},
    "mistral": {"text": "mistral"},
    "qwen2": {"text": "qwen2"},
    "linear": {"connector": {"type": "linear"}},
    "three maps": {"connector": {"type": "mlp", "depth": 3}},
    "next": {"anyres": True},
    "flat": {"tiling": {"mode": "anyres", "pinpoints": PINPOINTS, "merge": "flat"}},
    "capped": {"tiling": {"mode": "anyres", "pinpoints": PINPOINTS, "max_tiles": 2, "several": "pad"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_reading_it_back_gives_the_same_bits(tmp_path, name):
    assembly = assembled(model_block(tmp_path, **KINDS[name]))
    outcome = export(assembly, tmp_path / "out", to="original", verify=True)
    assert outcome.verification.passed
    again = llava_kit.load_model(outcome.folder)
    ours, theirs = assembly.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert again.tiler.options.mode == assembly.tiler.options.mode
    assert again.tiler.options.max_tiles == assembly.tiler.options.max_tiles
    assert len(again.tokenizer) == len(assembly.tokenizer)  # no image token
    assert all(case.same_rows and case.logit_difference == 0 for case in outcome.verification.cases)


def test_names_and_keys_are_the_originals(tmp_path):
    """Against the peer that writes such folders of transformers' models, key by key."""
    assembly = assembled(model_block(tmp_path, anyres=True))
    original = export(assembly, tmp_path / "original", to="original").folder
    theirs = llava_kit.export(assembly, tmp_path / "theirs").folder
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(theirs, dtype="auto")
    expected = original_tensors(model)
    with safe_open(original / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        newline = file.get_tensor("model.image_newline")
    beyond = {name for name in expected if "post_layernorm" in name}
    assert names == expected.keys() - beyond
    assert torch.equal(newline, assembly.model.newline)
    config = json.loads((original / "config.json").read_text())
    for key, value in original_config(model, "vision_tower", mm_vision_select_layer=-1).items():
        if key in config and key not in ("vocab_size", "pad_token_id"):
            assert config[key] == value, key
    assert config["image_aspect_ratio"] == "anyres"
    assert config["mm_patch_merge_type"] == "spatial_unpad"
    assert config["image_grid_pinpoints"] == PINPOINTS  # (width, height)
    assert config["rope_theta"] == 10000.0
    assert "rope_parameters" not in config
    assert config["tokenizer_padding_side"] == "right"
    assert config["unfreeze_mm_vision_tower"] is True


def test_the_towers_folder_is_a_tower_of_transformers(tmp_path):
    clip = export(assembled(model_block(tmp_path)), tmp_path / "a", to="original").folder / "vision_tower"
    model, info = CLIPVisionModel.from_pretrained(clip, output_loading_info=True)
    assert not any(info.values())
    assert model.config.num_hidden_layers == 3
    siglip = export(assembled(model_block(tmp_path, "siglip")), tmp_path / "b", to="original").folder / "vision_tower"
    model, info = SiglipVisionModel.from_pretrained(siglip, output_loading_info=True)
    assert not any(info.values())
    # The originals delete the last layer of a SigLIP tower before they use it.
    assert model.config.num_hidden_layers == 3 + 1
    assert (siglip / "preprocessor_config.json").is_file()


def test_all_obstacles_at_once(tmp_path):
    block = model_block(tmp_path, connector={"type": "mlp", "activation": "silu", "bias": False})
    block["encoder"]["feature_layer"] = [-2, -3]
    block["tiling"] = {"mode": "resize"}
    with pytest.raises(CheckpointError) as told:
        export(assembled(block), tmp_path / "out", to="original")
    said = str(told.value)
    assert "layers [3, 2]" in said
    assert "'silu'" in said
    assert "without a bias" in said
    assert "mode resize" in said
    assert not (tmp_path / "out").exists()


def test_scaled_rotary_positions_go_out_in_old_words():
    config = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "a": 1}
    found = original_writer._old_rope(config)
    assert found == {"a": 1, "rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}}
