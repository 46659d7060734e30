"""Vision towers of transformers: CLIP, SigLIP and DINOv2, patch features from any of their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.encoder import Encoder

Layer = int | Literal["last"]


Colour = tuple[float, float, float]


class TowerOptions(Options):
    """What the towers have in common."""

    checkpoint: str | None = Field(None, description="a folder in the layout of the Hugging Face hub, or a repository's name")
    config: dict[str, Any] | None = Field(
        None, description="instead of a checkpoint: the architecture as transformers writes it, whose weights lie elsewhere"
    )
    mean: Colour | None = Field(None, description="normalisation of pixels scaled to 0..1, if not the checkpoint's")
    std: Colour | None = Field(None, description="as mean")
    feature_layer: Layer | tuple[Layer, ...] = Field(
        -2,
        description="whose output the features are: 0 the embedding, 1 the first layer, -1 the last one, -2 the one before; "
        "`last` the tower's own output, after its final norm; several are put side by side. Later layers are not built",
    )
    keep_cls: bool = Field(False, description="keep the class token, as a first row; then no tiling but pad, resize or square")
    image_size: PositiveInt | None = Field(
        None, description="side of a tile in pixels, if not the checkpoint's: positions are interpolated"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")


class ClipOptions(TowerOptions):
    """CLIP's vision tower (OpenAI, LAION, MetaCLIP, DFN, ... as transformers holds them)."""

    checkpoint: str | None = Field(
        "openai/clip-vit-large-patch14-336",
        description="a folder in the layout of the Hugging Face hub, or a repository's name",
    )


class SiglipOptions(TowerOptions):
    """SigLIP's or SigLIP 2's vision tower, fixed resolution. It has no class token."""

    keep_cls: Literal[False] = Field(False, description="SigLIP has no class token")
    without_first: bool = Field(
        False,
        description="leave out the first patch, as programs do that take it for a class token (TinyLLaVA, transformers with "
        "`default`); then no tiling but pad, resize or square",
    )


class Dinov2Options(TowerOptions):
    """DINOv2, with or without registers (which are left out)."""

    feature_layer: Layer | tuple[Layer, ...] = Field(
        "last", description="as for clip; `last` is the output after the final norm, which DINOv2 is meant to be used with"
    )


def build_clip(options: ClipOptions, *, weights: bool) -> Encoder:
    """CLIP's tower; with `weights=False` its architecture alone."""
    from .tower import TowerEncoder

    return TowerEncoder("clip", options, weights=weights)


def build_siglip(options: SiglipOptions, *, weights: bool) -> Encoder:
    """SigLIP's tower; with `weights=False` its architecture alone."""
    from .tower import TowerEncoder

    return TowerEncoder("siglip", options, weights=weights)


def build_dinov2(options: Dinov2Options, *, weights: bool) -> Encoder:
    """DINOv2; with `weights=False` its architecture alone."""
    from .tower import TowerEncoder

    return TowerEncoder("dinov2", options, weights=weights)


@hookimpl
def register_encoders(register):
    register("clip", options=ClipOptions, build=build_clip)
    register("siglip", options=SiglipOptions, build=build_siglip)
    register("dinov2", options=Dinov2Options, build=build_dinov2)
