from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from planted import encoded, photograph

from llava_kit.audit.likeness import LOOK_SIDE, MAX_BITS, SIDE, alike_pairs, hash_of, look_of
from llava_kit.core.conversation import ImageBytes
from llava_kit.image.thumbnail import read_thumbnail


def thumbnail(picture: Image.Image, kind: str = "JPEG", **options) -> np.ndarray:
    pixels = read_thumbnail(ImageBytes(encoded(picture, kind, **options)), SIDE).pixels
    assert pixels is not None
    return pixels


def pairs_of(thumbnails, sides=None) -> list[list[int]]:
    hashes = np.array([hash_of(one) for one in thumbnails], np.uint64)
    looks = np.stack([look_of(one) for one in thumbnails])
    return alike_pairs(hashes, lambda numbers: looks[numbers], sides).tolist()


CHANGES = {
    "compressed": lambda picture: thumbnail(picture, quality=50),
    "smaller": lambda picture: thumbnail(picture.resize((200, 150), Image.Resampling.BICUBIC), quality=85),
    "larger": lambda picture: thumbnail(picture.resize((640, 480), Image.Resampling.BILINEAR), quality=85),
    "darker": lambda picture: thumbnail(picture.point(lambda level: int(level * 0.8)), quality=90),
    "as WebP": lambda picture: thumbnail(picture, "WEBP", quality=70),
    "as PNG": lambda picture: thumbnail(picture, "PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(change):
    pictures = [photograph(seed, (320, 240)) for seed in range(12)]
    originals = [thumbnail(picture, quality=92) for picture in pictures]
    copies = [CHANGES[change](picture) for picture in pictures]
    assert pairs_of([*originals, *copies]) == [[number, number + 12] for number in range(12)]


def test_different_pictures_are_not():
    assert pairs_of([thumbnail(photograph(seed), quality=90) for seed in range(300)]) == []


def test_nearly_empty_pictures_are_told_apart():
    """A small square at another place, or of another colour, on a plain ground: most frequencies are the same."""
    pictures = []
    for left in range(0, 96, 12):
        for colour in ((200, 30, 30), (30, 160, 30), (30, 30, 200)):
            pixels = np.full((96, 96, 3), 190, np.uint8)
            pixels[40:52, left : left + 12] = colour
            pictures.append(thumbnail(Image.fromarray(pixels), "PNG"))
    assert pairs_of(pictures) == []


def test_sides_are_compared_with_each_other_alone():
    one, other = photograph(1), photograph(2)
    thumbnails = [thumbnail(one), thumbnail(one), thumbnail(other), thumbnail(one, quality=60)]
    assert pairs_of(thumbnails) == [[0, 1], [0, 3], [1, 3]]
    assert pairs_of(thumbnails, np.array([False, False, True, True])) == [[0, 3], [1, 3]]


def test_the_search_finds_every_pair_that_all_against_all_does():
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 4000, np.uint64)
    for number in range(0, 3000, 3):  # copies with up to eight bits changed, anywhere
        bits = generator.choice(64, generator.integers(0, 9), replace=False)
        hashes[number + 1] = hashes[number] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0))
    look = np.full((1, 3 * LOOK_SIDE**2), 0, np.uint8)
    look[0, ::2] = 255
    found = alike_pairs(hashes, lambda numbers: np.repeat(look, len(numbers), 0))
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= MAX_BITS
    assert found.tolist() == np.argwhere(np.triu(near, 1)).tolist()
    assert len(found) > 500


def test_nothing_is_no_pair():
    empty = np.empty((0, 3 * LOOK_SIDE**2), np.uint8)
    assert alike_pairs(np.empty(0, np.uint64), lambda numbers: empty[numbers]).shape == (0, 2)
