"""Filled-up plans: the same rows and gradients, lists of few lengths, and nothing on a seat that is somebody's."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from llava_kit.core.plan_check import check_plan
from llava_kit.core.splice import Blend, SplicePlan
from llava_kit.core.tiles import Grid
from llava_kit.errors import LlavaKitError
from llava_kit.splice.build import Built, build_plan
from llava_kit.splice.fixed import fill_up, round_tiles
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit.testing.plans import Case, Mlp, Through

SIDE = Grid(3, 4)
LENGTH, ROWS = 260, 3


@pytest.fixture
def random_batch(random_seating):
    """Rows that hold what fits of random sequences; the last may be empty."""

    def make(seed: int) -> Built:
        random = np.random.default_rng(seed)
        rows: list[list] = [[] for _ in range(ROWS)]
        for number in range(int(random.integers(2, 6))):
            row = rows[int(random.integers(0, ROWS - 1))]
            row.append(random_seating(random, str(number)))
            try:
                build_plan([row], side=SIDE, vocab=100, length=LENGTH)
            except LlavaKitError:  # it does not fit
                row.pop()
        if not any(rows):
            return make(seed + 1000)
        used = sum(grid.num_tiles for row in rows for seating in row for grid in seating.grids)
        return build_plan(rows, side=SIDE, vocab=100, length=LENGTH, num_tiles=max(48, used))

    return make


def shapes(record) -> dict[str, object]:
    """Everything of a record that a compiled step would be compiled for anew."""
    found: dict[str, object] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            found[field.name] = (value.shape, value.dtype)
        elif isinstance(value, tuple) and value and isinstance(value[0], Blend):
            found |= {
                f"{field.name}.{number}.{name}": of for number, blend in enumerate(value) for name, of in shapes(blend).items()
            }
        elif hasattr(value, "__dataclass_fields__"):
            found |= {f"{field.name}.{name}": of for name, of in shapes(value).items()}
        elif field.name != "host_offsets":
            found[field.name] = value
    return found


@pytest.mark.parametrize("newlines", [True, False])
def test_random_batches_have_the_same_shapes(random_batch, newlines):
    seen: dict[tuple, set] = {}
    for seed in range(60):
        built = random_batch(seed)
        if not newlines and len(built.plan.newline_positions):
            continue
        if built.plan.num_visual != 48 * SIDE.area:
            continue
        filled = fill_up(built, newlines=newlines)
        check_plan(filled.plan)
        of = shapes(filled.plan)
        # Which ways of blending there are, and the rounded number of different tokens, are the plan's two variables.
        key = tuple(blend.reduce for blend in filled.plan.blends), len(filled.plan.inverse.tokens)
        of["targets"] = filled.target_positions.shape
        seen.setdefault(key, set()).add(tuple(sorted((name, str(shape)) for name, shape in of.items())))
    assert seen
    assert all(len(different) == 1 for different in seen.values())
    assert len({tokens for _, tokens in seen}) <= 2


def test_every_list_keeps_its_beginning(random_batch):
    for seed in range(20):
        built = random_batch(seed)
        plan, filled = built.plan, fill_up(built, newlines=True).plan
        seats = ROWS * LENGTH
        assert filled.spare == 1
        assert torch.equal(filled.source, plan.source)
        for name in ("text_ids", "text_positions", "visual_rows", "visual_positions", "newline_positions"):
            before, after = getattr(plan, name), getattr(filled, name)
            assert torch.equal(after[: len(before)], before)
            assert (after[len(before) :] == (0 if name in ("text_ids", "visual_rows") else seats)).all()
        assert torch.equal(filled.sequences.offsets[: len(plan.sequences.offsets)], plan.sequences.offsets)
        assert (filled.sequences.offsets[len(plan.sequences.offsets) :] == seats).all()
        assert filled.sequences.host_offsets == plan.sequences.host_offsets
        assert filled.sequences.packed


def text_gradient(plan: SplicePlan, grad: Tensor, vocab: int) -> Tensor:
    """What a kernel makes of the groups: each token's sum over the seats of its groups."""
    inverse = plan.inverse
    table = grad.new_zeros(vocab, grad.shape[1])
    group_bounds, token_bounds = inverse.group_bounds.tolist(), inverse.token_bounds.tolist()
    for token, first, last in zip(inverse.tokens.tolist(), token_bounds[:-1], token_bounds[1:]):
        for group in range(first, last):
            seats = inverse.text_seats[group_bounds[group] : group_bounds[group + 1]].long()
            assert len(seats) <= 256
            if token >= 0:
                table[token] += grad[seats].sum(0)
            else:
                assert (seats == len(grad)).all()
    return table


def test_groups_of_tokens_hold_the_same_seats(random_batch):
    for seed in range(5):
        built = random_batch(seed)
        grad = torch.randn(ROWS * LENGTH, 3, dtype=torch.float64)
        expected = torch.zeros(100, 3, dtype=torch.float64)
        expected.index_add_(0, built.plan.text_ids, grad[built.plan.text_positions])
        torch.testing.assert_close(text_gradient(fill_up(built, newlines=True).plan, grad, 100), expected)


def test_readers_of_blends_are_their_taps(random_batch):
    blends = [blend for seed in range(8) for blend in fill_up(random_batch(seed), newlines=True).plan.blends]
    assert {blend.reduce for blend in blends} == {"sum", "max"}
    for blend in blends:
        bounds = blend.reader_bounds.tolist()
        for row in range(0, len(blend.rows), 7):
            group = blend.readers[bounds[row] : bounds[row + 1]].long()
            assert (blend.taps.flatten()[group] == row).all()
        assert torch.equal(blend.readers.sort().values, torch.arange(blend.taps.numel(), dtype=torch.int32))
        # No row has most of them.
        assert blend.reader_bounds.diff().max() <= 4 * len(blend.taps) // len(blend.rows) + 40


@pytest.mark.parametrize("connector", [Through, Mlp])
def test_rows_and_gradients_are_those_of_the_plan(random_batch, connector):
    """Bit for bit, where nothing is taken of more rows than before whose order of summation depends on their number."""
    for seed in range(8):
        built = random_batch(seed)
        results = []
        for plan in (built.plan, fill_up(built, newlines=True).plan):
            parts = Case("", plan, SIDE, connector, 16, 16).parts(torch.float32, "cpu")
            embedding = torch.nn.Parameter(torch.randn(100, 16, generator=torch.Generator().manual_seed(1)))
            rows = ReferenceSplicer()(plan, parts.features, parts.connector, embedding, parts.newline)
            rows.square().sum().backward()
            results.append(
                [rows.detach(), embedding.grad, *(t.grad for name, t in parts.trained.items() if name != "embedding")]
            )
        for plain, filled in zip(*results, strict=True):
            if connector is Through and not built.plan.blends:
                assert torch.equal(plain, filled), seed
            else:
                torch.testing.assert_close(plain, filled, atol=3e-5, rtol=1e-5)


def test_filling_twice_is_filling_once(random_batch):
    once = fill_up(random_batch(0), newlines=True)
    assert fill_up(once, newlines=True) is once


def test_tiles_are_rounded_by_a_quarter_at_most():
    counts = [round_tiles(used) for used in range(300)]
    assert counts[0] == 4
    assert all(used <= count <= max(4, used * 1.25 + 3) for used, count in enumerate(counts))
    assert sorted(set(counts)) == [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
