"""What a folder of transformers says, as our parts: picture settings, layers, activations, types."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from folders import IMAGE, PINPOINTS, clip_config, make_model, make_processor, siglip_config, text_config, write_folder
from transformers import Gemma2Config, Qwen2Config

import llava_kit
from llava_kit.exchange.foreign import LoadOptions
from llava_kit.exchange.load import describe
from llava_kit.exchange.transformers_reader import ACTIVATIONS
from llava_kit.recipe.schema import Tiling


@pytest.fixture
def read(tmp_path):
    """`read(model arguments, image processor settings)` -> what the reader makes of the folder."""

    def make(arguments=None, settings=None, **options):
        model = make_model(**(arguments or {}))
        write_folder(tmp_path / "folder", model, make_processor(model, **(settings or {})))
        foreign = describe(tmp_path / "folder", LoadOptions(**options))
        assert foreign is not None
        return foreign

    return make


@pytest.mark.parametrize(
    ("arguments", "settings", "mode"),
    [
        ({}, {}, "square"),
        ({}, {"do_pad": True}, "pad"),
        ({}, {"size": {"height": 28, "width": 28}}, "resize"),
        ({"vision": siglip_config()}, {}, "resize"),
    ],
    ids=["centre crop", "pad", "both sides", "siglip"],
)
def test_how_pictures_are_cut(read, arguments, settings, mode):
    assert read(arguments, settings).block.tiling == Tiling(mode=mode)


def test_anyres(read):
    tiling = read({"anyres": True}).block.tiling
    pinpoints = tuple((height, width) for height, width in PINPOINTS)
    assert (tiling.mode, tiling.merge, tiling.rule, tiling.pinpoints) == ("anyres", "spatial_unpad", "transformers", pinpoints)


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
def test_both_files_that_picture_settings_lie_in(read, tmp_path, file):
    read({}, {"do_pad": True})
    nested = tmp_path / "folder" / "processor_config.json"
    settings = json.loads(nested.read_text())
    if file == "preprocessor_config.json":
        (tmp_path / "folder" / file).write_text(json.dumps(settings.pop("image_processor")))
        nested.write_text(json.dumps(settings))
    assert describe(tmp_path / "folder", LoadOptions()).block.tiling.mode == "pad"


def test_without_any_picture_settings_it_says_what_it_took(read, tmp_path):
    read()
    (tmp_path / "folder" / "processor_config.json").unlink()
    foreign = describe(tmp_path / "folder", LoadOptions())
    assert foreign.block.tiling.mode == "square"
    assert any("pictures are cut as square" in note for note in foreign.notes)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
    ],
    ids=str,
)
def test_colours_come_out_as_the_processor_makes_them(read, tmp_path, settings):
    read({}, settings)
    assembly = llava_kit.load_model(tmp_path / "folder")
    tile = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    processor = make_processor(make_model(), **settings).image_processor
    theirs = processor(tile, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    ours = assembly.model.encoder.normalise(torch.from_numpy(tile.transpose(2, 0, 1).copy())[None], theirs.dtype)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("arguments", "layer", "keep_cls"),
    [
        ({}, -2, False),
        ({"vision_feature_layer": [-2, 1]}, (-2, 1), False),
        ({"vision_feature_layer": 3, "vision_feature_select_strategy": "full"}, 3, True),
        ({"vision": siglip_config(), "vision_feature_layer": -1}, -1, False),
    ],
)
def test_which_features_are_taken(read, arguments, layer, keep_cls):
    encoder = read(arguments).block.encoder
    found = encoder.options["feature_layer"]
    assert (tuple(found) if isinstance(found, list) else found) == layer
    assert encoder.options.get("keep_cls", False) == keep_cls
    assert encoder.type == ("siglip" if "vision" in arguments else "clip")


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_connector(read, tmp_path, act, bias):
    foreign = read({"projector_hidden_act": act, "multimodal_projector_bias": bias, "vision": clip_config(num_hidden_layers=2)})
    assert foreign.block.connector.options == {"depth": 2, "activation": ACTIVATIONS[act], "bias": bias}
    theirs = make_model(
        projector_hidden_act=act, multimodal_projector_bias=bias, vision=clip_config(num_hidden_layers=2)
    ).model.multi_modal_projector
    features = torch.randn(5, 32) * 3
    with torch.inference_mode():
        ours = llava_kit.load_model(tmp_path / "folder").model.connector(features)
        assert (ours - theirs(features)).abs().max() <= 1e-5


def test_types(read):
    block = read({}, dtype="float16").block
    assert {block.encoder.options["dtype"], block.language_model.options["dtype"]} == {"float16"}


def test_the_language_model_needs_nothing_from_elsewhere(read, tmp_path):
    foreign = read({"text": text_config(Qwen2Config, rms_norm_eps=3e-6)})
    options = foreign.block.language_model.options
    assert (options["config"]["model_type"], options["config"]["rms_norm_eps"]) == ("qwen2", 3e-6)
    assert foreign.tokenizer == tmp_path / "folder"
    assert foreign.image_token == make_processor(make_model()).tokenizer.convert_tokens_to_ids(IMAGE)
    json.dumps(foreign.block.model_dump(mode="json"))  # what a model folder of ours stores


def test_gemma_is_told_about(read):
    foreign = read({"text": text_config(Gemma2Config, head_dim=12, pad_token_id=0)}, template="gemma_instruct")
    assert foreign.block.language_model.options["config"]["final_logit_softcapping"] is None
    assert any("softcapping" in note for note in foreign.notes)
    assert any("Gemma multiplies" in note for note in foreign.notes)


def test_what_was_decided_is_told(read, tmp_path):
    notes = read().notes
    assert any(note.startswith("template v1") for note in notes)
    assert llava_kit.load_model(tmp_path / "folder").notes == notes
