"""What an image processor of transformers says about pictures, as our tiling and colours; what we cannot do is refused.

Its settings lie in `processor_config.json` (transformers 5, inside `image_processor`) or in `preprocessor_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core.checkpoint import read_json
from ..errors import CheckpointError
from ..recipe.schema import Tiling

PROCESSOR_FILE, PREPROCESSOR_FILE = "processor_config.json", "preprocessor_config.json"

Colour = tuple[float, float, float]

_BICUBIC = 3  # PIL.Image.Resampling
# Canvases of LLaVA-NeXT, which transformers takes where a folder names none; (height, width).
DEFAULT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

# What the classes do where a setting is absent (class attributes of transformers 5.23), by the name without "Fast" and "Pil".
_CLIP = {"resample": _BICUBIC, "do_center_crop": True, "image_mean": (0.48145466, 0.4578275, 0.40821073)}
_CLIP |= {"image_std": (0.26862954, 0.26130258, 0.27577711), "size": {"shortest_edge": 224}, "crop_size": 224}
_SIGLIP = {"resample": _BICUBIC, "do_center_crop": False, "image_mean": 0.5, "image_std": 0.5}
_SIGLIP |= {"size": {"height": 224, "width": 224}, "crop_size": 224}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": _CLIP,
    "CLIPFeatureExtractor": _CLIP,
    "LlavaImageProcessor": _CLIP,
    "LlavaNextImageProcessor": _CLIP,
    "SiglipImageProcessor": _SIGLIP,
}
# Steps that every processor has; any other `do_...` that is on would change pixels in a way that is not known here.
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad"}


class Pictures(NamedTuple):
    """How pictures become what the encoder takes. `mean` and `std` None: the encoder's own."""

    tiling: Tiling
    mean: Colour | None
    std: Colour | None
    note: str | None = None


@dataclass(frozen=True)
class _Settings:
    """An image processor's settings, defaults included; `wrong` gathers what is refused, all at once."""

    values: Mapping[str, Any]
    where: Path
    kind: str
    wrong: list[str]

    def refuse(self, key: str, expected: str) -> None:
        self.wrong.append(f"{key}: found {self.values.get(key)!r}; {expected}")


def read_pictures(folder: Path, tile: int, *, anyres: bool, pinpoints: Any = None) -> Pictures:
    """The folder's picture settings for an encoder of `tile` pixels; `pinpoints` are those of the model's own config.

    Raises `CheckpointError` naming every setting that we cannot honour, with what we do.
    """
    settings = _read_settings(folder)
    if settings is None:
        tiling = _anyres(pinpoints) if anyres else Tiling(mode="square")
        note = f"no {PROCESSOR_FILE} and no {PREPROCESSOR_FILE}: pictures are cut as {tiling.mode}, the encoder's own colours"
        return Pictures(tiling, None, None, note)
    for key, value in settings.values.items():
        if key.startswith("do_") and value and key not in _STEPS:
            settings.refuse(key, "pictures are resized, cropped or padded, and normalised here, nothing else")
    _check_resampling(settings)
    _check_size(settings, tile, anyres)
    mean, std = _colours(settings)
    if anyres:
        _check_pinpoints(settings, pinpoints)
        tiling = _anyres(pinpoints)
    else:
        tiling = Tiling(mode=_mode(settings, mean))
    if settings.wrong:
        raise CheckpointError(f"{settings.where}: settings that cannot be honoured: " + "; ".join(settings.wrong))
    return Pictures(tiling, mean, std)


def _read_settings(folder: Path) -> _Settings | None:
    for file in (PROCESSOR_FILE, PREPROCESSOR_FILE):
        path = folder / file
        found = read_json(path) if path.is_file() else {}
        values = found.get("image_processor", {}) if file == PROCESSOR_FILE else found
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path}: image_processor: expected settings by name, found {type(values).__name__}")
        if values:
            kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "CLIPImageProcessor")
            kind = kind.removesuffix("Fast").removesuffix("Pil")
            if kind not in _DEFAULTS:
                raise CheckpointError(f"{path}: found image processor {kind!r}; expected one of {', '.join(_DEFAULTS)}")
            given = {key: value for key, value in values.items() if value is not None}
            return _Settings({**_DEFAULTS[kind], **given}, path, kind, [])
    return None


