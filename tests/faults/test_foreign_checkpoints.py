"""Checkpoints of other programs that are broken or not what they seem: one clear error each, and no code of theirs runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from folders import make_model, make_processor, write_folder
from safetensors.torch import load_file, save_file

import llava_kit
from llava_kit.errors import LlavaKitError
from llava_kit.testing.tokenizers import sentencepiece_tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("whole"), make_model(anyres=True))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("shards"), make_model(anyres=True), max_shard_size="60KB")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "folder"))


@pytest.fixture
def sharded(shards, tmp_path):
    return Path(shutil.copytree(shards, tmp_path / "sharded"))


def _edit(path, **changes):
    """Changes keys of a JSON file; None takes one out."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def _weights(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def _told(folder, *words, **options):
    """The error; `words` must be in it, in that order."""
    with pytest.raises(LlavaKitError) as raised:
        llava_kit.load_model(folder, **options)
    told, place = str(raised.value), 0
    for word in words:
        assert word in told[place:], told
        place = told.index(word, place) + len(word)
    assert told.count("\n") <= 50
    assert str(folder) in told
    return told


def test_whole_folders_are_read(folder, sharded):
    llava_kit.load_model(folder)
    llava_kit.load_model(sharded)


def test_missing_extra_and_misshaped_tensors_are_named_all_at_once(folder):
    def change(tensors):
        tensors["language_model.model.norm.weight"] = torch.ones(3)
        tensors["multi_modal_projector.linear_2.bias"] = torch.ones(2)
        tensors["language_model.model.layers.0.stranger.weight"] = torch.ones(2, 5)
        tensors["vision_tower.encoder.layers.0.stranger.weight"] = torch.ones(4)
        del tensors["vision_tower.embeddings.class_embedding"]
        return tensors

    _weights(folder, change)
    told = _told(folder, "do not fit the config")
    for problem in (
        "connector: tensor '1.bias': found shape (2,), expected (48,)",
        "encoder: missing tensor 'embeddings.class_embedding' of shape (32,)",
        "encoder: tensor 'encoder.layers.0.stranger.weight' of shape (4,) has no place in this model",
        "language model: tensor 'model.layers.0.stranger.weight' of shape (2, 5) has no place in this model",
        "language model: tensor 'model.norm.weight': found shape (3,), expected (48,)",
    ):
        assert problem in told


def test_the_newline_row(folder):
    _weights(folder, lambda tensors: {**tensors, "image_newline": torch.ones(5)})
    _told(folder, "'image_newline': found shape (5,), expected (48,)")
    _weights(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "image_newline"})
    _told(folder, "missing tensor 'image_newline' of shape (48,)")


def test_a_newline_row_in_a_model_without_anyres(folder):
    _edit(folder / CONFIG, model_type="llava", image_grid_pinpoints=None)
    _edit(folder / "processor_config.json", image_processor=None)
    _told(folder, "'image_newline' of shape (48,) has no place")


def test_tensors_of_no_llava_model(folder):
    _weights(folder, lambda tensors: {**tensors, "audio_tower.conv.weight": torch.ones(2)})
    _told(folder, "no LLaVA model of transformers", "audio_tower.conv.weight")


