"""What transformers makes of an exported folder: the same logits and tokens, no warning, and what other engines ask of it."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import PINPOINTS
from PIL import Image
from recipes_small import assembled, model_block, write_language_model
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.image_processing_utils import select_best_resolution

import llava_kit
from llava_kit.core.tiles import Grid
from llava_kit.export import transformers_writer
from llava_kit.export.run import export
from llava_kit.image.geometry import TilingPlan
from llava_kit.image.tiling import TilingOptions

KINDS = {
    "clip": {},
    "siglip": {"tower": "siglip"},
    "qwen2": {"text": "qwen2"},
    "linear": {"connector": {"type": "linear"}},
    "square": {"tiling": {"mode": "square"}},
    "two layers": {"tower": "clip", "layers": [-2, -3]},
    "class token": {"keep_cls": True},
    "next llama": {"anyres": True},
    "next mistral": {"anyres": True, "text": "mistral"},
    "next siglip": {"anyres": True, "tower": "siglip"},
}


def make(folder: Path, name: str):
    keys = dict(KINDS[name])
    layers, keep_cls = keys.pop("layers", None), keys.pop("keep_cls", False)
    block = model_block(folder, **keys)
    if layers:
        block["encoder"]["feature_layer"] = layers
    if keep_cls:
        block["encoder"]["keep_cls"] = True
    return assembled(block)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (model, its exported and verified folder, the outcome); each made once."""
    folder = tmp_path_factory.mktemp("made")
    done = {}

    def get(name: str):
        if name not in done:
            assembly = make(folder, name)
            done[name] = assembly, export(assembly, folder / f"out {name}", verify=True)
        return done[name]

    return get


@pytest.mark.parametrize("name", KINDS)
def test_logits_and_greedy_tokens_are_ours(made, name):
    _, outcome = made(name)
    assert outcome.to == "transformers"
    assert outcome.verification.dtype == "float32"
    for case in outcome.verification.cases:
        assert case.logit_difference <= 1e-4, case
        assert case.largest_logit > 0.5  # nothing to compare otherwise
        assert case.same_tokens, case
        assert case.same_rows, case
        assert case.pixel_difference is None or case.pixel_difference <= 2.5, case


@pytest.mark.parametrize("name", KINDS)
def test_loads_without_a_warning(made, name, caplog):
    _, outcome = made(name)
    logging.getLogger("transformers").propagate = True
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model, info = AutoModelForImageTextToText.from_pretrained(outcome.folder, dtype="auto", output_loading_info=True)
        processor = AutoProcessor.from_pretrained(outcome.folder)
        AutoTokenizer.from_pretrained(outcome.folder)
        image = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}], add_generation_prompt=True
        )
        inputs = processor(text=text, images=[image], return_tensors="pt")
        model.generate(**inputs, max_new_tokens=2)
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("transformers")]
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))


@pytest.mark.parametrize("name", ["clip", "siglip", "next llama", "next mistral", "qwen2"])
def test_export_and_load_give_the_same_bits(made, name):
    assembly, outcome = made(name)
    again = llava_kit.load_model(outcome.folder)
    ours, theirs = assembly.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key][: len(tensor)] if tensor.ndim else theirs[key]), key


def test_export_load_export_is_the_same_file(made, tmp_path):
    _, outcome = made("clip")
    again = export(llava_kit.load_model(outcome.folder), tmp_path / "again")
    assert (again.folder / "model.safetensors").read_bytes() == (outcome.folder / "model.safetensors").read_bytes()
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (outcome.folder, again.folder))
    assert first == second


def test_processor_and_generate_say_what_our_chat_says(made, tmp_path):
    """Through the processor, the chat template and `generate` of transformers, on the folder as it lies there."""
    for name in ("qwen2", "next mistral", "clip"):
        _, outcome = made(name)
        pixels = np.random.default_rng(4).integers(0, 255, (30, 50, 3), dtype=np.uint8)
        processor = AutoProcessor.from_pretrained(outcome.folder)
        model = AutoModelForImageTextToText.from_pretrained(outcome.folder, dtype="auto")
        content = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": "What is it?"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        found = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        theirs = processor.decode(found, skip_special_tokens=True).strip()
        ours = llava_kit.load_model(outcome.folder).chat("What is it?", [pixels], max_new_tokens=12)
        assert ours.strip() == theirs.rstrip("�").strip(), name  # our chat shows no half letter
        assert ours