def _anyres(pinpoints: Any) -> Tiling:
    return Tiling(mode="anyres", pinpoints=pinpoints or DEFAULT_PINPOINTS, merge="spatial_unpad", rule="transformers")


def _check_resampling(settings: _Settings) -> None:
    if not settings.values.get("do_resize", True):
        settings.refuse("do_resize", "pictures are always brought to the encoder's tile here")
    if settings.values["resample"] != _BICUBIC:
        settings.refuse("resample", f"expected {_BICUBIC} (bicubic), the only resampling here")


def _check_size(settings: _Settings, tile: int, anyres: bool) -> None:
    """What comes out must be the encoder's tile."""
    size, crop = settings.values["size"], settings.values["crop_size"]
    sides = _sides(size)
    if not sides or set(sides) != {tile}:
        settings.refuse("size", f"expected the encoder's tile, {tile} pixels")
    if settings.values["do_center_crop"] and set(_sides(crop)) != {tile}:
        settings.refuse("crop_size", f"expected the encoder's tile, {tile} pixels")
    if not (anyres or settings.values["do_center_crop"] or _squashes(settings) or _pads(settings)):
        settings.refuse("do_center_crop", "with `size` as shortest_edge pictures would not come out square")


def _sides(size: Any) -> list[int]:
    if isinstance(size, Mapping):
        return [size[key] for key in ("shortest_edge", "height", "width") if size.get(key) is not None]
    return list(size) if isinstance(size, list | tuple) else [size]


def _squashes(settings: _Settings) -> bool:
    """Both sides are brought to the tile, whatever the picture's ratio."""
    size = settings.values["size"]
    if isinstance(size, Mapping):
        return size.get("shortest_edge") is None
    return settings.kind == "SiglipImageProcessor"  # a plain number means a square there, the shorter side elsewhere


def _pads(settings: _Settings) -> bool:
    return settings.kind == "LlavaImageProcessor" and bool(settings.values.get("do_pad"))


def _mode(settings: _Settings, mean: Colour) -> Any:
    if _pads(settings):
        if mean != _triple(settings, "image_mean"):
            settings.refuse("do_pad", "with rescaling or normalisation switched off the padding would have another colour here")
        return "pad"
    if settings.values.get("do_pad"):
        settings.refuse("do_pad", f"{settings.kind} pads to the largest picture of a batch; here all tiles are of one size")
    return "resize" if _squashes(settings) else "square"


def _colours(settings: _Settings) -> tuple[Colour, Colour]:
    """Mean and standard deviation for pixels scaled to 0..1, whatever the processor scales them by."""
    values = settings.values
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    normalised = values.get("do_normalize", True)
    mean = _triple(settings, "image_mean") if normalised else (0.0, 0.0, 0.0)
    std = _triple(settings, "image_std") if normalised else (1.0, 1.0, 1.0)
    if abs(255 * factor - 1) < 1e-6:
        return mean, std
    scale = 255 * factor
    return tuple(number / scale for number in mean), tuple(number / scale for number in std)  # type: ignore[return-value]


def _triple(settings: _Settings, key: str) -> Colour:
    found = settings.values[key]
    try:
        red, green, blue = (float(number) for number in (found if isinstance(found, list | tuple) else [found] * 3))
    except (TypeError, ValueError):
        settings.refuse(key, "expected a number, or one for each of red, green and blue")
        return 0.5, 0.5, 0.5
    return red, green, blue


def _check_pinpoints(settings: _Settings, pinpoints: Any) -> None:
    """The processor counts a picture's rows by its list, the model makes them by the config's."""
    theirs = settings.values.get("image_grid_pinpoints") or DEFAULT_PINPOINTS
    wanted = [list(entry) for entry in pinpoints or DEFAULT_PINPOINTS]
    if [list(entry) for entry in theirs] != wanted:
        settings.refuse("image_grid_pinpoints", f"config.json has {wanted}; expected the same list in both")
