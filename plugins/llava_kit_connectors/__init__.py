"""Connectors: linear, MLP, identity, pixel shuffle, and two resamplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.connector import Connector
    from llava_kit.core.tiles import Grid

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "identity"]


class LinearOptions(Options):
    """One linear map (LLaVA v1)."""

    bias: bool = Field(True, description="whether the map has a bias")


class MlpOptions(Options):
    """Linear maps with an activation between them: depth 2 is LLaVA 1.5's mlp2x_gelu."""

    depth: PositiveInt = Field(2, description="how many linear maps; all but the first are of the language model's width")
    activation: Activation = Field(
        "gelu",
        description="gelu (exact, as LLaVA's), gelu_tanh (its approximation), quick_gelu (CLIP's), relu, silu, identity",
    )
    bias: bool = Field(True, description="whether the maps have biases")


class IdentityOptions(Options):
    """Features as they are: for an encoder that is as wide as the language model."""


class PixelShuffleOptions(Options):
    """Squares of patches side by side as one row, then an MLP: fewer visual rows (factor 2: a quarter)."""

    factor: int = Field(2, ge=2, description="side of a square, in patches; must divide the encoder's grid")
    depth: PositiveInt = Field(2, description="how many linear maps")
    activation: Activation = Field("gelu", description="between the maps")
    bias: bool = Field(True, description="whether the maps have biases")


class PerceiverOptions(Options):
    """A resampler: learnt queries look at the patches and at each other in one attention (Flamingo)."""

    num_queries: PositiveInt = Field(64, description="visual rows a tile")
    layers: PositiveInt = Field(2, description="attention and feed-forward, so many times")
    heads: PositiveInt = Field(8, description="attention heads; must divide the width")
    width: PositiveInt | None = Field(None, description="inside the resampler; default: the encoder's")


class QFormerOptions(Options):
    """A resampler: learnt queries with self-attention, and cross-attention to the patches in alternate layers (BLIP-2)."""

    num_queries: PositiveInt = Field(32, description="visual rows a tile")
    layers: PositiveInt = Field(4, description="self-attention and feed-forward, so many times")
    cross_every: PositiveInt = Field(2, description="a layer in so many looks at the patches, the first one always")
    heads: PositiveInt = Field(8, description="attention heads; must divide the width")
    width: PositiveInt | None = Field(None, description="inside the resampler; default: the encoder's")


def build_linear(options: LinearOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .rowwise import Linear

    return Linear(vision_width, text_width, bias=options.bias)


def build_mlp(options: MlpOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .rowwise import Mlp

    return Mlp(vision_width, text_width, depth=options.depth, activation=options.activation, bias=options.bias)


def build_identity(options: IdentityOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .rowwise import Identity

    return Identity(vision_width, text_width)


def build_pixel_shuffle(options: PixelShuffleOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .pixel_shuffle import PixelShuffle

    return PixelShuffle(
        vision_width,
        text_width,
        grid,
        factor=options.factor,
        depth=options.depth,
        activation=options.activation,
        bias=options.bias,
    )


def build_perceiver(options: PerceiverOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .resamplers import PerceiverLayers, Resampler

    width = options.width or vision_width
    layers = PerceiverLayers(width, layers=options.layers, heads=options.heads)
    return Resampler(vision_width, text_width, layers, width=width, num_queries=options.num_queries)


def build_qformer(options: QFormerOptions, *, vision_width: int, text_width: int, grid: Grid) -> Connector:
    from .resamplers import QFormerLayers, Resampler

    width = options.width or vision_width
    layers = QFormerLayers(width, layers=options.layers, cross_every=options.cross_every, heads=options.heads)
    return Resampler(vision_width, text_width, layers, width=width, num_queries=options.num_queries)


@hookimpl
def register_connectors(register):
    register("linear", options=LinearOptions, build=build_linear)
    register("mlp", options=MlpOptions, build=build_mlp)
    register("identity", options=IdentityOptions, build=build_identity)
    register("pixel_shuffle", options=PixelShuffleOptions, build=build_pixel_shuffle)
    register("perceiver", options=PerceiverOptions, build=build_perceiver)
    register("qformer", options=QFormerOptions, build=build_qformer)
