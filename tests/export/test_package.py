"""Packages: models that no other program's classes can be, whole in one folder, behind the Auto classes of transformers."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import PINPOINTS
from recipes_small import assembled, model_block
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import llava_kit
import llava_kit.export.wrapper
from llava_kit import CheckpointError, LlavaKitError
from llava_kit.exchange import package_reader
from llava_kit.export import package
from llava_kit.export.run import export
from llava_kit.export.wrapper import picture_rows

KINDS = {
    "resampler": {"connector": {"type": "perceiver", "num_queries": 5, "heads": 2}},
    "shuffled": {"connector": {"type": "pixel_shuffle"}},
    "flat": {"tiling": {"mode": "anyres", "pinpoints": PINPOINTS, "merge": "flat"}},
    "capped": {"tiling": {"mode": "anyres", "pinpoints": PINPOINTS, "max_tiles": 2}},
    "three maps": {"connector": {"type": "mlp", "depth": 3}, "anyres": True},
}


def make(folder: Path, name: str):
    if name == "side by side":
        block = model_block(folder)
        block["encoder"] = [block["encoder"], model_block(folder, "siglip")["encoder"] | {"feature_layer": "last"}]
        return assembled(block)
    return assembled(model_block(folder, **KINDS[name]))


@pytest.mark.parametrize("name", [*KINDS, "side by side"])
def test_whole_in_one_folder(tmp_path, name):
    """The parts' own folders are gone, and it still loads, to the same bits and the same answer."""
    parts = tmp_path / "parts"
    parts.mkdir()
    assembly = make(parts, name)
    outcome = export(assembly, tmp_path / "out", verify=True)
    assert outcome.to == "package"
    assert outcome.obstacles
    parts.rename(tmp_path / "gone")
    (tmp_path / "out").rename(tmp_path / "moved")
    again = llava_kit.load_model(tmp_path / "moved")
    ours, theirs = assembly.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    pixels = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    assert again.chat("What is it?", [pixels], max_new_tokens=6) == assembly.chat("What is it?", [pixels], max_new_tokens=6)


def test_behind_the_auto_classes(tmp_path):
    assembly = make(tmp_path, "capped")
    folder = export(assembly, tmp_path / "out").folder
    assert AutoConfig.from_pretrained(folder).text_config.model_type == "llama"
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    pixels = [np.random.default_rng(n).integers(0, 255, (50 + 30 * n, 90, 3), dtype=np.uint8) for n in range(2)]
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What are they?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=pixels)
    found = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    ours = assembly.chat("What are they?", pixels, max_new_tokens=8)
    assert processor.decode(found, skip_special_tokens=True).strip().rstrip("�").strip() == ours
    assert model(**inputs).logits.shape == (1, inputs["input_ids"].shape[1], assembly.model.language_model.head.shape[0])


def test_wrapper_tells_what_does_not_fit(tmp_path):
    folder = export(make(tmp_path, "resampler"), tmp_path / "out").folder
    processor = AutoProcessor.from_pretrained(folder)
    with pytest.raises(LlavaKitError, match=r"found 1 places for pictures .* and 0 pictures"):
        processor(text="a <image> b")
    with pytest.raises(LlavaKitError, match="found 2 prompts, expected one"):
        processor(text=["a", "b"])


def test_pyproject_and_module(tmp_path, monkeypatch):
    folder = export(make(tmp_path, "resampler"), tmp_path / "My model-2").folder
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    module = "llava_kit_model_my_model_2"
    assert project["project"]["entry-points"]["vllm.general_plugins"] == {module: f"{module}:register_in_vllm"}
    assert project["tool"]["setuptools"]["packages"] == [module]
    assert project["project"]["dependencies"][0].startswith("llava-kit")
    source = (folder / module / "__init__.py").read_text()
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"llava_kit.export.wrapper", "llava_kit.export.vllm_plugin"}
    monkeypatch.syspath_prepend(str(folder))
    assert callable(importlib.import_module(module).register_in_vllm)
    assert "vllm" not in sys.modules


def test_plugin_names_the_class_and_may_be_called_twice(monkeypatch):
    """With a stand-in for vLLM, which cannot be installed here: register_model takes `module:class`."""
    from llava_kit.export import vllm_plugin

    known = {}
    registry = types.SimpleNamespace(get_supported_archs=lambda: known, register_model=known.__setitem__)
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(ModelRegistry=registry))
    vllm_plugin.register()
    vllm_plugin.register()
    (architecture, place), *rest = known.items()
    assert not rest
    module, _, name = place.partition(":")
    source = Path(llava_kit.__file__).parent / Path(*module.split(".")[1:]).with_suffix(".py")
    classes = [node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    assert name in classes
    assert architecture == package.ARCHITECTURE


def test_tensors_are_named_as_vllms_language_model_wants_them(tmp_path):
    from safetensors import safe_open

    folder = export(make(tmp_path, "three maps"), tmp_path / "out").folder
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "language_model.lm_head.weight" in names
    assert "newline" in names
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [package.ARCHITECTURE]
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]


def test_the_half_that_sees_alone(tmp_path):
    """What the plugin for vLLM builds: encoder and connector, without the language model."""
    assembly = make(tmp_path, "capped")
    folder = export(assembly, tmp_path / "out").folder
    vision = package_reader.build_vision(folder, assembly.model.language_model.width)
    vision.encoder.load_state_dict(assembly.model.encoder.state_dict())
    vision.connector.load_state_dict(assembly.model.connector.state_dict())
    pixels = [np.random.default_rng(n).integers(0, 255, (60, 90 - 40 * n, 3), dtype=np.uint8) for n in range(2)]
    cut = [vision.tiler.cut(picture) for picture in pixels]
    tiles = torch.from_numpy(np.concatenate([tiles for tiles, _ in cut]))
    rows = picture_rows(vision.encoder, vision.connector, assembly.model.newline, tiles, [grid for _, grid in cut], vision.side)
    pictures = AutoProcessor.from_pretrained(folder).pictures
    assert [len(each) for each in rows] == pictures.count(torch.tensor([[60, 90], [60, 50]]))


def test_damaged_packages_are_told(tmp_path):
    folder = export(make(tmp_path, "resampler"), tmp_path / "out").folder
    found = json.loads((folder / package.DESCRIPTION).read_text())
    found["model"]["connector"]["num_queries"] = 6
    (folder / package.DESCRIPTION).write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=r"do not fit llava_kit.json.*found shape \(5, .*expected \(6"):
        llava_kit.load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found no weights"):
        llava_kit.load_model(folder)
    found["format"] = 99
    (folder / package.DESCRIPTION).write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match="found format 99, expected 1; update llava_kit"):
        llava_kit.load_model(folder)


def test_ready_parts_cannot_be_packed(tmp_path):
    assembly = make(tmp_path, "resampler")
    assembly.recipe_model = None
    with pytest.raises(CheckpointError, match="assembled from ready parts"):
        export(assembly, tmp_path / "out", to="package")
