"""The transformers towers: tiny random ones, held to the contract and to transformers' own hidden states."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import llava_kit_clip
from llava_kit import CheckpointError, Grid, LlavaKitError, PluginError
from llava_kit.testing.contracts import check_encoder
from llava_kit_clip.tower import PRESETS, resolve_layers

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}
MODELS = {
    "clip": ("clip", CLIPVisionConfig, CLIPVisionModel),
    "siglip": ("siglip", SiglipVisionConfig, SiglipVisionModel),
    "dinov2": ("dinov2", Dinov2Config, Dinov2Model),
    "registers": ("dinov2", Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
}
PREFIX = {"clip": 1, "siglip": 0, "dinov2": 1, "registers": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each kind, as transformers writes it."""
    found = {}
    for name, (_, config_class, model_class) in MODELS.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        model_class(config_class(**TINY)).save_pretrained(found[name])
    return found


def build(name, folder, *, weights=True, **options):
    kind = MODELS[name][0]
    options_class = {"clip": "ClipOptions", "siglip": "SiglipOptions", "dinov2": "Dinov2Options"}[kind]
    chosen = getattr(llava_kit_clip, options_class)(checkpoint=str(folder), **options)
    return getattr(llava_kit_clip, f"build_{kind}")(chosen, weights=weights).eval()


@pytest.mark.parametrize("layer", [-2, "last", 1, (1, -2, "last")])
@pytest.mark.parametrize("name", MODELS)
def test_contract(folders, name, layer):
    encoder = build(name, folders[name], feature_layer=layer)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(3, 3)
    assert encoder.spec.width == 32 * (3 if isinstance(layer, tuple) else 1)


@pytest.mark.parametrize("name", MODELS)
def test_same_features_as_transformers(folders, name):
    """Every layer by number from both ends, and the tower's own output."""
    tower = MODELS[name][2].from_pretrained(folders[name]).eval()
    tiles = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    encoder = build(name, folders[name])
    mean, std = (torch.tensor(colour)[:, None, None] for colour in (encoder.spec.mean, encoder.spec.std))
    with torch.no_grad():
        theirs = tower((tiles / 255 - mean) / std, output_hidden_states=True)
        expected = {**dict(enumerate(theirs.hidden_states)), "last": theirs.last_hidden_state}
        expected |= {layer - 4: expected[layer] for layer in range(4)}
        for layer, hidden in expected.items():
            found = build(name, folders[name], feature_layer=layer)(tiles)
            torch.testing.assert_close(found, hidden[:, PREFIX[name] :], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("layer", "depth"), [(-2, 2), (-1, 3), ("last", 3), (1, 1), (0, 0), ((1, 2), 2)])
def test_later_layers_are_not_built(folders, layer, depth):
    assert len(build("clip", folders["clip"], feature_layer=layer).blocks()) == depth


def test_class_token(folders):
    without, with_cls = (build("registers", folders["registers"], keep_cls=keep) for keep in (False, True))
    assert with_cls.spec.grid == Grid(1, 10)
    check_encoder(with_cls)
    tiles = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    assert torch.equal(with_cls(tiles)[:, 1:], without(tiles))
    with pytest.raises(ValidationError):
        build("siglip", folders["siglip"], keep_cls=True)


@pytest.mark.parametrize("name", MODELS)
def test_other_image_size(folders, name):
    encoder = build(name, folders[name], image_size=40)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(5, 5)
    with pytest.raises(PluginError, match="nearest: 40 or 48"):
        build(name, folders[name], image_size=45)


def test_size_that_is_no_multiple_of_the_patch_but_the_checkpoints_own():
    """SigLIP so400m cuts 384 pixels into 27 patches of 14: six pixels are not seen, as in the original."""
    with torch.device("meta"):
        encoder = build("siglip", "google/siglip-so400m-patch14-384", weights=False)
    assert encoder.spec.grid == Grid(27, 27)


def test_tower_of_a_whole_clip(tmp_path):
    """A checkpoint with a text tower, as on the hub: the vision tower is found in it, and the preprocessor's colours."""
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    whole = CLIPModel(CLIPConfig(vision_config=TINY, text_config=text))
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    encoder = build("clip", tmp_path)
    assert encoder.spec.mean == (0.1, 0.2, 0.3)
    assert encoder.spec.std == (0.4, 0.5, 0.6)
    expected = whole.state_dict()["vision_model.encoder.layers.0.mlp.fc1.weight"]
    assert torch.equal(encoder.layers[0].mlp.fc1.weight, expected)


