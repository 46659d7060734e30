"""Folders of the original repositories load as what they are: logits equal those of the models they were made of."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from folders import TILE, clip_config, make_model, make_tokenizer, siglip_config, text_config
from originals import (
    ANYRES,
    linear_projector,
    original_config,
    original_tensors,
    write_connector,
    write_json,
    write_language_model,
    write_tower,
    write_weights,
    write_whole,
)
from PIL import Image
from transformers import MistralConfig, MptConfig, MptForCausalLM, Qwen2Config

import llava_kit
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.data.collate import collate
from llava_kit.exchange.foreign import LoadOptions
from llava_kit.exchange.load import describe
from llava_kit.exchange.original_config import read_original_config
from llava_kit.exchange.original_reader import is_original
from llava_kit.exchange.original_tower import find_tower
from llava_kit.exchange.template_choice import choose_template
from llava_kit.exchange.tensors import MemoryTensors

TOLERANCE = 1e-4
PICTURES = {"one picture": [(50, 40)], "two pictures": [(31, 64), (90, 33)], "text only": []}


def sample_of(sizes):
    noise = np.random.default_rng(3)
    pixels = [noise.integers(0, 255, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    images = tuple(ImagePixels(lambda array=array: array, (array.shape[1], array.shape[0])) for array in pixels)
    parts = [part for number in range(len(sizes)) for part in (ImageSlot(number), "\n")]
    return Sample("asked", Conversation((Message("user", (*parts, "What is it?")),)), images)


def logits_of_both(assembly, model, sizes):
    """Ours, and transformers' for the same token ids and the same pixels. [S, vocab] each."""
    example = assembly.examples().make(sample_of(sizes), reply=True)
    vocab = assembly.model.language_model.embedding.shape[0]
    batch = collate([example], side=assembly.side, vocab=vocab)
    with torch.inference_mode():
        ours = assembly.model.language_model.logits(assembly.model(batch.tiles, batch.plan, batch.position_ids))[0]
    plan = batch.plan
    ids = torch.full((plan.shape[1],), model.config.image_token_index)
    ids[plan.text_positions] = plan.text_ids
    inputs = {"input_ids": ids[None]}
    if sizes:
        tiles = torch.from_numpy(example.tiles)
        pixels = assembly.model.encoder.normalise(tiles, torch.float32)
        if model.config.model_type == "llava_next":
            counts = [grid.num_tiles for grid in example.seating.grids]
            rows = pixels.split(counts)
            most = max(counts)
            pixels = torch.stack([torch.cat([row, row.new_zeros(most - len(row), *row.shape[1:])]) for row in rows])
            inputs["image_sizes"] = torch.tensor([(height, width) for width, height in sizes])
        inputs["pixel_values"] = pixels
    with torch.inference_mode():
        theirs = model(**inputs).logits[0]
    length = example.length
    return ours[:length], theirs[:length]


def assert_same(assembly, model):
    for sizes in PICTURES.values():
        ours, theirs = logits_of_both(assembly, model, sizes)
        assert theirs.abs().max() > 0.5
        assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.fixture(scope="module")
def v15():
    return make_model()