def test_a_truncated_file(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    _told(folder, WEIGHTS, "cannot be read as safetensors", "is it whole?")


def test_a_truncated_shard(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    _told(sharded, shard.name, "cannot be read as safetensors")


def test_an_index_that_names_a_missing_file(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    _told(sharded, INDEX, "names files that are not in that folder", shard.name)


def test_an_index_that_names_a_file_elsewhere(sharded):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = "../stolen.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    _told(sharded, INDEX, "../stolen.safetensors")


def test_a_broken_index(sharded):
    (sharded / INDEX).write_text("{")
    _told(sharded, INDEX, "weight_map")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_weights_of_another_type(folder, dtype):
    name = "language_model.model.norm.weight"
    _weights(folder, lambda tensors: {**tensors, name: tensors[name].to(dtype)})
    _told(folder, name, "is of type")


def test_quantised_weights(folder):
    _edit(folder / CONFIG, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    _told(folder, CONFIG, "quantised weights")


@pytest.mark.parametrize("model_type", ["llama", "qwen2_vl", "bert"])
def test_another_architecture(folder, model_type):
    _edit(folder / CONFIG, model_type=model_type)
    _told(folder, CONFIG, f"found model_type {model_type!r}", "expected a LLaVA model")


def test_the_config_of_another_model(folder):
    """Sizes that are not those of the weights."""
    config = json.loads((folder / CONFIG).read_text())
    _edit(folder / CONFIG, text_config={**config["text_config"], "num_hidden_layers": 3, "intermediate_size": 96})
    _told(folder, "do not fit the config", "found shape", "expected", "missing tensor 'model.layers.2")


def test_a_folder_without_config(folder):
    (folder / CONFIG).unlink()
    _told(folder, CONFIG)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff"])
def test_a_config_that_is_none(folder, text):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    _told(folder, CONFIG)


def test_a_config_that_transformers_refuses(folder):
    _edit(folder / CONFIG, vision_feature_select_strategy="some")
    _told(folder, CONFIG, "vision_feature_select_strategy")


def test_a_text_model_that_nobody_knows(folder):
    _edit(folder / CONFIG, text_config={"model_type": "invented"})
    _told(folder, CONFIG, "invented")


def test_a_folder_without_weights(folder):
    (folder / WEIGHTS).unlink()
    _told(folder, "found no weights", WEIGHTS)


class _Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil_was_here"),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["zip", "old"])
def test_a_pickle_with_code_does_not_run(folder, tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    (folder / WEIGHTS).unlink()
    write({"language_model.lm_head.weight": _Evil()}, folder / "pytorch_model.bin")
    _told(folder, "pytorch_model.bin")
    assert not (tmp_path / "evil_was_here").exists()


def test_remote_code_is_never_asked_for(folder):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    _edit(folder / CONFIG, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    _edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    llava_kit.load_model(folder)


def test_a_tokenizer_without_the_image_token(folder):
    sentencepiece_tokenizer(specials=()).save_pretrained(folder)
    _told(folder, "tokenizer has nothing at id 569", "image_token_index", "'<image>'")


def test_an_image_token_that_is_a_word(folder):
    _edit(folder / CONFIG, image_token_index=400)
    _told(folder, "tokenizer has the plain token", "at id 400")


def test_a_folder_without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    _told(folder, "tokenizer")


def test_a_vocabulary_larger_than_the_embedding(folder):
    sentencepiece_tokenizer(specials=("<image>", *(f"<extra_{number}>" for number in range(200)))).save_pretrained(folder)
    _told(folder, "ids up to 769", "'<extra_199>'", "the embedding has 768 rows")


def test_an_unknown_template(folder):
    with pytest.raises(LlavaKitError, match=r"no template 'mistral_instruc'; did you mean 'mistral_instruct'"):
        llava_kit.load_model(folder, template="mistral_instruc")


def test_an_unknown_type(folder):
    with pytest.raises(LlavaKitError, match=r"found 'float23'; expected one of .*did you mean 'float32'"):
        llava_kit.load_model(folder, dtype="float23")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": {"shortest_edge": 30}}, ("size: found {'shortest_edge': 30}", "the encoder's tile, 28 pixels")),
        ({"crop_size": {"height": 14, "width": 14}}, ("crop_size", "28 pixels")),
        ({"resample": 2}, ("resample: found 2", "bicubic")),
        ({"do_resize": False}, ("do_resize: found False", "always")),
        ({"do_flip": True}, ("do_flip: found True", "nothing else")),
        ({"image_grid_pinpoints": [[28, 28]]}, ("image_grid_pinpoints: found [[28, 28]]", "same list in both")),
        ({"image_processor_type": "ViTImageProcessor"}, ("ViTImageProcessor", "expected one of")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_picture_settings_that_cannot_be_honoured(folder, changes, words):
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())["image_processor"]
    _edit(path, image_processor={**settings, **changes})
    _told(folder, "processor_config.json", *words)


@pytest.mark.parametrize("act", ["xielu", "tanh"])
def test_an_activation_that_no_connector_has(folder, act):
    _edit(folder / CONFIG, projector_hidden_act=act)
    _told(folder, "projector_hidden_act", act, "gelu")


def test_a_siglip_tower_whose_first_patch_would_be_dropped(tmp_path):
    from folders import siglip_config

    model = make_model(vision=siglip_config(), vision_feature_select_strategy="default")
    folder = write_folder(tmp_path / "siglip", model, make_processor(model))
    _told(folder, "vision_feature_select_strategy", "SigLIP", "'full'")
