"""Pictures for the tests of this room."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import ImageBytes


@pytest.fixture
def encode():
    """picture, format -> an `ImageBytes` of the file."""

    def encode(picture: Image.Image, format: str = "PNG", **keys) -> ImageBytes:
        stream = io.BytesIO()
        picture.save(stream, format, **keys)
        return ImageBytes(stream.getvalue(), f"a.{format.lower()}")

    return encode


@pytest.fixture
def quarters():
    """A picture of (12, 8) pixels whose quarters are red, green, blue, white: every turn of it looks different."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:4, :6], pixels[:4, 6:], pixels[4:, :6], pixels[4:, 6:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)