def test_colours_without_a_preprocessor(folders):
    assert build("clip", folders["clip"]).spec.mean == (0.48145466, 0.4578275, 0.40821073)
    assert build("siglip", folders["siglip"]).spec.std == (0.5, 0.5, 0.5)
    assert build("dinov2", folders["dinov2"]).spec.mean == (0.485, 0.456, 0.406)


def test_presets_on_meta():
    """Parameters of the public towers, in millions; -2 leaves the last layer out (12.6 million in CLIP-L)."""
    expected = {"openai/clip-vit-large-patch14-336": (303.5, 290.9), "google/siglip-so400m-patch14-384": (413.0, 397.7)}
    for checkpoint, counts in expected.items():
        for layer, millions in zip((-1, -2), counts):
            name = "siglip" if "siglip" in checkpoint else "clip"
            with torch.device("meta"):
                encoder = build(name, checkpoint, weights=False, feature_layer=layer)
            assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
            assert all(parameter.is_meta for parameter in encoder.parameters())


def test_all_presets_are_configs_of_known_towers():
    for checkpoint, config in PRESETS.items():
        name = config["model_type"].split("_")[0]
        with torch.device("meta"):
            assert build(name, checkpoint, weights=False).blocks()


def test_meta_tower_takes_a_state_dict(folders):
    real = build("clip", folders["clip"])
    with torch.device("meta"):
        hollow = build("clip", folders["clip"], weights=False)
    hollow.load_state_dict(real.state_dict(), assign=True)
    tiles = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    assert torch.equal(hollow(tiles), real(tiles))


def test_half_precision(folders):
    encoder = build("clip", folders["clip"], dtype="bfloat16")
    assert encoder(torch.zeros(1, 3, 24, 24, dtype=torch.uint8)).dtype == torch.bfloat16


def test_missing_and_misshapen_tensors_are_named(folders, tmp_path):
    tensors = load_file(folders["clip"] / "model.safetensors")
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    broken = {name: tensor for name, tensor in tensors.items() if "layers.0.mlp.fc1.bias" not in name}
    broken = {name: tensor[:5] if name.endswith("class_embedding") else tensor for name, tensor in broken.items()}
    save_file(broken, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"missing tensor '.*fc1\.bias'.*class_embedding': found shape \(5,\)|class_emb.*fc1"
    ):
        build("clip", tmp_path)
    # The last layer and the final norm are not needed for layer -2, so they may be absent.
    enough = {name: tensor for name, tensor in tensors.items() if "layers.2." not in name and "post_layernorm" not in name}
    save_file(enough, tmp_path / "model.safetensors", metadata={"format": "pt"})
    check_encoder(build("clip", tmp_path))


def test_another_family_is_named(folders):
    with pytest.raises(PluginError, match="write `type: siglip`"):
        build("clip", folders["siglip"])


def test_variable_resolution_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(PluginError, match="take a fixed one"):
        build("siglip", tmp_path, weights=False)


def test_unknown_checkpoint_names_the_nearest_preset():
    with pytest.raises(PluginError, match="did you mean 'openai/clip-vit-large-patch14-336'"):
        build("clip", "openai/clip-vit-large-patch14-337", weights=False)


def test_layers_that_do_not_exist(tmp_path):
    assert resolve_layers((-4, 3), 3) == [(0, False), (3, False)]
    with pytest.raises(PluginError, match=r"found -5, but the tower has 3 layers"):
        resolve_layers((-5,), 3)
    with pytest.raises(PluginError, match="empty list"):
        resolve_layers((), 3)


def test_colours_that_are_none(folders, tmp_path):
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": "grey"}')
    with pytest.raises(LlavaKitError, match="image_mean: expected three numbers"):
        build("clip", tmp_path, weights=False)


def test_without_the_first_patch(folders):
    """What TinyLLaVA does with SigLIP, and transformers' Llava with `default`: the first row is taken for a class token."""
    whole, rest = build("siglip", folders["siglip"]), build("siglip", folders["siglip"], without_first=True)
    tiles = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    assert torch.equal(rest(tiles), whole(tiles)[:, 1:])
    assert rest.spec.grid == Grid(1, 8)
    assert rest.published().num_prefix == 1
    check_encoder(rest)
