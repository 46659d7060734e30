"""timm's towers: tiny ones by overriding their sizes, held to the contract and to timm's own features."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from llava_kit import CheckpointError, Grid, PluginError
from llava_kit.testing.contracts import check_encoder
from llava_kit_timm import TimmOptions, build_timm

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2}


def build(model="vit_tiny_patch16_224", weights=False, arguments=SMALL, **options):
    torch.manual_seed(0)
    chosen = TimmOptions(model=model, arguments=arguments, **{"image_size": 48, **options})
    return build_timm(chosen, weights=weights).eval()


@pytest.mark.parametrize("layer", [-2, "last", 1, (3, 1, "last")])
def test_contract(layer):
    encoder = build(feature_layer=layer)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(3, 3)
    assert encoder.spec.width == 24 * (3 if isinstance(layer, tuple) else 1)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("vit_base_patch16_siglip_224", SMALL),  # no class token
        ("vit_small_patch14_reg4_dinov2", SMALL),
        ("deit_tiny_distilled_patch16_224", SMALL),
        ("eva02_tiny_patch14_224", SMALL),
        ("beit_base_patch16_224", SMALL),
        ("vit_small_patch16_dinov3", SMALL),
    ],
)
def test_other_families(model, arguments):
    size = 42 if "patch14" in model else 48
    encoder = build(model, arguments=arguments, image_size=size)
    check_encoder(encoder)
    assert encoder.spec.grid == Grid(3, 3)


def test_same_features_as_timm():
    torch.manual_seed(0)
    tower = timm.create_model("vit_tiny_patch16_224", img_size=48, **SMALL).eval()
    tiles = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    seen = []
    for block in tower.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        last = tower.forward_features(tiles / 255 * 2 - 1)
        for layer, expected in {1: seen[0], -2: seen[1], -1: seen[2], "last": last}.items():
            encoder = build(feature_layer=layer)
            encoder.tower.load_state_dict(tower.state_dict(), strict=False)
            torch.testing.assert_close(encoder(tiles), expected[:, 1:], atol=1e-5, rtol=1e-4)


def test_class_token():
    with_cls = build("vit_small_patch14_reg4_dinov2", image_size=42, keep_cls=True)
    assert with_cls.spec.grid == Grid(1, 10)
    check_encoder(with_cls)
    without = build("vit_small_patch14_reg4_dinov2", image_size=42)
    tiles = torch.randint(0, 256, (1, 3, 42, 42), dtype=torch.uint8)
    assert torch.equal(with_cls(tiles)[:, 1:], without(tiles))
    with pytest.raises(PluginError, match="has no class token"):
        build("vit_base_patch16_siglip_224", keep_cls=True)


def test_later_blocks_are_left_out():
    assert len(build(feature_layer=-2).blocks()) == 2


def test_meta():
    with torch.device("meta"):
        encoder = build_timm(TimmOptions(model="vit_large_patch14_clip_336.openai", feature_layer=-1), weights=False)
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(303.5, abs=0.05)
    assert encoder.spec.mean == (0.48145466, 0.4578275, 0.40821073)
    assert encoder.spec.grid == Grid(24, 24)


def test_half_precision():
    assert build(dtype="bfloat16")(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).dtype == torch.bfloat16


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    """From a classifier of another picture size: the head is left out, the positions are resized."""
    torch.manual_seed(1)
    tensors = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7, **SMALL).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    encoder = build(weights=True, weights_file=str(path), feature_layer="last")
    for name in ("blocks.2.mlp.fc1.weight", "norm.weight", "patch_embed.proj.weight"):
        assert torch.equal(encoder.tower.state_dict()[name], tensors[name])
    check_encoder(encoder)


def test_files_that_do_not_fit(tmp_path):
    tensors = build().tower.state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if name != "blocks.1.mlp.fc1.bias"}, path)
    with pytest.raises(CheckpointError, match=r"lacks .* blocks\.1\.mlp\.fc1\.bias"):
        build(weights=True, weights_file=str(path))
    save_file({**tensors, "blocks.1.mlp.fc1.bias": torch.zeros(5)}, path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        build(weights=True, weights_file=str(path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be loaded"):
        build(weights=True, weights_file=str(path))
    with pytest.raises(CheckpointError, match="found no file"):
        build(weights=True, weights_file=str(tmp_path / "none.pth"))


def test_random_start_may_be_asked_for():
    check_encoder(build(weights=True, pretrained=False))


def test_names_that_are_wrong():
    with pytest.raises(PluginError, match="did you mean 'vit_tiny_patch16_224'"):
        build("vit_tiny_patch16_244")
    with pytest.raises(PluginError, match="is no plain vision transformer"):
        build("convnext_tiny", arguments={}, image_size=None)
    with pytest.raises(PluginError, match="3 blocks; expected 1 to 3"):
        build(feature_layer=0)
    with pytest.raises(PluginError, match="timm cannot create"):
        build(arguments={"colour": 3})
