"""Vision transformers of timm, by timm's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.encoder import Encoder

Layer = int | Literal["last"]


class TimmOptions(Options):
    """Any vision transformer of timm that has patch tokens (ViT, DeiT, EVA, BEiT, DINOv2 and DINOv3, SigLIP, ...)."""

    model: str = Field(description="timm's name, with a tag for the weights: vit_base_patch16_clip_224.openai")
    weights_file: str | None = Field(None, description="a .safetensors or .pth file to use instead of timm's own weights")
    pretrained: bool = Field(True, description="false: start from random weights")
    feature_layer: Layer | tuple[Layer, ...] = Field(
        -2,
        description="whose output the features are: 1 the first block, -1 the last, -2 the one before; `last` the last one "
        "after the final norm; several are put side by side. Later blocks are left out",
    )
    keep_cls: bool = Field(False, description="keep the class token, as a first row; then no tiling but pad, resize or square")
    image_size: PositiveInt | None = Field(None, description="side of a tile in pixels, if not the model's own")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    arguments: dict[str, Any] = Field(default_factory=dict, description="more keyword arguments of timm.create_model")


def build_timm(options: TimmOptions, *, weights: bool) -> Encoder:
    """The tower; with `weights=False` its architecture alone."""
    from .encoder import TimmEncoder

    return TimmEncoder(options, weights=weights)


@hookimpl
def register_encoders(register):
    register("timm", options=TimmOptions, build=build_timm)
