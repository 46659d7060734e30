from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_kit.core.annotations import Annotations, Box, box_of_pixels, padded, unpadded

SIDES = st.integers(1, 4000)
SHARES = st.floats(0, 1)


def test_pixels_become_shares():
    assert box_of_pixels("cat", (10, 20), (30, 40), (100, 200)) == Box("cat", 0.1, 0.1, 0.4, 0.3)


def test_padded_to_a_square():
    """Of a picture twice as wide as high the middle half of the square is picture."""
    whole = Box("all", 0, 0, 1, 1)
    assert padded(whole, (200, 100)) == Box("all", 0, 0.25, 1, 0.75)
    assert padded(whole, (100, 200)) == Box("all", 0.25, 0, 0.75, 1)
    assert padded(whole, (7, 7)) == whole


@given(width=SIDES, height=SIDES, corners=st.tuples(SHARES, SHARES, SHARES, SHARES))
def test_padding_is_undone(width, height, corners):
    box = Box("x", *corners)
    around = padded(box, (width, height))
    assert all(0 <= side <= 1 for side in around[1:])
    assert unpadded(around, (width, height))[1:] == pytest.approx(corners, abs=1e-9)


def test_nothing_known_is_false():
    assert not Annotations()
    assert Annotations(captions=("A cat.",))
    assert Annotations(text_boxes="padded")
