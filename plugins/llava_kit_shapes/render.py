"""A scene becomes pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .world import Scene, Thing, extent, generator

_PIXELS = 1  # the stream of a picture's noise, apart from the stream of its scene


def render(scene: Scene) -> NDArray[np.uint8]:
    """Return the picture, uint8 [height, width, 3]: background with a slope of light, things, noise."""
    across = np.linspace(-0.5, 0.5, scene.width, dtype=np.float32) * scene.slope[0]
    down = np.linspace(-0.5, 0.5, scene.height, dtype=np.float32) * scene.slope[1]
    light = down[:, None] + across[None, :]
    picture = (light[:, :, None] + np.asarray(scene.background, dtype=np.float32)).astype(np.float32, copy=False)
    for thing in scene.things:
        _paint(picture, thing)
    if scene.noise:
        # Raw bytes folded to a few bits: a tenth of the time of normal noise.
        rng = generator(scene.seed, scene.split, scene.index, _PIXELS)
        grain = np.frombuffer(rng.bytes(picture.size), dtype=np.uint8) & (2 * scene.noise - 1)
        picture += grain.reshape(picture.shape)
        picture -= scene.noise
    return np.clip(picture, 0, 255).astype(np.uint8)


def _paint(picture: NDArray[np.float32], thing: Thing) -> None:
    """Blend one thing into float32 [H, W, 3], in place, with edges one pixel soft."""
    height, width = picture.shape[:2]
    half_width, up, below = extent(thing.shape, thing.radius)
    left = max(0, math.floor(thing.x - half_width - 1))
    right = min(width, math.ceil(thing.x + half_width + 2))
    top = max(0, math.floor(thing.y - up - 1))
    bottom = min(height, math.ceil(thing.y + below + 2))
    # Pixel centres lie at half integers.
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    cover = np.clip(0.5 - _distance(thing.shape, thing.radius, x, y), 0, 1)[:, :, None]
    window = picture[top:bottom, left:right]
    window += cover * (np.asarray(thing.tint, dtype=np.float32) - window)


def _distance(shape: str, radius: float, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return about the distance in pixels from the outline, negative inside; x [1, w], y [h, 1] from the centre."""
    half_width, up, below = extent(shape, radius)
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - half_width
    if shape == "triangle":
        # Point up: the sloping sides, measured at a right angle to them, and the base.
        rise = up + below
        side = (np.abs(x) * rise - (y + up) * half_width) / math.hypot(rise, half_width)
        return np.maximum(side, y - below)
    arm = 0.36 * radius  # cross: two bars a third as wide as long
    upright = np.maximum(np.abs(x) - arm, np.abs(y) - up)
    level = np.maximum(np.abs(x) - half_width, np.abs(y) - arm)
    return np.minimum(upright, level)
