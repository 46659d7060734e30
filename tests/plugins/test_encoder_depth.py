"""No tower runs a layer behind the one whose output is taken: such layers are not even built."""

from __future__ import annotations

import json

import pytest
import torch

from llava_kit_clip import ClipOptions, build_clip
from llava_kit_open_clip import OpenClipOptions, build_open_clip
from llava_kit_timm import TimmOptions, build_timm

DEPTH = 4
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": DEPTH}
CLIP |= {"num_attention_heads": 2, "image_size": 48, "patch_size": 16}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 48, "layers": DEPTH, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture
def build(tmp_path):
    def make(kind: str, layer):
        if kind == "clip":
            return build_clip(ClipOptions(checkpoint=None, config=CLIP, feature_layer=layer), weights=False)
        if kind == "timm":
            sizes = {"embed_dim": 24, "depth": DEPTH, "num_heads": 2}
            options = TimmOptions(model="vit_tiny_patch16_224", arguments=sizes, image_size=48, feature_layer=layer)
            return build_timm(options, weights=False)
        config = tmp_path / "llava-kit-depth.json"
        config.write_text(json.dumps(OPEN_CLIP))
        return build_open_clip(OpenClipOptions(architecture=str(config), feature_layer=layer), weights=False)

    return make


@pytest.mark.parametrize(("layer", "deepest"), [(-2, 3), (-1, 4), (1, 1), ((1, -3), 2)])
@pytest.mark.parametrize("kind", ["clip", "open_clip", "timm"])
def test_later_layers_are_neither_built_nor_run(build, kind, layer, deepest):
    encoder = build(kind, layer)
    calls = []
    for module in encoder.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: calls.append(module))
    features = encoder(torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8))
    assert len(encoder.blocks()) == deepest
    in_blocks = [module for block in encoder.blocks() for module in block.modules()]
    assert {id(module) for module in calls} & {id(module) for module in in_blocks}
    # Whatever is built has a part in the features: nothing was computed, or kept, for nobody.
    features.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    norms = [module for module in calls if isinstance(module, torch.nn.LayerNorm) and module in in_blocks]
    assert len(norms) == 2 * deepest
