from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_kit.data.packing import pack
from llava_kit.errors import LlavaKitError


@given(st.lists(st.integers(1, 50), max_size=60))
def test_every_sequence_sits_once_and_rows_hold(lengths):
    rows = pack(lengths, 50)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[number] for number in row) <= 50 for row in rows)
    assert rows == pack(lengths, 50)
    # First fit: two rows that would fit into one do not exist.
    assert len(rows) <= max(1, math.ceil(2 * sum(lengths) / 50))
    fewest = math.ceil(sum(lengths) / 50)
    assert len(rows) >= fewest


def test_first_fit_decreasing():
    assert pack([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]
    assert pack([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert pack([], 10) == []


def test_sequence_longer_than_a_row():
    with pytest.raises(LlavaKitError, match="sequence 1 takes 11"):
        pack([3, 11], 10)