def test_wrong_weights_are_noticed(made):
    """The comparison is able to fail."""
    from llava_kit.export.verify import verify_in_transformers

    assembly, outcome = made("clip")
    linear = assembly.model.connector.chain().maps[0]
    before = linear.weight.detach().clone()
    try:
        with torch.no_grad():
            linear.weight.mul_(1.01)
        found = verify_in_transformers(assembly, outcome.folder)
    finally:
        with torch.no_grad():
            linear.weight.copy_(before)
    assert not found.passed
    text, picture = found.cases[0], found.cases[1]
    assert text.logit_difference <= 1e-4 < picture.logit_difference


def test_tower_is_as_short_as_its_feature_layer(made):
    _, outcome = made("clip")
    config = json.loads((outcome.folder / "config.json").read_text())
    assert config["vision_config"]["num_hidden_layers"] == 3  # of four, the layer before the last is looked at
    assert config["vision_feature_layer"] == -1
    with safe_open(outcome.folder / "model.safetensors", framework="pt") as file:
        assert not any("layers.3." in name for name in file.keys() if name.startswith("vision_tower"))  # noqa: SIM118
        norm = file.get_tensor("vision_tower.vision_model.post_layernorm.weight")
    assert torch.equal(norm, torch.ones_like(norm))


def test_several_layers_keep_their_numbers(made):
    _, outcome = made("two layers")
    assert json.loads((outcome.folder / "config.json").read_text())["vision_feature_layer"] == [3, 2]


def test_what_engines_ask_of_the_files(made):
    """vLLM 0.33 (models/llava.py, llava_next.py): keys of the config, prefixes of the tensors, one token as placeholder."""
    for name in ("clip", "siglip", "next llama"):
        assembly, outcome = made(name)
        there = {path.name for path in outcome.folder.iterdir()}
        assert {"config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"} <= there
        assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors", "README.md"} <= there
        config = json.loads((outcome.folder / "config.json").read_text())
        anyres = name.startswith("next")
        assert config["architectures"] == ["LlavaNextForConditionalGeneration" if anyres else "LlavaForConditionalGeneration"]
        assert config["model_type"] == ("llava_next" if anyres else "llava")
        assert config["vision_feature_select_strategy"] == ("full" if name == "siglip" else "default")
        assert config["vision_config"]["model_type"] in ("clip_vision_model", "siglip_vision_model")
        assert config["vision_config"]["image_size"] % config["vision_config"]["patch_size"] == 0
        assert config["projector_hidden_act"] == "gelu"
        assert config["multimodal_projector_bias"] is True
        assert config["image_seq_length"] == 16
        assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
        assert config["text_config"]["vocab_size"] % 64 == 0
        tokenizer = AutoTokenizer.from_pretrained(outcome.folder)
        assert tokenizer.encode("<image>", add_special_tokens=False) == [config["image_token_index"]]
        assert config["image_token_index"] < config["text_config"]["vocab_size"]
        with safe_open(outcome.folder / "model.safetensors", framework="pt") as file:
            names = set(file.keys())
        prefixes = ("language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.", "multi_modal_projector.")
        assert all(any(each.startswith(prefix) for each in names) for prefix in prefixes)
        assert all(each.startswith(prefixes) or each == "image_newline" for each in names)
        assert ("image_newline" in names) == anyres
        processor = json.loads((outcome.folder / "processor_config.json").read_text())
        assert processor["num_additional_image_tokens"] == (0 if name == "siglip" else 1)
        assert processor["patch_size"] == 7
        generation = json.loads((outcome.folder / "generation_config.json").read_text())
        assert "temperature" not in generation
        assert generation["eos_token_id"] == assembly.tokenizer.eos_token_id


