"""What is in a picture of the world, drawn from (seed, split, index) alone, so any worker can make any picture at any time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 44),
    "green": (36, 160, 70),
    "blue": (48, 86, 222),
    "yellow": (240, 206, 40),
    "purple": (150, 60, 190),
    "cyan": (50, 204, 214),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
# The centre of each place as a share of width and height. Corners stand far enough from the middle for two large things in
# neighbouring places to keep apart even in the longest picture (aspect 1:1.5).
PLACES: dict[str, tuple[float, float]] = {
    "top-left": (0.19, 0.19),
    "top-right": (0.81, 0.19),
    "middle": (0.50, 0.50),
    "bottom-left": (0.19, 0.81),
    "bottom-right": (0.81, 0.81),
}
MAX_THINGS = len(PLACES)
SPLITS = ("train", "validation", "test")
Combination = tuple[str, str, str]  # colour, shape, size


# Kept for the test split: 6 of 48, one of each colour, three of each size. Every colour is still seen with every shape (in
# the other size): what the model has never met is the three together.
SET_ASIDE: frozenset[Combination] = frozenset(
    {
        ("red", "square", "small"),
        ("green", "circle", "large"),
        ("blue", "cross", "small"),
        ("yellow", "triangle", "large"),
        ("purple", "circle", "small"),
        ("cyan", "square", "large"),
    }
)
SEEN = tuple(combination for combination in product(COLOURS, SHAPES, SIZES) if combination not in SET_ASIDE)
KEPT = tuple(sorted(SET_ASIDE))


@dataclass(frozen=True)
class Look:
    """How large pictures and things are, in pixels and shares; `PLAIN` and `FINE` are the two in use."""

    long_side: tuple[int, int]
    aspect: tuple[float, float]  # short side / long side
    radius: dict[str, tuple[float, float]]  # share of the mean side, for each size word
    noise: int  # grey levels, a power of two: pixel noise is uniform in [-noise, noise)


# Radii are shares of the mean side, sqrt(width * height): squeezed to a square tile, a thing then covers the same area whatever
# the shape of its picture. In a tile of 48 pixels: small 5.3-5.9 pixels, large 7.9-8.6. At two thirds of that, telling the
# shapes apart took most of the training.
PLAIN = Look(
    long_side=(56, 96),
    aspect=(0.65, 1.0),
    radius={"small": (0.110, 0.122), "large": (0.165, 0.180)},
    noise=8,
)
# Half as large: in 2 x 2 tiles of 48 pixels a thing has the size that it has in a plain picture seen whole. Seen whole itself a
# small one has a radius of 2.6 to 2.9 pixels, in which its shape can still be told (recipes/quickstart_next.yaml has figures).
FINE = Look(
    long_side=(112, 160),
    aspect=(0.65, 1.0),
    radius={"small": (0.055, 0.061), "large": (0.0825, 0.090)},
    noise=8,
)
LOOKS = {"plain": PLAIN, "fine": FINE}


@dataclass(frozen=True)
class Thing:
    """One coloured shape; centre and radius in pixels."""

    colour: str
    shape: str
    size: str
    place: str
    x: float
    y: float
    radius: float
    tint: tuple[int, int, int]  # the colour as painted: a named colour, slightly off

    @property
    def combination(self) -> Combination:
        """The three that may be set aside together."""
        return (self.colour, self.shape, self.size)

    @property
    def unseen(self) -> bool:
        """True when no training picture holds this combination."""
        return self.combination in SET_ASIDE

    @property
    def box(self) -> tuple[float, float, float, float]:
        """[left, top, width, height] in pixels, as COCO writes a box."""
        half_width, up, down = extent(self.shape, self.radius)
        return (self.x - half_width, self.y - up, 2 * half_width, up + down)


@dataclass(frozen=True)
class Scene:
    """A picture before it is painted."""

    seed: int
    split: str
    index: int
    width: int
    height: int
    background: tuple[int, int, int]
    slope: tuple[float, float]  # grey levels that the background gains over the width and over the height
    noise: int
    things: tuple[Thing, ...]


def extent(shape: str, radius: float) -> tuple[float, float, float]:
    """Return (half width, height above the centre, height below) in pixels; every shape fills about the same area."""
    if shape == "square":
        return 0.88 * radius, 0.88 * radius, 0.88 * radius
    if shape == "triangle":
        return 1.1 * radius, 1.1 * radius, 0.85 * radius
    if shape == "cross":
        return 1.1 * radius, 1.1 * radius, 1.1 * radius
    return radius, radius, radius


def generator(seed: int, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """Return the generator of one picture; `purpose` gives scene, pixels and words streams of their own."""
    return np.random.Generator(np.random.PCG64((seed, SPLITS.index(split), index, purpose)))


def make_scene(seed: int, split: str, index: int, look: Look = PLAIN, min_things: int = 1) -> Scene:
    """Return the scene of (seed, split, index): one to five things, each in a place and of a colour of its own.

    Only the test split draws from the combinations set aside, for about a third of its things. Since no colour comes twice,
    a colour always names one thing: without that the first thing to learn, which word goes with which patch, is a riddle.
    """
    rng = generator(seed, split, index)
    count = int(rng.integers(min_things, MAX_THINGS + 1))
    long_side = int(rng.integers(look.long_side[0], look.long_side[1] + 1))
    short_side = round(long_side * rng.uniform(*look.aspect))
    wide = rng.random() < 0.5
    width, height = (long_side, short_side) if wide else (short_side, long_side)
    # A dark ground with a touch of hue, from which every named colour stands out.
    red, green, blue = (int(value) for value in np.clip(rng.integers(8, 56) + rng.integers(-12, 13, 3), 0, 255))
    sideways, downwards = (float(value) for value in rng.uniform(-14, 14, 2))
    names = list(PLACES)
    things = []
    for number in rng.permutation(MAX_THINGS)[:count]:
        pool = KEPT if split == "test" and rng.random() < 0.35 else SEEN
        taken = {thing.colour for thing in things}
        free = [combination for combination in pool if combination[0] not in taken]
        colour, shape, size = free[rng.integers(len(free))]
        centre_x, centre_y = PLACES[names[number]]
        jitter_x, jitter_y = rng.uniform(-0.02, 0.02, 2)
        radius = (width * height) ** 0.5 * rng.uniform(*look.radius[size])
        tint = [_within(value + shift, 0, 255) for value, shift in zip(COLOURS[colour], rng.integers(-12, 13, 3).tolist())]
        half_width, up, below = extent(shape, radius)
        x = _within((centre_x + jitter_x) * width, half_width + 1, width - half_width - 1)  # wholly in the picture
        y = _within((centre_y + jitter_y) * height, up + 1, height - below - 1)
        things.append(Thing(colour, shape, size, names[number], float(x), float(y), float(radius), (tint[0], tint[1], tint[2])))
    background, slope = (red, green, blue), (sideways, downwards)
    return Scene(seed, split, index, width, height, background, slope, look.noise, tuple(things))


def _within(value, low, high):
    """`value` brought between `low` and `high`; numpy's clip takes ten times as long for one number."""
    return min(max(value, low), high)
