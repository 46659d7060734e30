"""Our half of the plugin for vLLM, with stand-ins for vLLM's half: names and calls as in its 0.33.0. No proof of vLLM."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types

import numpy as np
import pytest
import torch
from folders import PINPOINTS
from recipes_small import assembled, model_block
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from llava_kit.export.run import export
from llava_kit.export.wrapper import LlavaKitProcessor


class Mixin:
    def configure_mm_token_handling(self, vocab_size, mm_token_ids):
        self.placeholders = mm_token_ids

    def _mark_tower_model(self, vllm_config, modalities):
        return contextlib.nullcontext()

    def _mark_language_model(self, vllm_config):
        return contextlib.nullcontext()


class Loader:
    def __init__(self, module):
        self.module = module

    def load_weights(self, weights):
        found = {name: tensor for name, tensor in weights if not name.startswith("language_model.")}
        self.module.load_state_dict(found, strict=True)
        return set(found)


class Generic:
    def __class_getitem__(cls, item):
        return cls

    def __init__(self, info):
        self.info = info


@pytest.fixture
def model_class(monkeypatch):
    info = type("BaseProcessingInfo", (), {"__init__": lambda self, ctx: setattr(self, "ctx", ctx)})
    language_model = nn.Module()
    language_model.make_empty_intermediate_tensors = None
    fields = types.SimpleNamespace(
        flat_from_sizes=lambda modality, sizes: ("flat", sizes), batched=lambda modality, keep_on_cpu=False: "batched"
    )
    stand_ins = {
        "vllm": {},
        "vllm.model_executor": {},
        "vllm.model_executor.models": {},
        "vllm.model_executor.models.interfaces": {"SupportsMultiModal": Mixin, "SupportsPP": type("PP", (), {})},
        "vllm.model_executor.models.utils": {
            "AutoWeightsLoader": Loader,
            "init_vllm_registered_model": lambda **keys: language_model,
            "maybe_prefix": lambda prefix, name: name,
        },
        "vllm.multimodal": {
            "MULTIMODAL_REGISTRY": types.SimpleNamespace(
                register_processor=lambda processor, info, dummy_inputs: (
                    lambda cls: setattr(cls, "made_by", (processor, info, dummy_inputs)) or cls
                )
            )
        },
        "vllm.multimodal.inputs": {"MultiModalFieldConfig": fields},
        "vllm.multimodal.parse": {"ImageProcessorItems": object},
        "vllm.multimodal.processing": {
            "BaseDummyInputsBuilder": Generic,
            "BaseMultiModalProcessor": Generic,
            "BaseProcessingInfo": info,
            "PromptReplacement": types.SimpleNamespace,
        },
    }
    for name, values in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "llava_kit.export.vllm_model", raising=False)
    yield importlib.import_module("llava_kit.export.vllm_model").LlavaKitForConditionalGeneration
    sys.modules.pop("llava_kit.export.vllm_model", None)


def test_rows_and_counts_are_ours(tmp_path, model_class):
    tiling = {"mode": "anyres", "pinpoints": PINPOINTS, "max_tiles": 2}
    assembly = assembled(model_block(tmp_path, tiling=tiling))
    folder = export(assembly, tmp_path / "out").folder
    config = AutoConfig.from_pretrained(folder)
    model_config = types.SimpleNamespace(hf_config=config, model=str(folder))
    model = model_class(vllm_config=types.SimpleNamespace(model_config=model_config))
    model.load_weights(load_file(folder / "model.safetensors").items())
    assert torch.equal(model.newline, assembly.model.newline)
    processor = LlavaKitProcessor.from_pretrained(folder)
    pixels = [np.random.default_rng(n).integers(0, 255, (60, 90 - 40 * n, 3), dtype=np.uint8) for n in range(2)]
    inputs = processor(images=pixels)
    rows = model.embed_multimodal(pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"])
    make_processor, make_info, make_dummies = model_class.made_by
    ctx = types.SimpleNamespace(get_hf_processor=lambda kind, **keys: processor, get_hf_config=lambda kind: config)
    info = make_info(ctx)
    assert [len(each) for each in rows] == [info.rows_of(90, 60), info.rows_of(50, 60)]
    items = types.SimpleNamespace(
        get_items=lambda name, kind: types.SimpleNamespace(
            get_image_size=lambda index: types.SimpleNamespace(width=90 - 40 * index, height=60)
        )
    )
    (update,) = make_processor(info)._get_prompt_updates(items, {}, None)
    assert update.target == [config.image_token_index]
    assert update.replacement(1) == [config.image_token_index] * len(rows[1])
    assert info.largest() in [tuple(entry) for entry in PINPOINTS]
    assert make_dummies(info).get_dummy_text({"image": 2}) == "<image><image>"
    sizes = make_processor(info)._get_mm_fields_config(inputs, {})["pixel_values"][1]
    assert int(sizes.sum()) == len(inputs["pixel_values"])
    # One picture at a time is what vLLM's cache may do.
    alone = processor(images=pixels[:1])
    (row,) = model.embed_multimodal(pixel_values=alone["pixel_values"], image_sizes=alone["image_sizes"])
    assert torch.allclose(row, rows[0], atol=1e-5)
