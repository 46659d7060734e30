"""The battery holds what it promises, and its parts are the same at each call."""

from __future__ import annotations

import pytest
import torch

from llava_kit.core.splice import PAD
from llava_kit.testing.plans import battery

CASES = battery()


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_situation_is_there():
    plans = [case.plan for case in CASES]
    assert {1, 41, 341} <= {case.vision_width for case in CASES} & {case.text_width for case in CASES}
    assert any(plan.sequences.packed for plan in plans)
    assert any((plan.source == PAD).any() for plan in plans)
    assert any(not (plan.source == PAD).any() for plan in plans)
    assert any(not plan.visual_rows.numel() and plan.num_visual for plan in plans)
    assert any(not plan.num_visual for plan in plans)
    assert any(not plan.text_ids.numel() for plan in plans)
    assert any(len(plan.visual_rows) < plan.num_visual for plan in plans)
    assert any(plan.newline_positions.numel() for plan in plans)
    assert any((plan.visual_rows.diff() < 0).any() for plan in plans)  # seats that are not in the order of the tiles
    reduces = {blend.reduce for plan in plans for blend in plan.blends}
    assert reduces == {"sum", "max"}
    assert any(len(plan.blends) == 2 and plan.visual_rows.numel() for plan in plans)
    assert any(case.newline and not case.plan.newline_positions.numel() for case in CASES)
    assert any(not case.newline for case in CASES)
    for part in ("features", "connector", "embedding", "newline"):
        assert any(case.frozen == {part} for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parts(case):
    parts, again = case.parts(torch.float32, "cpu"), case.parts(torch.float32, "cpu")
    assert torch.equal(parts.features, again.features)
    assert torch.equal(parts.embedding, again.embedding)
    assert parts.features.shape == (case.num_tiles, case.patches.area, case.vision_width)
    assert case.num_tiles * case.rows_per_tile == case.plan.num_visual
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in parts.trained.values())
    assert {name.split(".")[0] for name in parts.trained}.isdisjoint(case.frozen)
    assert parts.features.is_contiguous() != case.class_token or not case.num_tiles
