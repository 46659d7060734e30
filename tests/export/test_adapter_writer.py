"""LoRA kept: base and adapter apart are together the merged model, in peft and in our own reading."""

from __future__ import annotations

import json

import pytest
import torch
from folders import make_model
from originals import original_config, write_json, write_language_model, write_tower, write_trained
from test_adapter import pairs, write_adapter
from transformers import AutoModelForImageTextToText

import llava_kit
from llava_kit import LlavaKitError
from llava_kit.exchange.adapter import read_adapter
from llava_kit.export.run import export


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A LoRA folder of the original repositories with a rank and an alpha of its own for one module, and its base."""
    folder, model = tmp_path_factory.mktemp("lora"), make_model()
    tower = write_tower(folder / "tower", model)
    base = write_language_model(folder / "base", model)
    lora = write_adapter(folder / "lora", {**pairs(), **_other_rank()}, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 7})
    write_trained(lora, model)
    write_json(lora / "config.json", original_config(model, str(tower), image_aspect_ratio="pad"))
    return lora, base


def _other_rank():
    return {name: tensor for name, tensor in pairs(rank=2, seed=3).items() if "v_proj" in name}


@pytest.mark.parametrize("to", ["transformers", "original"])
def test_base_and_adapter_are_the_merged_model(source, tmp_path, to):
    peft = pytest.importorskip("peft")
    lora, base = source
    merged = llava_kit.load_model(lora, base=str(base)).model.language_model.state_dict()
    outcome = export(lora, tmp_path / "out", to=to, lora="kept", base=str(base), verify=True)
    again = llava_kit.load_model(outcome.folder).model.language_model.state_dict()
    targets = ("q_proj", "v_proj", "down_proj")
    for name, tensor in again.items():
        same = torch.equal(tensor[: len(merged[name])], merged[name])
        assert same != any(target in name for target in targets), name
    assert len(read_adapter(outcome.folder / "adapter").pairs) == 6
    if to == "transformers":
        whole = AutoModelForImageTextToText.from_pretrained(outcome.folder, dtype="auto")
        wrapped = peft.PeftModel.from_pretrained(whole, outcome.folder / "adapter").merge_and_unload()
        state = wrapped.model.language_model.state_dict()
        for name, tensor in merged.items():
            theirs = wrapped.lm_head.weight if name.startswith("lm_head") else state[name.removeprefix("decoder.")]
            assert torch.allclose(theirs[: len(tensor)], tensor, atol=1e-6), name


def test_adapter_is_not_about_the_encoder(source, tmp_path):
    lora, base = source
    outcome = export(lora, tmp_path / "out", lora="kept", base=str(base))
    config = json.loads((outcome.folder / "adapter" / "adapter_config.json").read_text())
    assert all(module.startswith("model.language_model.layers.") for module in config["target_modules"])
    assert config["base_model_name_or_path"] == ".."


def test_merged_is_the_default(source, tmp_path):
    lora, base = source
    outcome = export(lora, tmp_path / "out", base=str(base), verify=True)
    assert outcome.verification.passed
    assert not (outcome.folder / "adapter").exists()


def test_nothing_to_keep_is_told(tmp_path, source):
    _, base = source
    with pytest.raises(LlavaKitError, match=r"lora: found 'kept'.*there is no adapter to keep apart"):
        export(base, tmp_path / "out", lora="kept")


def test_what_was_kept_apart_can_be_read_and_kept_again(source, tmp_path):
    """The adapter that was written is one for a LLaVA of transformers; ours reads it on its base, and writes it once more."""
    lora, base = source
    merged = llava_kit.load_model(lora, base=str(base)).model.state_dict()
    first = export(lora, tmp_path / "first", lora="kept", base=str(base)).folder
    again = llava_kit.load_model(first / "adapter", base=str(first)).model.state_dict()
    for name, tensor in merged.items():
        assert torch.allclose(again[name][: len(tensor)] if tensor.ndim else again[name], tensor, atol=1e-6), name
    second = export(first / "adapter", tmp_path / "second", lora="kept", base=str(first)).folder
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert (second / "adapter" / "adapter_model.safetensors").read_bytes() == (
        first / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
