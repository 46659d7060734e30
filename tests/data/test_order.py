from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.data.order import DataOrder, permute
from llava_kit.errors import LlavaKitError


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(-5, 2**64), epoch=st.integers(0, 9))
def test_permutation(size, seed, epoch):
    found = permute(np.arange(size), size, seed, epoch)
    assert sorted(found.tolist()) == list(range(size))


def test_permutation_is_fixed_for_ever():
    """A change here would break the resuming of every run."""
    assert permute(np.arange(10), 10, 0, 0).tolist() == [4, 6, 9, 2, 1, 8, 5, 3, 0, 7]
    assert permute(np.array([0, 558_127]), 558_128, 42, 3).tolist() == [208111, 205351]


def test_orders_are_spread_evenly():
    orders = Counter(tuple(permute(np.arange(4), 4, seed, 0).tolist()) for seed in range(4800))
    assert len(orders) == 24
    assert min(orders.values()) > 130  # 200 expected; 5 standard deviations below
    firsts = Counter(int(permute(np.array([0]), 10, 1, epoch)[0]) for epoch in range(2000))
    assert min(firsts.values()) > 130


def test_epochs_and_seeds_differ():
    orders = [permute(np.arange(50), 50, seed, epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_steps_of_the_original_recipes():
    assert DataOrder(558_128, 256, epochs=1).num_steps == 2181
    assert DataOrder(665_298, 128, epochs=1).num_steps == 5198
    assert DataOrder(665_298, 128, epochs=3).num_steps == 3 * 5198
    assert DataOrder(100, 10, epochs=0.25).num_steps == 3
    assert DataOrder(300, 10, epochs=0.1).num_steps == 3
    assert DataOrder(5, 10, epochs=0.1).num_steps == 1
    assert DataOrder(5, 10, steps=7).num_steps == 7


@pytest.mark.parametrize("shuffled", [True, False])
def test_each_epoch_holds_every_sample_once(shuffled):
    order = DataOrder(23, 5, seed=3, epochs=2, shuffled=shuffled)
    steps = [order.samples(step) for step in range(order.num_steps)]
    assert [len(step.indices) for step in steps] == [5, 5, 5, 5, 3] * 2
    for epoch in (0, 1):
        indices = [index for step in steps if step.epoch == epoch for index in step.indices.tolist()]
        assert sorted(indices) == list(range(23))
        assert shuffled != (indices == list(range(23)))
    assert [order.num_seen(step) for step in (0, 1, 4, 5, 6, 10)] == [0, 5, 20, 23, 28, 46]


def test_a_step_needs_nothing_from_those_before():
    order = DataOrder(10**9, 4, seed=1, steps=10)
    assert order.samples(123_456_789).indices.tolist() == order.samples(123_456_789).indices.tolist()


@pytest.mark.parametrize("settings_", [{}, {"epochs": 1, "steps": 1}])
def test_epochs_or_steps(settings_):
    with pytest.raises(LlavaKitError, match="expected one of them"):
        DataOrder(3, 1, **settings_)


def test_empty_source():
    with pytest.raises(LlavaKitError, match="empty"):
        DataOrder(0, 1, steps=1)
