"""The connectors, held to the contract, and each to what it says of itself."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import llava_kit_connectors as plugin
from llava_kit import Grid, LlavaKitError
from llava_kit.testing.contracts import check_connector

WIDTHS = {"vision_width": 16, "text_width": 24, "grid": Grid(4, 6)}
CASES = [
    ("linear", plugin.LinearOptions()),
    ("linear", plugin.LinearOptions(bias=False)),
    *(("mlp", plugin.MlpOptions(depth=depth)) for depth in (1, 2, 3)),
    *(("mlp", plugin.MlpOptions(activation=activation)) for activation in ("gelu_tanh", "quick_gelu", "relu", "silu")),
    ("mlp", plugin.MlpOptions(activation="identity")),
    ("mlp", plugin.MlpOptions(bias=False)),
    ("pixel_shuffle", plugin.PixelShuffleOptions()),
    ("pixel_shuffle", plugin.PixelShuffleOptions(depth=1, bias=False)),
    ("perceiver", plugin.PerceiverOptions(num_queries=5, heads=4)),
    ("perceiver", plugin.PerceiverOptions(num_queries=5, heads=4, width=32, layers=1)),
    ("qformer", plugin.QFormerOptions(num_queries=5, heads=4)),
    ("qformer", plugin.QFormerOptions(num_queries=5, heads=4, layers=3, cross_every=2)),
]


def test_kernels_are_offered_only_activations_that_they_know():
    offered = {name: build("mlp", plugin.MlpOptions(activation=name)).mlp() for name in get_args(plugin.Activation)}
    known = {name for name, weights in offered.items() if weights is not None}
    assert known == {"gelu", "gelu_tanh", "relu", "silu"}


def test_without_activation_two_maps_are_one():
    connector = build("mlp", plugin.MlpOptions(activation="identity"))
    first, second = connector.chain().maps
    features = torch.randn(5, first.in_features)
    joined = F.linear(features, second.weight @ first.weight, second(first.bias))
    torch.testing.assert_close(connector(features), joined)


def build(name, options, **changes):
    torch.manual_seed(0)
    return getattr(plugin, f"build_{name}")(options, **{**WIDTHS, **changes})


@pytest.mark.parametrize(("name", "options"), CASES)
def test_contract(name, options):
    check_connector(build(name, options), **WIDTHS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_identity(dtype):
    connector = build("identity", plugin.IdentityOptions(), text_width=16)
    check_connector(connector, **{**WIDTHS, "text_width": 16})
    features = torch.randn(2, 24, 16, dtype=dtype)
    assert connector(features) is features
    assert not list(connector.parameters())
    with pytest.raises(LlavaKitError, match="16 wide, the language model's rows 24"):
        build("identity", plugin.IdentityOptions())


def test_mlp2_is_llavas():
    """mlp2x_gelu: linear, exact GELU, linear; both biases; 20.98 million parameters from 1024 to 4096."""
    connector = build("mlp", plugin.MlpOptions())
    theirs = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))
    names = {
        "linears.0.weight": "0.weight",
        "linears.0.bias": "0.bias",
        "linears.1.weight": "2.weight",
        "linears.1.bias": "2.bias",
    }
    assert set(connector.state_dict()) == set(names)
    theirs.load_state_dict({names[name]: tensor for name, tensor in connector.state_dict().items()})
    features = torch.randn(2, 24, 16)
    assert torch.equal(connector(features), theirs(features))
    with torch.device("meta"):
        large = build("mlp", plugin.MlpOptions(), vision_width=1024, text_width=4096)
    assert sum(parameter.numel() for parameter in large.parameters()) == 20_979_712


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_only_depth_two_is_for_kernels(depth):
    assert (build("mlp", plugin.MlpOptions(depth=depth)).mlp() is not None) == (depth == 2)


def test_initial_weights_keep_the_size_of_rows():
    connector = build("mlp", plugin.MlpOptions(depth=1), vision_width=1024, text_width=512)
    rows = connector(torch.randn(64, 1024))
    assert rows.std().item() == pytest.approx(1, abs=0.03)
    assert not connector.linears[0].bias.any()


def test_pixel_shuffle_takes_squares_in_reading_order():
    connector = build("pixel_shuffle", plugin.PixelShuffleOptions(depth=1), vision_width=1, text_width=4)
    assert connector.output_grid(Grid(4, 6)) == Grid(2, 3)
    assert not connector.rowwise
    assert connector.spatial
    with torch.no_grad():
        connector.projection.linears[0].weight.copy_(torch.eye(4))
    rows = connector(torch.arange(24.0).view(1, 24, 1))[0]
    assert rows.tolist() == [
        [0, 1, 6, 7],
        [2, 3, 8, 9],
        [4, 5, 10, 11],
        [12, 13, 18, 19],
        [14, 15, 20, 21],
        [16, 17, 22, 23],
    ]


def test_pixel_shuffle_that_does_not_divide():
    with pytest.raises(LlavaKitError, match="factor 3 does not divide the encoder's grid of 4 x 6 patches; factors that do: 2"):
        build("pixel_shuffle", plugin.PixelShuffleOptions(factor=3))


@pytest.mark.parametrize("name", ["perceiver", "qformer"])
def test_resamplers_look_at_every_patch(name):
    options = {"perceiver": plugin.PerceiverOptions, "qformer": plugin.QFormerOptions}[name](num_queries=5, heads=4)
    connector = build(name, options)
    assert connector.output_grid(Grid(4, 6)) == Grid(1, 5)
    assert not connector.spatial
    features = torch.randn(1, 24, 16, requires_grad=True)
    connector(features).square().sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(-1) > 0).all()
    # Attention knows no order, so the rows do not change when patches change places: they truly have no place.
    torch.testing.assert_close(connector(features.flip(1)), connector(features))


def test_heads_that_do_not_divide():
    with pytest.raises(LlavaKitError, match="3 heads do not divide the width 16"):
        build("qformer", plugin.QFormerOptions(heads=3))
