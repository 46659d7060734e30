"""A plan that breaks a promise is refused before it reaches a device, in one line."""

from dataclasses import replace

import pytest
import torch

from llava_kit.core.plan_check import check_plan
from llava_kit.errors import LlavaKitError
from llava_kit.testing import battery

CASES = {case.name: case for case in battery()}
PLAN = CASES["packed"].plan
BLENDED = CASES["blended"].plan
FILLED = CASES["filled_packed"].plan


def test_every_plan_of_the_battery_keeps_them():
    for case in CASES.values():
        check_plan(case.plan)


def changed(tensor: torch.Tensor, place: int, value: int) -> torch.Tensor:
    copy = tensor.clone()
    copy.view(-1)[place] = value
    return copy


SEATS = PLAN.shape[0] * PLAN.shape[1]
BLEND = BLENDED.blends[-1]
FAULTS = {
    "doubled seat": (
        replace(PLAN, text_positions=changed(PLAN.text_positions, 0, int(PLAN.visual_positions[0]))),
        r"seat \d+ filled [02] times, expected each seat filled once",
    ),
    "seat behind the buffer": (
        replace(PLAN, visual_positions=changed(PLAN.visual_positions, 3, SEATS)),
        rf"seats from \d+ to {SEATS}, expected from 0 to {SEATS - 1}",
    ),
    "seat before the buffer": (replace(PLAN, newline_positions=changed(PLAN.newline_positions, 0, -1)), "seats from -1 to"),
    "row of no tile": (
        replace(PLAN, visual_rows=changed(PLAN.visual_rows, 0, PLAN.num_visual)),
        f"visual rows from .* expected from 0 to {PLAN.num_visual - 1}",
    ),
    "row named twice": (replace(PLAN, visual_rows=changed(PLAN.visual_rows, 0, int(PLAN.visual_rows[1]))), "rows named twice"),
    "fewer ids than seats": (replace(PLAN, text_ids=PLAN.text_ids[:-1]), r"found \d+ text rows for \d+ seats"),
    "another number of rows": (replace(PLAN, num_visual=PLAN.num_visual + 9), "visual places, expected one for each of"),
    "another shape": (replace(PLAN, shape=(1, SEATS + 1)), f"found a source of {SEATS}, expected one for each of {SEATS + 1}"),
    "more than int32 counts": (replace(PLAN, shape=(1 << 16, 1 << 16)), "at most 2147483647"),
    "group beyond the text": (
        replace(PLAN, inverse=replace(PLAN.inverse, group_bounds=changed(PLAN.inverse.group_bounds, -1, 9999))),
        "bounds of groups of text seats that do not rise",
    ),
    "falling bounds": (
        replace(PLAN, inverse=replace(PLAN.inverse, token_bounds=changed(PLAN.inverse.token_bounds, 2, 0))),
        "bounds of tokens that do not rise",
    ),
    "token too few": (
        replace(PLAN, inverse=replace(PLAN.inverse, tokens=PLAN.inverse.tokens[1:])),
        "one bound more than tokens",
    ),
    "tap of no row": (
        replace(BLENDED, blends=(*BLENDED.blends[:-1], replace(BLEND, taps=changed(BLEND.taps, 0, 10**6)))),
        "taps from",
    ),
    "reader of no tap": (replace(BLENDED, blends=(*BLENDED.blends[:-1], replace(BLEND, readers=BLEND.readers + 5))), "readers"),
    "falling offsets": (
        replace(PLAN, sequences=replace(PLAN.sequences, offsets=changed(PLAN.sequences.offsets, 1, 9999))),
        "bounds of sequences that do not rise",
    ),
    "a sequence longer than the longest": (
        replace(PLAN, sequences=replace(PLAN.sequences, longest=PLAN.sequences.longest - 1)),
        r"found a sequence of \d+, expected at most `longest`",
    ),
    "two spare seats": (replace(FILLED, spare=2), "found spare 2, expected 0, or 1"),
    "filled up, but no seat to spare": (replace(FILLED, spare=0), "seats from 0 to"),
    "filling on a seat": (
        replace(FILLED, newline_positions=changed(FILLED.newline_positions, -1, 0)),
        "seat 0 filled 2 times",
    ),
    "row named twice in a list that is filled up": (
        replace(FILLED, visual_rows=changed(FILLED.visual_rows, 0, int(FILLED.visual_rows[1]))),
        "rows named twice",
    ),
    "weights too few": (
        replace(BLENDED, blends=(*BLENDED.blends[:-1], replace(BLEND, weights=BLEND.weights[1:]))),
        "as many of",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_refused(name):
    plan, message = FAULTS[name]
    with pytest.raises(LlavaKitError, match=message):
        check_plan(plan)


def test_looked_at_when_it_leaves_the_cpu():
    plan, _ = FAULTS["doubled seat"]
    with pytest.raises(LlavaKitError, match="filled once"):
        plan.to("meta")
    assert PLAN.to("meta").inverse.tokens.device.type == "meta"
    assert plan.to("cpu").shape == plan.shape
