"""What can be wrong with an original folder: one clear error each, all problems at once where there are several."""

from __future__ import annotations

import json
import os

import pytest
import torch
from folders import make_model, make_tokenizer
from originals import ANYRES, write_connector, write_json, write_language_model, write_tower, write_whole
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

import llava_kit
from llava_kit import CheckpointError, LlavaKitError
from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tower(model, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower"), model)


@pytest.fixture
def whole(model, tower, tmp_path):
    return write_whole(tmp_path / "whole", model, tower, image_aspect_ratio="pad")


def refused(folder, **options):
    with pytest.raises(CheckpointError) as error:
        llava_kit.load_model(folder, **options)
    return str(error.value)


def change_config(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **keys})


def test_everything_unknown_in_a_config_at_once(whole):
    change_config(
        whole,
        mm_projector_type="mlp2x_glue",
        image_aspect_ratio="anyres_max_x",
        mm_patch_merge_type="spatial_unpda",
        mm_vision_select_feature="pacth",
        mm_vision_select_layer="last",
        mm_resampler_type="perceiver",
    )
    message = refused(whole)
    for part in ("did you mean 'mlp2x_gelu'?", "'anyres_max_x'", "'spatial_unpad'?", "'patch'?", "'last'", "'perceiver'"):
        assert part in message


@pytest.mark.parametrize("projector", ["pooler", "mlp2x_res2x_gelu", "mlp0x_gelu"])
def test_connectors_that_cannot_be_read(whole, projector):
    change_config(whole, mm_projector_type=projector)
    assert f"mm_projector_type: found '{projector}'" in refused(whole)


@pytest.mark.parametrize("pinpoints", [None, [], "many", [[28]], [[28, "x"]], "(2x2),...,(1x1)", 5])
def test_pinpoints(whole, pinpoints):
    change_config(whole, **{**ANYRES, "image_grid_pinpoints": pinpoints})
    assert "image_grid_pinpoints" in refused(whole)


def test_a_language_model_that_transformers_does_not_have(whole):
    change_config(whole, model_type="llava_lama")
    assert "did you mean 'llama'?" in refused(whole)


def test_a_tensor_too_few_too_many_and_of_another_shape(whole):
    tensors = load_file(whole / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.9.mlp.up_proj.weight"] = torch.ones(2, 2)
    tensors["model.mm_projector.0.weight"] = torch.ones(5, 6)
    save_file(tensors, whole / "model.safetensors")
    message = refused(whole)
    assert "missing tensor 'model.norm.weight'" in message
    assert "'model.layers.9.mlp.up_proj.weight' of shape (2, 2) has no place" in message
    assert "(5, 6)" in message
    assert "(48, 32)" in message


def test_no_newline_row_though_merge_says_so(whole):
    change_config(whole, **ANYRES)
    assert "missing tensor 'image_newline'" in refused(whole)


def test_truncated_and_missing_weights(whole):
    file = whole / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "is it whole?" in refused(whole)
    file.unlink()
    assert "found no weights" in refused(whole)


def test_code_in_a_connector_is_not_run(model, tower, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    base = write_language_model(tmp_path / "base", model)
    folder = write_connector(tmp_path / "connector", model, tower)
    torch.save({"model.mm_projector.0.weight": Harmful()}, folder / "mm_projector.bin")
    assert "objects or code" in refused(folder, base=str(base))
    assert not (tmp_path / "harm").exists()


def test_a_connector_without_its_base(model, tower, tmp_path):
    folder = write_connector(tmp_path / "connector", model, tower, _name_or_path="lmsys/vicuna-7b-v1.5")
    message = refused(folder)
    assert "option `base`" in message
    assert "lmsys/vicuna-7b-v1.5" in message


def test_a_base_that_is_a_llava_of_transformers(model, tower, tmp_path):
    folder = write_connector(tmp_path / "connector", model, tower)
    write_json(tmp_path / "hf" / "config.json", {"model_type": "llava", "text_config": {"model_type": "llama"}})
    assert "found a llava model of transformers" in refused(folder, base=str(tmp_path / "hf"))


def test_stumps_of_a_sharded_run(model, tower, tmp_path):
    base = write_language_model(tmp_path / "base", model)
    folder = write_connector(tmp_path / "connector", model, tower)
    torch.save({"model.mm_projector.0.weight": torch.empty(0)}, folder / "mm_projector.bin")
    assert "did not gather its weights" in refused(folder, base=str(base))


@pytest.mark.parametrize("named", [None, "somebody/tower", "/nowhere/clip"])
def test_a_tower_that_is_not_here(whole, named, tower):
    change_config(whole, mm_vision_tower=named)
    assert "option `encoder`" in refused(whole)
    llava_kit.load_model(whole, encoder=str(tower))


def test_a_known_tower_without_weights_and_network(whole):
    change_config(whole, mm_vision_tower="openai/clip-vit-large-patch14-336")
    message = refused(whole)
    assert "holds no weights of its encoder" in message
    assert "option `encoder`" in message


def test_a_tower_beside_the_weights(model, tmp_path):
    """A path is looked for in the checkpoint's folder, wherever that was moved to."""
    folder = write_whole(tmp_path / "whole", model, "vision", image_aspect_ratio="pad")
    write_tower(folder / "vision", model)
    assert "option `encoder`" not in str(llava_kit.load_model(folder).recipe_model)


def test_marks_need_their_tokens(whole):
    change_config(whole, mm_use_im_start_end=True)
    assert "no <im_start> and no <im_end>" in refused(whole)


@pytest.mark.parametrize(("extra", "template"), [(["[PAD]"], "v0"), ([], "v1")])
def test_marks_around_pictures(tower, tmp_path, extra, template):
    """v0 and early v1 checkpoints; the marks are special tokens of the prompt."""
    tokenizer = make_tokenizer()
    marks = [AddedToken(text, special=True, normalized=False) for text in [*extra, "<im_start>", "<im_end>"]]
    tokenizer.add_tokens(marks, special_tokens=True)
    folder = write_whole(tmp_path / "v0", make_model(), tower, mm_use_im_start_end=True)
    tokenizer.save_pretrained(folder)
    rows = len(tokenizer)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.ones(8, 48)])[: max(rows, 768)]
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, vocab_size=max(rows, 768))
    assembly = llava_kit.load_model(folder)
    assert assembly.recipe_model.template.type == template
    pieces = assembly.template.render(Conversation((Message("user", (ImageSlot(0), "\nQ")),)), reply=True)
    place = pieces.index(ImageSlot(0))
    assert pieces[place - 1] == Segment("<im_start>", special=True)
    assert pieces[place + 1] == Segment("<im_end>", special=True)


def test_prismatic_is_recognised(tmp_path):
    names = {"vision_backbone_id": "siglip", "llm_backbone_id": "llama2", "arch_specifier": "gelu-mlp"}
    for number, config in enumerate(({"model": names}, {"model_type": "prismatic", **names})):
        folder = tmp_path / str(number)
        write_json(folder / "config.json", config)
        assert "is a prismatic checkpoint" in refused(folder)


def test_a_template_that_nobody_has(whole):
    with pytest.raises(LlavaKitError, match="did you mean 'v1'"):
        llava_kit.load_model(whole, template="v11")
