"""Delta weights are added to their base, tokens on the overlap, and a wrong base or no difference at all is noticed."""

from __future__ import annotations

import pytest
import torch
from folders import make_model, text_config
from originals import (
    original_config,
    original_tensors,
    write_json,
    write_language_model,
    write_tower,
    write_weights,
    write_whole,
)
from safetensors.torch import load_file, save_file
from test_original_reader import assert_same

import llava_kit
from llava_kit import CheckpointError
from llava_kit.exchange.delta import SummedTensors
from llava_kit.exchange.tensors import MemoryTensors

BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base with fewer tokens than the model that was made of it."""
    small = make_model(text=text_config(vocab_size=700), seed=9)
    with torch.no_grad():  # fine-tuning moves a norm by little
        small.model.language_model.norm.weight.copy_(make_model().model.language_model.norm.weight + 0.01)
    return write_language_model(tmp_path_factory.mktemp("base"), small)


@pytest.fixture
def delta(model, base, tmp_path):
    """The model as difference to its base, as `make_delta.py` writes it: the connector whole."""
    tower = write_tower(tmp_path / "tower", model)
    folder = write_whole(tmp_path / "delta", model, tower, image_aspect_ratio="pad")
    under = load_file(base / "model.safetensors")
    tensors = {name: value.clone() for name, value in original_tensors(model, tower=False).items()}
    for name, value in under.items():
        tensors[name][: len(value)] -= value
    save_file(tensors, folder / "model.safetensors")
    return folder


def refused(folder, **options):
    with pytest.raises(CheckpointError) as error:
        llava_kit.load_model(folder, **options)
    return str(error.value)


def test_a_delta_on_its_base(delta, base, model):
    assembly = llava_kit.load_model(delta, base=str(base))
    assert_same(assembly, model)


def test_a_delta_without_its_base(delta):
    assert "option `base`" in refused(delta)


def test_whole_weights_with_a_base(model, base, tmp_path):
    tower = write_tower(tmp_path / "tower", model)
    folder = write_whole(tmp_path / "whole", model, tower)
    assert "leave out `base`" in refused(folder, base=str(base))


def test_a_base_of_another_width(delta, tmp_path):
    other = write_language_model(tmp_path / "wide", make_model(text=text_config(hidden_size=64)))
    assert "hidden_size: found 64, expected 48" in refused(delta, base=str(other))


def test_a_base_that_is_a_delta_itself(delta):
    assert "holds delta weights itself" in refused(delta, base=str(delta))


def test_a_base_with_more_tokens_or_other_tensors(delta, base, tmp_path):
    under = load_file(base / "model.safetensors")
    folder = tmp_path / "other"
    write_json(folder / "config.json", {**original_config(make_model(), None), "model_type": "llama"})
    under["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(48)
    under["lm_head.weight"] = torch.zeros(800, 48)
    del under["model.layers.1.mlp.up_proj.weight"]
    write_weights(folder, under)
    message = refused(delta, base=str(folder))
    assert "'model.layers.0.self_attn.q_proj.bias' of the base is not in it" in message
    assert "'model.layers.1.mlp.up_proj.weight' is not in the base" in message
    assert "(768, 48)" in message
    assert "(800, 48)" in message


def test_sums_are_those_of_half_precision_addition():
    """The original adds in float16; a float32 sum rounded once is the same number."""
    torch.manual_seed(0)
    delta = (torch.randn(40, 8) * 0.01).half()
    under = torch.randn(30, 8)
    found = SummedTensors(
        MemoryTensors({"lm_head.weight": delta}, "delta"), MemoryTensors({"lm_head.weight": under}, "base")
    ).read("lm_head.weight")
    expected = delta.clone()
    expected[:30] += under.half()
    assert found.dtype == torch.float16
    assert torch.equal(found, expected)


def test_tokens_are_by_row():
    names = {name: torch.ones(3, 2) for name in BY_TOKEN}
    base = {name: torch.ones(2, 2) for name in BY_TOKEN}
    summed = SummedTensors(MemoryTensors(names, "delta"), MemoryTensors(base, "base"))
    for name in BY_TOKEN:
        assert summed.read(name).tolist() == [[2, 2], [2, 2], [1, 1]]
        assert summed.shapes()[name] == (3, 2)
