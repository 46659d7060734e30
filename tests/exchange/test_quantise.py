"""Language models in 4 and 8 bits: only their linear maps change, and answers stay near."""

import importlib.util

import numpy as np
import pytest
import torch
from folders import make_model, text_config, write_folder
from torch import nn

import llava_kit
from llava_kit.assemble.weights import save_model
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.data.collate import collate
from llava_kit.errors import LlavaKitError
from llava_kit.recipe.schema import COMPONENTS

needs_backend = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
# Blocks of 64 numbers share a scale in NF4: widths that are no multiples would be padded.
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


@pytest.fixture(params=["theirs", "ours"])
def folder(request, tmp_path):
    folder = write_folder(tmp_path / "theirs", make_model(anyres=True, text=text_config(**SIZES)))
    if request.param == "ours":
        save_model(llava_kit.load_model(folder), tmp_path / "ours", COMPONENTS)
    return tmp_path / request.param


def _logits(assembly):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    question = Message("user", (ImageSlot(0), "\nWhat is it?"))
    sample = Sample("asked", Conversation((question,)), (ImagePixels(lambda: pixels, (50, 40)),))
    example = assembly.examples().make(sample, reply=True)
    model = assembly.model
    batch = collate([example], side=assembly.side, vocab=model.language_model.embedding.shape[0])
    with torch.inference_mode():
        return model.language_model.logits(model(batch.tiles, batch.plan, batch.position_ids))


@needs_backend
@pytest.mark.parametrize(("kind", "kept_bits", "near"), [("4bit", 4, 0.35), ("8bit", 8, 0.05)])
def test_maps_of_the_language_model_alone(folder, kind, kept_bits, near):
    whole, small = llava_kit.load_model(folder), llava_kit.load_model(folder, quantise=kind)
    for component in COMPONENTS:
        before, after = getattr(whole.model, component), getattr(small.model, component)
        for name, module in before.named_modules():
            if type(module) is not nn.Linear:
                continue
            weight = after.get_submodule(name).weight
            if component == "language_model" and name != "lm_head":
                assert weight.numel() * weight.element_size() * 8 == module.weight.numel() * kept_bits, name
            else:
                assert torch.equal(weight, module.weight), name
    assert torch.equal(whole.model.language_model.embedding, small.model.language_model.embedding)
    expected, found = _logits(whole), _logits(small)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < near
    assert isinstance(small.chat("What is it?", max_new_tokens=4), str)


@needs_backend
def test_a_quantised_model_cannot_be_saved(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_model(text=text_config(**SIZES)))
    with pytest.raises(LlavaKitError, match=r"language model is quantised.*without `quantise`"):
        save_model(llava_kit.load_model(folder, quantise="4bit"), tmp_path / "ours", COMPONENTS)


def test_without_the_backend_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlavaKitError, match=r"4bit needs the package bitsandbytes: pip install 'llava-kit\[quant\]'"):
        llava_kit.load_model(tmp_path, quantise="4bit")


def test_an_unknown_kind(tmp_path):
    with pytest.raises(LlavaKitError, match=r"found '4bits'.*did you mean '4bit'"):
        llava_kit.load_model(tmp_path, quantise="4bits")
