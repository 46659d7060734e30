"""`check_splicer` finds the mistakes that a splicer can make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llava_kit.splice.reference import ReferenceSplicer, seated_rows
from llava_kit.testing import check_splicer


def seat(plan, rows, embedding, newline, visual, text=None):
    """Fills `rows` [T, D] (or one more, if the plan has a spare seat), which may hold anything."""
    rows = rows.index_copy(0, plan.text_positions, F.embedding(plan.text_ids, embedding) if text is None else text)
    for positions, seated in visual:
        rows = rows.index_copy(0, positions, seated)
    if newline is not None:
        rows = rows.index_copy(0, plan.newline_positions, newline.expand(len(plan.newline_positions), -1))
    return rows[: plan.source.numel()].view(*plan.shape, -1)


def all_visual(plan, features, connector, embedding):
    return [(positions, rows.to(embedding.dtype)) for positions, rows in seated_rows(plan, features, connector)]


def zeros(plan, embedding):
    return embedding.new_zeros(plan.source.numel() + plan.spare, embedding.shape[1])


def sound(plan, features, connector, embedding, newline):
    visual = all_visual(plan, features, connector, embedding)
    return seat(plan, zeros(plan, embedding), embedding, newline, visual)


def leaves_padding_unwritten(plan, features, connector, embedding, newline):
    visual = all_visual(plan, features, connector, embedding)
    return seat(plan, torch.empty_like(zeros(plan, embedding)), embedding, newline, visual)


def takes_rows_as_they_come(plan, features, connector, embedding, newline):
    visual = [(plan.visual_positions, connector(features.to(embedding.dtype)).flatten(0, 1)[: len(plan.visual_rows)])]
    return seat(plan, zeros(plan, embedding), embedding, newline, visual)


def skips_the_connector_without_pictures(plan, features, connector, embedding, newline):
    visual = [] if not len(plan.visual_rows) else all_visual(plan, features, connector, embedding)
    return seat(plan, zeros(plan, embedding), embedding, newline, visual)


def forgets_the_newlines_gradient(plan, features, connector, embedding, newline):
    visual = all_visual(plan, features, connector, embedding)
    detached = None if newline is None else newline.detach()
    return seat(plan, zeros(plan, embedding), embedding, detached, visual)


def counts_repeated_tokens_once(plan, features, connector, embedding, newline):
    visual = all_visual(plan, features, connector, embedding)
    text = F.embedding(plan.text_ids, embedding).clone()
    for token in plan.text_ids.unique():
        repeats = (plan.text_ids == token).nonzero()[1:, 0]
        text[repeats] = text[repeats].detach()
    return seat(plan, zeros(plan, embedding), embedding, newline, visual, text)


def rounds_on_the_way(plan, features, connector, embedding, newline):
    seated = all_visual(plan, features, connector, embedding)
    visual = [(positions, rows.bfloat16().to(embedding.dtype)) for positions, rows in seated]
    return seat(plan, zeros(plan, embedding), embedding, newline, visual)


def leaves_blends_out(plan, features, connector, embedding, newline):
    visual = all_visual(plan, features, connector, embedding)[:1]
    return seat(plan, zeros(plan, embedding), embedding, newline, visual)


def takes_the_nearest_row(plan, features, connector, embedding, newline):
    blends = [replace(blend, weights=blend.weights.round()) for blend in plan.blends]
    return sound(replace(plan, blends=tuple(blends)), features, connector, embedding, newline)


def sums_where_the_greatest_is_asked_for(plan, features, connector, embedding, newline):
    blends = [replace(blend, reduce="sum") for blend in plan.blends]
    return sound(replace(plan, blends=tuple(blends)), features, connector, embedding, newline)


def has_no_seat_to_spare(plan, features, connector, embedding, newline):
    last = plan.source.numel() - 1
    visual = [(positions.clamp(max=last), rows) for positions, rows in all_visual(plan, features, connector, embedding)]
    lists = {name: getattr(plan, name).clamp(max=last) for name in ("text_positions", "newline_positions")}
    return seat(replace(plan, **lists), zeros(plan, embedding), embedding, newline, visual)


def returns_the_towers_precision(plan, features, connector, embedding, newline):
    return sound(plan, features, connector, embedding, newline).to(features.dtype)


def test_a_second_way_passes():
    check_splicer(sound)


@pytest.mark.parametrize(
    ("splicer", "message"),
    [
        (leaves_padding_unwritten, "rows off by nan|rows off by"),
        (takes_rows_as_they_come, "rows off by"),
        (skips_the_connector_without_pictures, "'text_only': (features|connector.*) trains but got no gradient"),
        (forgets_the_newlines_gradient, "newline trains but got no gradient"),
        (counts_repeated_tokens_once, "gradient of embedding off by"),
        (rounds_on_the_way, "rows off by"),
        (leaves_blends_out, "'shrunk': rows off by"),
        (takes_the_nearest_row, "'shrunk': rows off by"),
        (sums_where_the_greatest_is_asked_for, "'clips': rows off by"),
        (has_no_seat_to_spare, "'filled_.*': rows off by"),
        (returns_the_towers_precision, "'coarse_tower': rows are torch.bfloat16"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistakes_are_found(splicer, message):
    with pytest.raises(AssertionError, match=message):
        check_splicer(splicer)


def test_leaves_the_settings_of_torch_as_they_were():
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    check_splicer(ReferenceSplicer())
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
