from __future__ import annotations

import pytest
import torch

from llava_kit.core.conversation import Sample
from llava_kit.core.splice import PAD
from llava_kit.data.collate import TILE_MULTIPLE, collate
from llava_kit.errors import SampleError

from .conftest import DrawnSource, picture, talk


@pytest.fixture
def examples(make_maker):
    maker, source = make_maker(), DrawnSource(6)
    return maker.side, [maker.make(source[index]) for index in range(6)]


def test_batch_of_samples(examples):
    side, some = examples
    batch = collate(some, side=side, vocab=1000)
    used = sum(len(example.tiles) for example in some)
    assert batch.tiles.dtype == torch.uint8
    assert len(batch.tiles) % TILE_MULTIPLE == 0
    assert used <= len(batch.tiles) < used + TILE_MULTIPLE
    assert not batch.tiles[used:].any()
    assert batch.plan.shape == (6, max(example.length for example in some))
    assert batch.plan.num_visual == len(batch.tiles) * side.area
    assert batch.sample_ids == tuple(example.id for example in some)
    assert batch.num_tokens == sum(example.length for example in some) == int((batch.plan.source != PAD).sum())
    assert batch.num_targets == sum(example.num_targets for example in some) == len(batch.target_positions)


def test_rows_that_are_shared(examples):
    side, some = examples
    batch = collate(some, side=side, vocab=1000, rows_of=[[3, 1], [5]], round_to=16)
    assert batch.sample_ids == ("s3", "s1", "s5")
    assert batch.plan.shape[0] == 2
    assert batch.plan.shape[1] % 16 == 0
    assert batch.plan.sequences.packed
    assert (batch.position_ids == 0).sum() == len(batch.plan.sequences.host_offsets) - 1
    tiles = torch.cat([torch.from_numpy(some[index].tiles) for index in (3, 1, 5)])
    assert torch.equal(batch.tiles[: len(tiles)], tiles)


def test_batch_without_pictures_has_black_tiles(make_maker):
    maker = make_maker()
    batch = collate([maker.make(Sample("s", talk("What?", "A cat.")))], side=maker.side, vocab=1000)
    assert batch.tiles.shape == (TILE_MULTIPLE, 3, 8, 8)
    assert not batch.tiles.any()
    assert len(batch.plan.visual_rows) == 0


def test_no_more_tiles_than_asked_for(make_maker):
    maker = make_maker()
    shown = maker.make(Sample("s", talk("What?", "A.", pictures=1), (picture(),)))
    text = maker.make(Sample("t", talk("What?", "A cat.")))
    for examples in ([shown], [shown, text, shown]):
        batch = collate(examples, side=maker.side, vocab=1000, tile_multiple=1)
        assert torch.equal(batch.tiles, torch.cat([torch.from_numpy(example.tiles) for example in examples]))
    assert len(collate([text], side=maker.side, vocab=1000, tile_multiple=1).tiles) == 1


def test_length_is_kept(examples):
    side, some = examples
    assert collate(some, side=side, vocab=1000, length=500).plan.shape == (6, 500)
    with pytest.raises(SampleError, match="s5"):
        collate(some, side=side, vocab=1000, length=some[5].length - 1)


def test_token_outside_the_embedding_names_the_sample(examples):
    side, some = examples
    with pytest.raises(SampleError) as caught:
        collate(some, side=side, vocab=20)
    assert caught.value.reason == "token_outside_vocabulary"


def test_to_moves_everything(make_maker):
    maker = make_maker()
    batch = collate([maker.make(Sample("s", talk("What?", "A.", pictures=1), (picture(),)))], side=maker.side, vocab=1000)
    there = batch.to("meta")
    moved = (there.tiles, there.position_ids, there.target_positions, there.target_ids, there.plan.source)
    assert all(tensor.device.type == "meta" for tensor in moved)
    assert there.num_tokens == batch.num_tokens
