"""The pictures of rows C1, C2 and C4: JPEGs of procedural photographs, the same on every machine."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZES = ((640, 480), (1024, 768), (1920, 1280))
BLOBS, GRAIN = 200, 18  # `GRAIN`: in levels of 255; a file then has as many bytes a pixel as a camera's at this quality, 0.3
QUALITY, HALVED_COLOURS = 90, 2  # 4:2:0, as cameras and web sites save


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs of colour under grain whose amplitude falls with its frequency, as that of natural pictures does."""
    random = np.random.default_rng(seed)
    across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    light = np.full((height, width, 3), 110, np.float32)
    for _ in range(BLOBS):
        x, y, spread = random.uniform(0, width), random.uniform(0, height), random.uniform(0.01, 0.15) * max(width, height)
        blob = np.outer(np.exp(-(((down - y) / spread) ** 2) / 2), np.exp(-(((across - x) / spread) ** 2) / 2))
        light += blob[..., None] * random.uniform(-80, 80, 3).astype(np.float32)
    frequency = np.hypot(np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None])
    frequency[0, 0] = 1
    grain = np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width))) / frequency, s=(height, width))
    light += (grain * (GRAIN / grain.std()))[..., None]
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    photograph(width, height).save(stream, "JPEG", quality=QUALITY, subsampling=HALVED_COLOURS)
    return stream.getvalue()
