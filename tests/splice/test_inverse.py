"""The plan read backwards says the same as the plan."""

import numpy as np
import pytest
import torch

from llava_kit.core.splice import PAD
from llava_kit.core.tiles import Grid
from llava_kit.splice import inverse as inverse_module
from llava_kit.splice.build import build_plan


@pytest.mark.parametrize("group", [1, 3, 256])
def test_inverse_of_random_plans(random_seating, monkeypatch, group):
    monkeypatch.setattr(inverse_module, "TEXT_GROUP", group)
    random = np.random.default_rng(group)
    for number in range(60):
        rows = [[random_seating(random, f"{number}.{row}") for _ in range(random.integers(1, 3))] for row in range(3)]
        plan = build_plan(rows, side=Grid(3, 3), vocab=100).plan
        inverse = plan.inverse
        assert inverse.blank_positions.tolist() == (plan.source == PAD).nonzero().flatten().tolist()

        wanted = torch.cat([plan.visual_rows, *(blend.rows for blend in plan.blends)]).tolist()
        places = [-1] * plan.num_visual
        for place, row in enumerate(wanted):
            places[row] = place
        assert inverse.visual_places.tolist() == places

        seats_of: dict[int, list[int]] = {}
        for token, seat in zip(plan.text_ids.tolist(), plan.text_positions.tolist()):
            seats_of.setdefault(token, []).append(seat)
        assert inverse.tokens.tolist() == sorted(seats_of)
        bounds = inverse.group_bounds.tolist()
        for token, first, last in zip(inverse.tokens.tolist(), inverse.token_bounds[:-1], inverse.token_bounds[1:]):
            groups = [inverse.text_seats[bounds[g] : bounds[g + 1]].tolist() for g in range(int(first), int(last))]
            assert all(0 < len(seats) <= group for seats in groups)
            assert [seat for seats in groups for seat in seats] == seats_of[token]

        for blend in plan.blends:
            flat = blend.taps.flatten()
            for row, (first, last) in enumerate(zip(blend.reader_bounds[:-1], blend.reader_bounds[1:])):
                assert blend.readers[first:last].tolist() == (flat == row).nonzero().flatten().tolist()


def test_all_of_it_is_int32(seating):
    plan = build_plan([[seating("1 2 1")]], side=Grid(2, 2), vocab=9).plan
    assert {tensor.dtype for tensor in vars(plan.inverse).values()} == {torch.int32}
