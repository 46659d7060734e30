"""Vision towers of open_clip, by its architecture names and weight tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from llava_kit.core.encoder import Encoder

Layer = int | Literal["last"]


class OpenClipOptions(Options):
    """A vision transformer of open_clip (OpenAI, LAION, DataComp, DFN, MetaCLIP, SigLIP, ...)."""

    architecture: str = Field(
        description="open_clip's name (ViT-L-14), a model config (.json), or a folder with open_clip_config.json"
    )
    pretrained: str | None = Field(None, description="open_clip's tag of the weights, or a weight file; not for a folder")
    feature_layer: Layer | tuple[Layer, ...] = Field(
        -2,
        description="whose output the features are: 1 the first block, -1 the last, -2 the one before; `last` the last one "
        "after the final norm; several are put side by side. Later blocks are left out",
    )
    keep_cls: bool = Field(False, description="keep the class token, as a first row; then no tiling but pad, resize or square")
    image_size: PositiveInt | None = Field(
        None, description="side of a tile in pixels, if not the architecture's: positions are resized"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")


def build_open_clip(options: OpenClipOptions, *, weights: bool) -> Encoder:
    """The tower; with `weights=False` its architecture alone."""
    from .encoder import OpenClipEncoder

    return OpenClipEncoder(options, weights=weights)


@hookimpl
def register_encoders(register):
    register("open_clip", options=OpenClipOptions, build=build_open_clip)
