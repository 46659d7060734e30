"""Opening checkpoints: where they are looked for, what is fetched, and what of a config is thrown away."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_kit import CheckpointError, PluginError
from llava_kit.core import checkpoint as room
from llava_kit.core.checkpoint import build_model, open_checkpoint

PRESETS = {"someone/model": {"model_type": "llama"}}
TINY = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


def write(folder: Path, config: object) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository on the hub, as files by name; `hub.mkdir()` it and write. Fetching copies what the patterns allow."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def fetch(name, allow_patterns, local_files_only=False):
        if name != "someone/new":
            raise OSError("404 Client Error.\nRepository Not Found")
        target = tmp_path / "fetched"
        target.mkdir(exist_ok=True)
        for file in repository.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                (target / file.name).write_bytes(file.read_bytes())
        return str(target)

    monkeypatch.setattr(room, "snapshot_download", fetch)
    return repository


def test_keys_that_name_code_are_dropped_at_any_depth(tmp_path):
    inner = {"hidden_size": 4, "_attn_implementation_internal": "org/kernel", "auto_map": {"AutoConfig": "evil.Config"}}
    config = {**inner, "vision_config": {**inner, "deeper": inner}, "trust_remote_code": True, "torch_dtype": "float16"}
    kept = open_checkpoint(str(write(tmp_path, config)), {}, weights=False).config
    assert kept == {"hidden_size": 4, "vision_config": {"hidden_size": 4, "deeper": {"hidden_size": 4}}}


def test_code_is_never_fetched_and_pickles_only_without_alternative(hub):
    write(hub, {"model_type": "llama"})
    for name in ("modeling_evil.py", "model.safetensors", "pytorch_model.bin", "tokenizer.model", "training_args.bin"):
        (hub / name).write_bytes(b"")
    folder = open_checkpoint("someone/new", {}, weights=True).folder
    assert folder is not None
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.model"}


def test_pickles_are_fetched_when_there_is_nothing_else(hub):
    write(hub, {"model_type": "llama"})
    (hub / "pytorch_model.bin").write_bytes(b"")
    (hub / "training_args.bin").write_bytes(b"")
    folder = open_checkpoint("someone/new", {}, weights=True).folder
    assert folder is not None
    assert {file.name for file in folder.iterdir()} == {"config.json", "pytorch_model.bin"}


def test_presets_need_neither_folder_nor_network(hub):
    found = open_checkpoint("someone/model", PRESETS, weights=False)
    assert (found.folder, found.config) == (None, {"model_type": "llama"})
    assert found.read_json("preprocessor_config.json") == {}


@pytest.mark.parametrize("weights", [True, False])
def test_unknown_names(hub, weights):
    with pytest.raises(PluginError, match="did you mean 'someone/model'") as caught:
        open_checkpoint("someone/modle", PRESETS, weights=weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read as JSON"), ("[]", "expected a JSON object"), ("[" * 100_000, "cannot be read as JSON")],
)
def test_configs_that_are_none(tmp_path, text, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(write(tmp_path, text)), {}, weights=False)


def test_folder_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"found no config\.json"):
        open_checkpoint(str(tmp_path), {}, weights=False)


def load(folder: Path):
    found = open_checkpoint(str(folder), {}, weights=True)
    config = CLIPVisionConfig.from_dict(found.config)
    return build_model(CLIPVisionModel, config, found, weights=True, dtype=torch.float32, attention="sdpa")


def test_adapters_are_refused(tmp_path):
    """transformers would follow the adapter's own word on where its base model lies."""
    CLIPVisionModel(CLIPVisionConfig(**TINY)).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somewhere/else"}))
    with pytest.raises(CheckpointError, match="merge it into its model"):
        load(tmp_path)


def test_many_problems_are_told_in_one_line(tmp_path):
    CLIPVisionModel(CLIPVisionConfig(**TINY)).save_pretrained(tmp_path)
    save_file({"pre_layrnorm.weight": torch.zeros(8)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing tensor .*; and \d+ more$") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