@pytest.fixture(scope="module")
def tower(v15, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower"), v15)


@pytest.fixture(scope="module")
def base(v15, tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("base"), v15)


def test_v1_is_one_linear_map_and_cropped_pictures(tmp_path):
    model = make_model(seed=4)
    linear_projector(model)
    tower = write_tower(tmp_path / "clip", model)
    folder = write_whole(tmp_path / "v1", model, tower, mm_projector_type=None, image_aspect_ratio=None)
    assembly = llava_kit.load_model(folder)
    assert assembly.recipe_model.tiling.mode == "square"
    assert assembly.recipe_model.connector.type == "linear"
    assert assembly.recipe_model.template.type == "v1"
    assert any("image_aspect_ratio" in note for note in describe(folder, LoadOptions()).notes)
    assert_same(assembly, model)


def test_v15_is_padded(v15, tower, tmp_path):
    assembly = llava_kit.load_model(write_whole(tmp_path / "x", v15, tower, image_aspect_ratio="pad"))
    assert assembly.recipe_model.tiling.mode == "pad"
    assert_same(assembly, v15)


@pytest.mark.parametrize("how", [{"pickled": True}, {"shards": 3}, {"pickled": True, "shards": 2}], ids=str)
def test_pickles_and_shards(v15, tower, tmp_path, how):
    folder = write_whole(tmp_path / "x", v15, tower, image_aspect_ratio="pad", **how)
    assert_same(llava_kit.load_model(folder), v15)


def test_v16_on_mistral_with_the_tower_inside(tmp_path):
    model = make_model(anyres=True, text=text_config(MistralConfig), seed=2)
    # Only the tower's config is needed, its weights lie in the checkpoint.
    tower = write_tower(tmp_path / "clip", model)
    (tower / "model.safetensors").unlink()
    folder = write_whole(tmp_path / "v16", model, tower, inside=True, **ANYRES)
    assembly = llava_kit.load_model(folder)
    assert assembly.recipe_model.template.type == "mistral_instruct"
    assert assembly.recipe_model.tiling.mode == "anyres"
    assert_same(assembly, model)


@pytest.mark.parametrize("pinpoints", ["[(28, 56), (56, 28), (56, 56)]", "(1x1),...,(3x3)"])
def test_pinpoints_as_text(tmp_path, pinpoints):
    model = make_model(anyres=True)
    tower = write_tower(tmp_path / "clip", model)
    folder = write_whole(tmp_path / "x", model, tower, **{**ANYRES, "image_grid_pinpoints": pinpoints})
    tiler = llava_kit.load_model(folder).tiler
    assert tiler.plan((3 * TILE, TILE)).tiles.cols == (3 if "x" in pinpoints else 2)


def test_siglip_loses_its_last_layer_whatever_the_config_says(tmp_path):
    """LLaVA-NeXT on SigLIP and Qwen2: the tower inside has one layer less than the tower that its name stands for."""
    model = make_model(anyres=True, vision=siglip_config(), text=text_config(Qwen2Config), vision_feature_layer=-2)
    tower = write_tower(tmp_path / "siglip", model)
    keys = {"image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": "(1x1),...,(6x6)", "mm_vision_select_layer": -1}
    for inside in (False, True):
        folder = write_whole(tmp_path / f"ov_{inside}", model, tower, inside=inside, **{**ANYRES, **keys})
        assembly = llava_kit.load_model(folder)
        block = assembly.recipe_model
        assert block.tiling.max_tiles == 9
        assert block.tiling.several == "pad"
        assert block.template.type == "qwen_1_5"
        assert block.encoder.options["feature_layer"] == (3 if not inside else -1)


def test_a_cut_siglip_tower_inside(tmp_path):
    model = make_model(vision=siglip_config(), vision_feature_layer=-2)
    tower = write_tower(tmp_path / "siglip", model)
    tensors = {name: value for name, value in original_tensors(model).items() if ".encoder.layers.3." not in name}
    folder = tmp_path / "next"
    write_weights(folder, tensors)
    write_json(folder / "config.json", original_config(model, str(tower), mm_vision_select_layer=-1))
    make_tokenizer().save_pretrained(folder)
    assembly = llava_kit.load_model(folder)
    assert assembly.recipe_model.tiling.mode == "resize"
    assert_same(assembly, model)


def test_a_connector_alone_on_its_base(v15, tower, base, tmp_path):
    folder = write_connector(tmp_path / "stage_1", v15, tower)
    assembly = llava_kit.load_model(folder, base=str(base))
    assert assembly.recipe_model.template.type == "plain"
    assembly = llava_kit.load_model(folder, base=str(base), template="v1")
    assert_same(assembly, v15)


def test_a_connector_without_a_config(v15, tower, base, tmp_path):
    folder = write_connector(tmp_path / "stage_1", v15, tower)
    (folder / "config.json").unlink()
    assembly = llava_kit.load_model(folder, base=str(base), encoder=str(tower), template="v1")
    assert_same(assembly, v15)


def test_names_say_nothing(v15, tower, tmp_path):
    folder = write_whole(tmp_path / "llava-v1.6-mistral-lora-mpt", v15, tower, image_aspect_ratio="pad")
    one = llava_kit.load_model(folder)
    two = llava_kit.load_model(shutil.copytree(folder, tmp_path / "x"))
    for key in ("connector", "tiling", "template"):
        assert getattr(one.recipe_model, key) == getattr(two.recipe_model, key)
    assert_same(two, v15)


def test_class_token_and_several_layers(v15, tower, tmp_path):
    model = make_model(vision_feature_select_strategy="full", vision_feature_layer=1, seed=7)
    tower = write_tower(tmp_path / "clip", model)
    keys = {"mm_vision_select_feature": "cls_patch", "mm_vision_select_layer": 1}
    assert_same(llava_kit.load_model(write_whole(tmp_path / "x", model, tower, **keys)), model)
    model = make_model(vision_feature_layer=[0, 1, 2, 3, 4], vision=clip_config(), seed=8)
    tower = write_tower(tmp_path / "clip4", model)
    folder = write_whole(tmp_path / "y", model, tower, mm_vision_select_feature="slicefour_patch", mm_vision_select_layer=-1)
    assert_same(llava_kit.load_model(folder), model)
    several = read_original_config({"mm_vision_select_feature": "slice_m25811_f6_patch", "mm_vision_select_layer": -2}, "x")
    assert several.layers(24) == (-2, -5, -8, -11, 6)  # clip_encoder.py of LLaVA-NeXT


def test_pictures_are_read_upright_by_the_same_tiler(v15, tower, tmp_path):
    assembly = llava_kit.load_model(write_whole(tmp_path / "x", v15, tower, image_aspect_ratio="pad"))
    tiles, _ = assembly.tiler.cut(Image.new("RGB", (10, 40), (255, 0, 0)))
    assert tiles[0, :, 0, 0].tolist() == [122, 116, 104]  # the mean colour of CLIP


def test_mpt_has_names_of_its_own(v15, tower, tmp_path):
    """The original puts connector and tower below MPT's own word, `transformer`; the head is the embedding."""
    mpt = MptForCausalLM(MptConfig(d_model=48, n_heads=4, n_layers=2, vocab_size=768, max_seq_len=256)).eval()
    tensors = {name: value for name, value in mpt.state_dict().items() if name != "lm_head.weight"}
    for name, value in original_tensors(v15, tower=False).items():
        if "mm_projector" in name:
            tensors[name.replace("model.", "transformer.")] = value
    folder = tmp_path / "x"
    write_weights(folder, tensors, pickled=True)
    keys = {key: value for key, value in original_config(v15, str(tower)).items() if key.startswith("mm_")}
    config = json.loads(mpt.config.to_json_string(use_diff=False))
    write_json(folder / "config.json", {**config, **keys, "model_type": "llava_mpt", "init_config": {"name": "kaiming"}})
    make_tokenizer().save_pretrained(folder)
    assembly = llava_kit.load_model(folder)
    assert assembly.recipe_model.template.type == "mpt"
    language_model = assembly.model.language_model
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        hidden = language_model(language_model.embedding[ids], torch.arange(20)[None])
        assert (language_model.logits(hidden) - mpt(ids).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json", "tokenizer.json"])
def test_the_template_follows_from_tokens_in_whichever_file(v15, tower, tmp_path, file):
    """v1.6 on Yi-34B: a Llama by its config, ChatML by its tokenizer, which has no tokenizer.json."""
    token = {"content": "<|im_start|>"}
    for name in ("tokenizer_config.json", "added_tokens.json", "tokenizer.json"):
        write_json(tmp_path / name, {})
    write_json(
        tmp_path / file,
        {
            "tokenizer_config.json": {"added_tokens_decoder": {"6": token}},
            "added_tokens.json": {"<|im_start|>": 6},
            "tokenizer.json": {"added_tokens": [token]},
        }[file],
    )
    part, _ = choose_template(tmp_path, "llama", wanted=None, tokenisation="chunks")
    assert part.type == "chatml_direct"


def test_what_is_no_original_folder(tmp_path):
    assert not is_original(tmp_path, {"model_type": "gemma3", "mm_tokens_per_image": 256})
    assert is_original(tmp_path, {"model_type": "llava", "mm_vision_tower": "x"})


def test_well_known_towers_need_no_network(tmp_path):
    """v1.6 and OneVision: the weights lie in the checkpoint, the config only names the tower."""
    inside = MemoryTensors({"embeddings.patch_embedding.weight": torch.empty(1, device="meta")}, "x")
    clip = find_tower(tmp_path, "openai/clip-vit-large-patch14-336", None, inside)
    assert (clip.kind, clip.depth, clip.config["image_size"]) == ("clip", 24, 336)
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    siglip = find_tower(tmp_path, "google/siglip-so400m-patch14-384", None, inside)
    assert (siglip.kind, siglip.depth, siglip.mean) == ("siglip", 27, (0.5, 0.5, 0.5))


def test_nothing_is_said_twice(v15, tower, tmp_path, caplog):
    """transformers has its own opinion on a config of model_type llava_llama."""
    llava_kit.load_model(write_whole(tmp_path / "x", v15, tower))
    assert not caplog.records


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_types_of_weights(v15, tower, tmp_path, dtype):
    """As they are stored, or as asked for; the base's for what lies in the base."""
    folder = write_whole(tmp_path / "x", copy.deepcopy(v15).bfloat16(), tower)
    model = llava_kit.load_model(folder, dtype=dtype).model
    wanted = torch.bfloat16 if dtype is None else torch.float16
    assert {parameter.dtype for parameter in model.language_model.parameters()} == {wanted}
    assert {parameter.dtype for parameter in model.connector.parameters()} == {wanted}
    assert next(model.encoder.parameters()).dtype == (torch.float32 if dtype is None else torch.float16)


def test_clips_are_looked_at_as_the_config_says(tmp_path):
    model = make_model(anyres=True)
    keys = {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid", "frames_upbound": 8}
    folder = write_whole(tmp_path / "x", model, write_tower(tmp_path / "clip", model), **ANYRES, **keys)
    video = llava_kit.load_model(folder).recipe_model.tiling.video
    assert (video.frames, video.frame, video.pool, video.newline) == (8, "square", "average", "grid")
