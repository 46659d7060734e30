"""open_clip's towers: tiny ones from small model configs, held to the contract and to open_clip's own features."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from llava_kit import CheckpointError, Grid, PluginError
from llava_kit.testing.contracts import check_encoder
from llava_kit_open_clip import OpenClipOptions, build_open_clip

TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
VISION = {"image_size": 48, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16}
TIMM = {"image_size": 48, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Two small architectures: open_clip's own transformer, and one of timm's that open_clip wraps."""
    folder = tmp_path_factory.mktemp("configs")
    found = {}
    for name, vision in (("own", VISION), ("timm", TIMM)):
        found[name] = folder / f"llava-kit-test-{name}.json"
        found[name].write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}))
        open_clip.add_model_config(found[name])
    return found


@pytest.fixture(scope="module")
def files(configs, tmp_path_factory):
    """Weights of both, as open_clip would save them."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        found[name] = folder / f"{name}.safetensors"
        save_file(open_clip.create_model(config.stem).state_dict(), found[name])
    return found


def build(architecture, pretrained=None, **options):
    chosen = OpenClipOptions(architecture=str(architecture), pretrained=pretrained and str(pretrained), **options)
    return build_open_clip(chosen, weights=pretrained is not None).eval()


@pytest.mark.parametrize("layer", [-2, "last", 1, (2, 1, "last")])
@pytest.mark.parametrize("name", ["own", "timm"])
def test_contract(configs, files, name, layer):
    encoder = build(configs[name], files[name], feature_layer=layer)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(3, 3)


@pytest.mark.parametrize("name", ["own", "timm"])
def test_same_features_as_open_clip(configs, files, name):
    whole = open_clip.create_model(configs[name].stem, pretrained=str(files[name])).eval().visual
    blocks = whole.trunk.blocks if name == "timm" else whole.transformer.resblocks
    prefix = whole.trunk.num_prefix_tokens if name == "timm" else 1
    norm = whole.trunk.norm if name == "timm" else whole.ln_post
    seen = []
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tiles = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    encoder = build(configs[name], files[name])
    mean, std = (torch.tensor(colour)[:, None, None] for colour in (encoder.spec.mean, encoder.spec.std))
    with torch.no_grad():
        whole((tiles / 255 - mean) / std)
        expected = {1: seen[0], -2: seen[-2], -1: seen[-1], "last": norm(seen[-1])}
        for layer, hidden in expected.items():
            found = build(configs[name], files[name], feature_layer=layer)(tiles)
            torch.testing.assert_close(found, hidden[:, prefix:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["own", "timm"])
def test_class_token(configs, files, name):
    with_cls = build(configs[name], files[name], keep_cls=True)
    assert with_cls.spec.grid == Grid(1, 10)
    check_encoder(with_cls)
    tiles = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(with_cls(tiles)[:, 1:], build(configs[name], files[name])(tiles))


def test_other_image_size(configs, files):
    encoder = build(configs["own"], files["own"], image_size=80)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(5, 5)


def test_later_blocks_pooling_and_projection_are_left_out(configs):
    encoder = build(configs["own"])
    assert len(encoder.blocks()) == 2
    assert not [name for name, _ in encoder.named_parameters() if name.startswith(("tower.proj", "tower.ln_post"))]


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [("ViT-L-14-336", 303.5), ("ViT-H-14", 630.8), ("ViT-SO400M-14-SigLIP-384", 413.0), ("xlm-roberta-base-ViT-B-32", 87.5)],
)
def test_architectures_on_meta(architecture, millions):
    with torch.device("meta"):
        encoder = build(architecture, feature_layer=-1)
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert all(parameter.is_meta for parameter in encoder.parameters())


def test_what_a_tag_says_of_its_weights():
    """OpenAI's weights want the quick GELU, SigLIP's pixels from -1 to 1, also when only the architecture is made."""
    quick, exact = (
        build_open_clip(OpenClipOptions(architecture="ViT-B-32", pretrained=tag), weights=False)
        for tag in ("openai", "laion2b_s34b_b79k")
    )
    assert type(quick.blocks()[0].mlp.gelu).__name__ == "QuickGELU"
    assert type(exact.blocks()[0].mlp.gelu).__name__ == "GELU"
    with torch.device("meta"):
        options = OpenClipOptions(architecture="ViT-B-16-SigLIP", pretrained="webli")
        assert build_open_clip(options, weights=False).spec.std == (0.5, 0.5, 0.5)


def test_folder(configs, files, tmp_path):
    config = json.loads(configs["own"].read_text())
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})
    )
    options = OpenClipOptions(architecture=str(tmp_path))
    with pytest.raises(CheckpointError, match="open_clip cannot make"):
        build_open_clip(options, weights=True)
    (tmp_path / "open_clip_model.safetensors").write_bytes(files["own"].read_bytes())
    encoder = build_open_clip(options, weights=True).eval()
    check_encoder(encoder)
    assert encoder.spec.mean == (0.1, 0.2, 0.3)
    with pytest.raises(PluginError, match="which has its own weights"):
        build(tmp_path, "openai")


def test_half_precision(configs, files):
    tiles = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    assert build(configs["own"], files["own"], dtype="bfloat16")(tiles).dtype == torch.bfloat16


def test_files_that_do_not_fit(configs, tmp_path):
    tensors = open_clip.create_model(configs["own"].stem).state_dict()
    path = tmp_path / "weights.safetensors"
    name = "visual.transformer.resblocks.1.mlp.c_fc.bias"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=name):
        build(configs["own"], path)
    save_file({**tensors, name: torch.zeros(5)}, path)
    with pytest.raises(CheckpointError, match=name):
        build(configs["own"], path)


def test_names_that_are_wrong(configs):
    with pytest.raises(PluginError, match="did you mean 'ViT-L-14'"):
        build("ViT-L14")
    with pytest.raises(PluginError, match="did you mean 'laion2b_s32b_b82k'"):
        build("ViT-L-14", "laion2b_s32b_b82")
    with pytest.raises(PluginError, match=r"pretrained: missing; tags of ViT-L-14: .*openai"):
        build_open_clip(OpenClipOptions(architecture="ViT-L-14"), weights=True)
    with pytest.raises(PluginError, match="is no plain vision transformer"):
        build("RN50")
    with pytest.raises(PluginError, match="found no file"):
        build("nowhere.json")
    with pytest.raises(PluginError, match="3 blocks; expected 1 to 3"):
        build(configs["own"], feature_layer=4)
