"""The plan, against seats dealt out one by one, and every mistake it must name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava_kit.core.splice import BLENDED, NEWLINE, PAD, TEXT
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.errors import LlavaKitError, SampleError
from llava_kit.splice.blend import mixture
from llava_kit.splice.build import IMAGE, Built, Seating, build_plan, sample_length
from llava_kit.splice.layout import picture_rows

VOCAB = 100
OVERVIEW = TileGrid((10, 10))
SIDE = Grid(2, 2)


def dealt_out(rows: list[list[Seating]], side: Grid, length: int) -> dict[str, list]:
    """Everything the plan says, by appending one seat after another."""
    source, text_ids, position_ids, offsets, targets, tiles = [], {}, [], [], [], 0
    blended = {"sum": [], "max": []}
    for row in rows:
        begin = len(source)
        for seating in row:
            first = len(source)
            offsets.append(first)
            grids = iter(seating.grids)
            for token, trainable in zip(seating.token_ids.tolist(), seating.trainable.tolist()):
                if token == IMAGE:
                    grid = next(grids)
                    rows_of_picture = picture_rows(grid, side, tiles * side.area).tolist()
                    mixed = mixture(grid, side)
                    if mixed is not None:
                        seats = [len(source) + place for place, row in enumerate(rows_of_picture) if row == BLENDED]
                        four = (mixed.rows[mixed.taps] + tiles * side.area).tolist()
                        blended[mixed.reduce] += zip(seats, four, mixed.weights.tolist(), strict=True)
                    source += rows_of_picture
                    tiles += grid.num_tiles
                    continue
                if trainable and len(source) > first:
                    targets.append((len(source) - 1, token))
                text_ids[len(source)] = token
                source.append(TEXT)
            position_ids += range(len(source) - first)
        rest = begin + length - len(source)
        if rest:
            offsets.append(len(source))
        source += [PAD] * rest
        position_ids += range(rest)
    return {
        "source": source,
        "text_positions": list(text_ids),
        "text_ids": list(text_ids.values()),
        "position_ids": position_ids,
        "offsets": [*offsets, len(source)],
        "targets": targets,
        "tiles": tiles,
        "blended": {reduce: rows for reduce, rows in blended.items() if rows},
    }


def check(built: Built, rows: list[list[Seating]], side: Grid, length: int) -> None:
    expected, plan = dealt_out(rows, side, length), built.plan
    source = plan.source.tolist()
    assert plan.shape == (len(rows), length)
    assert source == expected["source"]
    assert plan.text_positions.tolist() == expected["text_positions"]
    assert plan.text_ids.tolist() == expected["text_ids"]
    assert plan.visual_positions.tolist() == [p for p, row in enumerate(source) if row >= 0]
    assert plan.visual_rows.tolist() == [row for row in source if row >= 0]
    assert plan.newline_positions.tolist() == [p for p, row in enumerate(source) if row == NEWLINE]
    assert len(set(plan.visual_rows.tolist())) == len(plan.visual_rows)  # each at most once
    found = {b.reduce: list(zip(b.positions.tolist(), b.rows[b.taps].tolist(), b.weights.tolist())) for b in plan.blends}
    assert found == expected["blended"]
    for blend in plan.blends:
        assert len(set(blend.rows.tolist())) == len(blend.rows) == len(blend.taps.unique())  # each once, and none in vain
        if blend.reduce == "sum":
            torch.testing.assert_close(blend.weights.sum(1), torch.ones(len(blend.weights)))
    assert built.position_ids.flatten().tolist() == expected["position_ids"]
    assert built.position_ids.shape == plan.shape
    assert list(zip(built.target_positions.tolist(), built.target_ids.tolist())) == expected["targets"]
    assert plan.num_visual == expected["tiles"] * side.area
    sequences = plan.sequences
    assert list(sequences.host_offsets) == sequences.offsets.tolist() == expected["offsets"]
    assert sequences.longest == max(np.diff(expected["offsets"]))
    assert sequences.packed == any(len(row) > 1 for row in rows)


@pytest.mark.parametrize("seed", range(60))
def test_random_batches(random_seating, seed):
    random = np.random.default_rng(seed)
    side = Grid(*random.integers(2, 5, 2).tolist())
    per_row = random.integers(0 if seed % 3 else 1, 4 if seed % 2 else 2, random.integers(1, 6))
    if not per_row.any():
        per_row[0] = 1
    rows = [[random_seating(random, f"{row}.{i}") for i in range(count)] for row, count in enumerate(per_row)]
    longest = max(sum(sample_length(seating, side) for seating in row) for row in rows)
    check(build_plan(rows, side=side, vocab=VOCAB), rows, side, longest)
    length = longest + int(random.integers(0, 20))
    check(build_plan(rows, side=side, vocab=VOCAB, length=length), rows, side, length)


def test_dtypes(seating):
    built = build_plan([[seating("1 P 2*", TileGrid((9, 9), Grid(1, 1), "spatial_unpad"))]], side=SIDE, vocab=VOCAB)
    plan = built.plan
    assert (plan.source.dtype, plan.sequences.offsets.dtype) == (torch.int32, torch.int32)
    wide = (plan.text_ids, plan.text_positions, plan.visual_rows, plan.visual_positions, plan.newline_positions, *built[1:])
    assert {tensor.dtype for tensor in wide} == {torch.int64}


def test_a_picture_predicts_the_word_after_it(seating):
    built = build_plan([[seating("1* P 2* 3 4*", OVERVIEW)]], side=SIDE, vocab=VOCAB)
    # 1 stands first and has no predictor; 2 is predicted by the picture's last row (seat 4), 4 by the token 3.
    assert list(zip(built.target_positions.tolist(), built.target_ids.tolist())) == [(4, 2), (6, 4)]


def test_targets_never_cross_from_one_sequence_to_the_next(seating):
    built = build_plan([[seating("1 2"), seating("3* 4*")]], side=SIDE, vocab=VOCAB)
    assert built.target_positions.tolist() == [2]
    assert built.plan.sequences.packed


def test_flags_at_pictures_are_ignored(seating):
    one = seating("1 P 2", OVERVIEW)
    flagged = Seating(one.token_ids, np.ones(3, bool), one.grids, one.sample_id)
    assert build_plan([[flagged]], side=SIDE, vocab=VOCAB).target_ids.tolist() == [2]


def test_padding_is_a_sequence_but_not_packing(seating):
    built = build_plan([[seating("1 2 3")], [seating("4")]], side=SIDE, vocab=VOCAB, length=4)
    assert built.plan.sequences.host_offsets == (0, 3, 4, 5, 8)
    assert built.plan.sequences.longest == 3
    assert not built.plan.sequences.packed
    assert built.position_ids.tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]


@pytest.mark.parametrize(("length", "round_to", "expected"), [(None, 1, 3), (None, 8, 8), (5, 8, 8), (16, 8, 16), (3, 3, 3)])
def test_length(seating, length, round_to, expected):
    built = build_plan([[seating("1 2 3")], [seating("4")]], side=SIDE, vocab=VOCAB, length=length, round_to=round_to)
    assert built.plan.shape == (2, expected)


def test_tiles_of_padding_count_as_visual_rows(seating):
    rows = [[seating("1 P", TileGrid((9, 9), Grid(1, 2)))], [seating("P 1", OVERVIEW)]]
    assert build_plan(rows, side=SIDE, vocab=VOCAB).plan.num_visual == 16
    plan = build_plan(rows, side=SIDE, vocab=VOCAB, num_tiles=8).plan
    assert plan.num_visual == 32
    assert plan.visual_rows.max() == 15
    assert build_plan([[seating("1")]], side=SIDE, vocab=VOCAB, num_tiles=4).plan.num_visual == 16
    with pytest.raises(LlavaKitError, match="have 4 tiles, more than num_tiles=3"):
        build_plan(rows, side=SIDE, vocab=VOCAB, num_tiles=3)


def refusal(rows: list[list[Seating]], **options) -> SampleError:
    with pytest.raises(SampleError) as caught:
        build_plan(rows, side=SIDE, vocab=VOCAB, **options)
    return caught.value


@pytest.mark.parametrize(("text", "grids"), [("1 P P", 1), ("1 P", 2), ("1", 1), ("P", 0)])
def test_pictures_and_places_must_agree(seating, text, grids):
    bad = seating(text, *[OVERVIEW] * grids, name="bad")
    error = refusal([[seating("1 P", OVERVIEW)], [seating("2"), bad]])
    assert (error.reason, error.sample_id) == ("image_count", "bad")
    assert f"{text.count('P')} pictures" in error.message
    assert f"with {grids}" in error.message


@pytest.mark.parametrize("token", [VOCAB, -1, -201])
def test_ids_outside_the_vocabulary(seating, token):
    error = refusal([[seating("1 P 2", OVERVIEW), seating(f"1 2 {token}", name="bad")]])
    assert (error.reason, error.sample_id) == ("token_outside_vocabulary", "bad")
    assert f"token 2 has id {token}, expected 0 to {VOCAB - 1}" in error.message


def test_too_long(seating):
    error = refusal([[seating("1")], [seating("1 2"), seating("1 P 2", OVERVIEW, name="bad")]], length=5)
    assert (error.reason, error.sample_id) == ("too_long", "bad")
    assert "takes 6 positions" in error.message
    with pytest.raises(LlavaKitError, match=r"'a', 'b' share a row and take 7 positions, more than its length of 6"):
        build_plan([[seating("1 P 2", OVERVIEW, name="a"), seating("3", name="b")]], side=SIDE, vocab=VOCAB, length=6)


def test_nothing(seating):
    error = refusal([[seating("1"), seating("", name="bad")]])
    assert (error.reason, error.sample_id) == ("empty_sample", "bad")
    for rows in ([], [[], []]):
        with pytest.raises(LlavaKitError, match="at least one sample"):
            build_plan(rows, side=SIDE, vocab=VOCAB)


def test_callers_arrays_stay_as_they_are(seating):
    one = seating("1 P 2*", OVERVIEW)
    ids = one.token_ids.copy()
    plan = build_plan([[one]], side=SIDE, vocab=VOCAB).plan
    plan.text_ids.zero_()
    assert (one.token_ids == ids).all()
