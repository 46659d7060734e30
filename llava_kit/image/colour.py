"""Every colour mode of a picture file as plain 8-bit RGB, so that no later room meets alpha, palettes or 16 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB picture: transparency composited on white, deep greys scaled to 8 bits, all else converted by Pillow.

    Dropping the alpha channel instead would show whatever colour hides under transparent pixels.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data or image.mode == "La":
        overlay = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray, mode: str) -> NDArray[np.uint8]:
    """Greys of 16 bits and more as bytes; Pillow's own conversion clips them at 255, which turns such pictures white.

    `I;16` spans 0..65535 by definition. `I` and `F` have no fixed range: numbers that fit 0..255 stay (`F` within 0..1 is taken
    as a fraction), those that fit 0..65535 are read as 16 bits, anything else is spread from its least to its greatest.
    """
    if mode.startswith("I;16"):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0 or high > 65535:
        numbers = (numbers - low) * (255 / max(high - low, 1e-300))
    elif high > 255:
        numbers = numbers / 257
    elif mode == "F" and high <= 1:
        numbers = numbers * 255
    return np.clip(np.rint(numbers), 0, 255).astype(np.uint8)
