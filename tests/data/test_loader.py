from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from llava_kit.core.splice import PAD, Inverse, Sequences, SplicePlan
from llava_kit.data.collate import Batch
from llava_kit.data.loader import TrainLoader, iterate_examples
from llava_kit.errors import DataError, LlavaKitError

from .conftest import DrawnSource


def same(one, other) -> bool:
    """Bit for bit, through nested records."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (Batch, SplicePlan, Sequences, Inverse)):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other


def all_same(ones, others) -> bool:
    ones, others = list(ones), list(others)
    return len(ones) == len(others) and all(
        same(batch, twin)
        for one, other in zip(ones, others)
        for batch, twin in zip(
            (*one.batches, one.step, one.epoch, one.bad), (*other.batches, other.step, other.epoch, other.bad)
        )
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bits(make_maker, workers):
    settings = {"global_batch_size": 5, "micro_batch_size": 2, "epochs": 2, "seed": 3}
    source = DrawnSource(17, bad=(4, 11))
    alone = list(TrainLoader(make_maker(), source, **settings))
    assert len(alone) == 8
    assert sum(len(step.bad) for step in alone) == 4
    assert all_same(alone, TrainLoader(make_maker(), source, workers=workers, **settings))


@pytest.mark.parametrize("start_step", [0, 3, 7, 8, 9])
def test_resuming_is_one_number(make_maker, start_step):
    settings = {"global_batch_size": 5, "epochs": 2, "seed": 1}
    source = DrawnSource(17)
    whole = list(TrainLoader(make_maker(), source, **settings))
    loader = TrainLoader(make_maker(), source, start_step=start_step, **settings)
    assert len(loader) == max(0, 8 - start_step)
    assert loader.num_steps == 8
    assert all_same(whole[start_step:], loader)


def test_every_sample_once_an_epoch(make_maker):
    steps = list(TrainLoader(make_maker(), DrawnSource(17), global_batch_size=4, micro_batch_size=3, epochs=1, workers=2))
    names = [name for step in steps for batch in step.batches for name in batch.sample_ids]
    assert sorted(names) == sorted(f"s{index}" for index in range(17))
    assert [step.num_samples for step in steps] == [4, 4, 4, 4, 1]
    assert [step.step for step in steps] == list(range(5))


def test_sequential_order(make_maker):
    steps = TrainLoader(make_maker(), DrawnSource(7), global_batch_size=3, epochs=1, shuffled=False)
    names = [sorted(name for batch in step.batches for name in batch.sample_ids) for step in steps]
    assert names == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]


def test_micro_batches_are_sorted_by_length(make_maker):
    (step,) = TrainLoader(make_maker(), DrawnSource(12), global_batch_size=12, micro_batch_size=4, steps=1)
    widths = [batch.plan.shape for batch in step.batches]
    assert [rows for rows, _ in widths] == [4, 4, 4]
    assert widths == sorted(widths, key=lambda shape: -shape[1])
    lengths = [batch.num_tokens for batch in step.batches]
    assert lengths == sorted(lengths, reverse=True)


def test_packed_rows(make_maker):
    maker = make_maker(max_length=160)
    source = DrawnSource(24)
    (packed,) = TrainLoader(maker, source, global_batch_size=24, micro_batch_size=2, steps=1, pack_rows=True, round_to=8)
    (padded,) = TrainLoader(maker, source, global_batch_size=24, steps=1)
    assert all(batch.plan.shape[0] <= 2 and batch.plan.shape[1] <= 160 for batch in packed.batches)
    assert all(batch.plan.shape[1] % 8 == 0 for batch in packed.batches)
    assert packed.num_samples == padded.num_samples == 24
    assert sum(batch.num_targets for batch in packed.batches) == padded.batches[0].num_targets
    positions = sum(batch.plan.shape[0] * batch.plan.shape[1] for batch in packed.batches)
    assert positions < padded.batches[0].plan.shape[0] * padded.batches[0].plan.shape[1]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_step(make_maker, world_size):
    settings = {"global_batch_size": 6, "epochs": 1, "seed": 5, "world_size": world_size}
    ranks = [list(TrainLoader(make_maker(), DrawnSource(20), rank=rank, **settings)) for rank in range(world_size)]
    alone = list(TrainLoader(make_maker(), DrawnSource(20), global_batch_size=6, epochs=1, seed=5))
    for step, whole in enumerate(alone):
        shared = [name for rank in ranks for batch in rank[step].batches for name in batch.sample_ids]
        assert sorted(shared) == sorted(name for batch in whole.batches for name in batch.sample_ids)


def test_a_step_of_bad_samples_alone_is_empty(make_maker):
    steps = list(TrainLoader(make_maker(), DrawnSource(2, bad=(0, 1)), global_batch_size=1, epochs=1))
    assert [step.batches for step in steps] == [(), ()]
    assert [step.num_seen for step in steps] == [1, 1]
    assert {step.bad[0].id for step in steps} == {"s0", "s1"}


def test_dropped_turns_are_counted(make_maker):
    maker = make_maker()
    source = DrawnSource(3)
    narrow = make_maker(max_length=max(maker.make(source[index]).length for index in range(3)))
    (step,) = TrainLoader(narrow, source, global_batch_size=3, steps=1)
    assert step.dropped_turns == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_too_long_can_stop_the_run(make_maker, workers):
    maker = make_maker(max_length=30, too_long="error")
    with pytest.raises(DataError, match="max_length") as caught:
        list(TrainLoader(maker, DrawnSource(8), global_batch_size=8, steps=1, workers=workers))
    assert type(caught.value) is DataError


def test_examples_for_validation(make_maker):
    bad = []
    found = list(iterate_examples(make_maker(), DrawnSource(9, bad=(2,)), range(1, 5), bad.append))
    assert [example.id for example in found] == ["s1", "s3", "s4"]
    assert [sample.reason for sample in bad] == ["missing_image"]
    assert len(list(iterate_examples(make_maker(), DrawnSource(9, bad=(2,)), [2]))) == 0


def test_a_fault_in_the_source_names_the_sample(make_maker):
    class Faulty(DrawnSource):
        def __getitem__(self, index):
            raise KeyError("oops")

    with pytest.raises(KeyError) as caught:
        list(TrainLoader(make_maker(), Faulty(3), global_batch_size=3, steps=1, shuffled=False))
    assert caught.value.__notes__ == ["while sample number 0 was read"]


def test_fixed_shapes(make_maker):
    """Every batch has all rows of the maker's length, the last batch of a step too; targets are counted without filling."""
    settings = {"global_batch_size": 9, "micro_batch_size": 2, "pack_rows": True, "epochs": 1}
    maker, source = make_maker(max_length=160), DrawnSource(40)
    plain = list(TrainLoader(maker, source, **settings))
    filled = list(TrainLoader(maker, source, fixed_shapes=True, **settings))
    batches = [batch for step in filled for batch in step.batches]
    assert {batch.plan.shape for batch in batches} == {(2, 160)}
    assert any((batch.plan.source.view(2, 160) == PAD).all(1).any() for batch in batches)
    assert {len(batch.tiles) for batch in batches} <= {4, 8, 12, 16, 20, 24}
    of_tiles = {}
    for batch in batches:
        lists = [batch.plan.text_ids, batch.plan.visual_rows, batch.plan.newline_positions, batch.plan.sequences.offsets]
        of_tiles.setdefault(len(batch.tiles), set()).add(tuple(len(each) for each in lists))
    assert all(len(lengths) == 1 for lengths in of_tiles.values())
    assert all(len(batch.target_ids) % 64 == 0 for batch in batches)
    for step, twin in zip(plain, filled, strict=True):
        assert [batch.num_targets for batch in step.batches] == [batch.num_targets for batch in twin.batches]
        assert [batch.sample_ids for batch in step.batches] == [batch.sample_ids for batch in twin.batches]
        for batch, other in zip(step.batches, twin.batches):
            assert batch.num_targets == len(batch.target_ids)
            assert torch.equal(other.target_ids[: batch.num_targets], batch.target_ids)


@pytest.mark.parametrize("settings", [{"micro_batch_size": 2}, {"pack_rows": True}])
def test_fixed_shapes_need_packed_rows_and_their_number(make_maker, settings):
    with pytest.raises(LlavaKitError, match="expected packed rows, and how many of them"):
        TrainLoader(make_maker(), DrawnSource(4), global_batch_size=4, steps=1, fixed_shapes=True, **settings)