def test_linear_connector_is_two_maps_and_vllm_is_told(made):
    _, outcome = made("linear")
    config = json.loads((outcome.folder / "config.json").read_text())
    assert config["projector_hidden_act"] == "linear"
    row = next(row for row in outcome.engines if row[0].startswith("vLLM"))
    assert "--model-impl transformers" in row[2]


def test_new_rows_are_never_the_likeliest(made):
    assembly, outcome = made("clip")
    old = assembly.model.language_model.head.detach()
    with safe_open(outcome.folder / "model.safetensors", framework="pt") as file:
        head = file.get_tensor("language_model.lm_head.weight")
    assert torch.equal(head[: len(old)], old)
    assert torch.allclose(head[len(old) :], old.mean(dim=0).expand(len(head) - len(old), -1), atol=1e-6)
    hidden = torch.randn(200, old.shape[1], generator=torch.Generator().manual_seed(0))
    assert int((hidden @ head.T).argmax(dim=-1).max()) < len(old)


def test_tied_embeddings_stay_tied(tmp_path):
    block = model_block(tmp_path)
    block["language_model"]["checkpoint"] = str(write_language_model(tmp_path / "tied", tie_word_embeddings=True))
    assembly = assembled(block)
    assert assembly.model.language_model.head is assembly.model.language_model.embedding
    outcome = export(assembly, tmp_path / "out", verify=True)
    model = AutoModelForImageTextToText.from_pretrained(outcome.folder, dtype="auto")
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    with safe_open(outcome.folder / "model.safetensors", framework="pt") as file:
        assert "language_model.lm_head.weight" not in set(file.keys())


@pytest.mark.parametrize("rule", ["llava", "transformers"])
def test_transformers_chooses_our_canvases(tmp_path, rule):
    """The list is written so that its reading as (height, width) gives the canvas of either of our rules, at every size."""
    unlike = ((28, 56), (56, 28), (56, 56), (84, 28), (56, 84))  # not the same read the other way round
    for pinpoints in (tuple(map(tuple, PINPOINTS)), unlike):
        tiling = {"mode": "anyres", "pinpoints": pinpoints, "rule": rule}
        assembly = assembled(model_block(tmp_path, tiling=tiling))
        written = transformers_writer.pinpoints_height_first(assembly)
        plan = TilingPlan(28, TilingOptions(mode="anyres", pinpoints=pinpoints, rule=rule))
        rng = np.random.default_rng(0)
        for width, height in rng.integers(1, 700, (400, 2)).tolist():
            rows, cols = (side // 28 for side in select_best_resolution((height, width), written))
            assert Grid(rows, cols) == plan.grid((width, height)).tiles, (width, height)


def test_all_obstacles_at_once(tmp_path):
    block = model_block(tmp_path, connector={"type": "mlp", "depth": 3})
    block["encoder"] |= {"feature_layer": "last"}
    block["tiling"] = {"mode": "anyres", "pinpoints": PINPOINTS, "merge": "spatial_unpad", "max_tiles": 2}
    siglip = model_block(tmp_path, "siglip")["encoder"] | {"feature_layer": "last"}
    found = transformers_writer.obstacles(assembled({**block, "encoder": siglip}))
    assert [line.partition(":")[0] for line in found] == ["encoder", "connector", "tiling"]
    assert "final norm" in found[0]
    assert "3 linear maps" in found[1]
    assert "max_tiles 2" in found[2]


@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_other_merges_are_refused(tmp_path, merge):
    tiling = {"mode": "anyres", "pinpoints": PINPOINTS, "merge": merge}
    assert f"merge {merge}" in transformers_writer.obstacles(assembled(model_block(tmp_path, tiling=tiling)))[0]


def test_a_range_of_canvases_goes_out_as_a_list(tmp_path):
    tiling = {"mode": "anyres", "pinpoints": "(1x1),...,(3x2)"}
    outcome = export(assembled(model_block(tmp_path, tiling=tiling)), tmp_path / "out", verify=True)
    config = json.loads((outcome.folder / "config.json").read_text())
    assert sorted(config["image_grid_pinpoints"]) == [[28 * h, 28 * w] for h in (1, 2) for w in (1, 2, 3)]
    assert "AnyRes with 6 canvases" in (outcome.folder / "README.md").read_text()
