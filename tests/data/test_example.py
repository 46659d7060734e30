from __future__ import annotations

import pickle

import numpy as np
import pytest

from llava_kit.core.conversation import Conversation, ImageBytes, ImageSlot, Message, Sample
from llava_kit.core.template import ConversationTemplate
from llava_kit.data.example import fit_turns
from llava_kit.errors import LlavaKitError, SampleError
from llava_kit.splice.build import IMAGE, sample_length

from .conftest import picture, talk


def test_example_of_two_pictures(make_maker):
    maker = make_maker()
    sample = Sample("s", talk("What?", "A cat.", pictures=2), (picture((8, 8), 1), picture((8, 16), 2)), {"kind": "x"})
    example = maker.make(sample)
    assert example.id == "s"
    assert example.tags == {"kind": "x"}
    assert example.seating.grids == tuple(maker.tiler.plan(image.size) for image in sample.images)
    assert len(example.tiles) == sum(grid.num_tiles for grid in example.seating.grids)
    assert example.tiles.dtype == np.uint8
    first = example.seating.grids[0].num_tiles
    assert (example.tiles[0] == 1).all()
    assert (example.tiles[first] == 2).all()
    assert example.length == sample_length(example.seating, maker.side)
    assert example.num_targets == int(example.seating.trainable.sum())
    assert example.dropped_turns == 0


def test_tiles_follow_the_places_not_the_list(make_maker):
    message = Message("user", (ImageSlot(1), "\n", ImageSlot(0), "\nWhich?"))
    sample = Sample("s", Conversation((message, Message("assistant", ("Both.",)))), (picture(colour=1), picture(colour=2)))
    example = make_maker().make(sample)
    tiles = example.tiles[:: len(example.tiles) // 2]
    assert [int(tile.max()) for tile in tiles] == [2, 1]


def test_prompt_is_a_prefix_of_what_was_taught(make_maker):
    maker = make_maker()
    sample = Sample("s", talk("What?", "A cat.", "Why?", "So.", pictures=1), (picture(),))
    asked = Sample("s", Conversation(sample.conversation.messages[:3]), sample.images)
    whole, prompt = maker.make(sample), maker.make(asked, reply=True)
    ids = prompt.seating.token_ids
    assert whole.seating.token_ids[: len(ids)].tolist() == ids.tolist()
    assert len(whole.seating.token_ids) > len(ids)
    assert prompt.tiles.shape == whole.tiles.shape


def test_text_alone_has_no_tiles_but_their_shape(make_maker):
    example = make_maker().make(Sample("s", talk("What?", "A cat.")))
    assert example.tiles.shape == (0, 3, 8, 8)
    assert IMAGE not in example.seating.token_ids


@pytest.mark.parametrize(
    ("reason", "sample"),
    [
        ("image_count", Sample("x", talk("What?", "A.", pictures=1))),
        ("image_count", Sample("x", talk("What?", "A."), (picture(),))),
        ("image_count", Sample("x", talk("What?", "A.", pictures=1), (picture(), picture()))),
        ("empty_answer", Sample("x", talk("What?", "  "))),
        ("bad_turns", Sample("x", talk("What?"))),
        ("bad_turns", Sample("x", Conversation(()))),
        ("unreadable_image", Sample("x", talk("What?", "A.", pictures=1), (ImageBytes(b"no picture"),))),
    ],
)
def test_what_is_refused(make_maker, reason, sample):
    with pytest.raises(SampleError) as caught:
        make_maker().make(sample)
    assert caught.value.reason == reason
    assert caught.value.sample_id == "x"


class Mute(ConversationTemplate):
    """A template that forgets to mark what is learnt, or loses the picture."""

    stop = ()

    def __init__(self, lose: bool = False):
        self.lose = lose

    def render(self, conversation, *, reply=False):
        from llava_kit.core.conversation import Segment

        parts = [part for message in conversation.messages for part in message.parts]
        return [Segment(part) if isinstance(part, str) else part for part in parts if isinstance(part, str) or not self.lose]


def test_nothing_to_learn(make_maker):
    maker = make_maker()
    maker.template = Mute()
    with pytest.raises(SampleError) as caught:
        maker.make(Sample("x", talk("What?", "A.")))
    assert caught.value.reason == "no_targets"


def test_template_that_loses_a_picture(make_maker):
    maker = make_maker()
    maker.template = Mute(lose=True)
    with pytest.raises(SampleError, match="the template shows") as caught:
        maker.make(Sample("x", talk("What?", "A.", pictures=1), (picture(),)))
    assert caught.value.reason == "image_count"


@pytest.mark.parametrize("keep", range(1, 9))
def test_too_long_drops_whole_pairs_at_the_end(make_maker, keep):
    texts = [text for pair in range(8) for text in (f"Question {pair}?", f"It is {pair}, I think. " * (pair + 1))]
    sample = Sample("x", talk(*texts, pictures=1), (picture(),))
    wide = make_maker()
    wanted = wide.make(Sample("x", Conversation(sample.conversation.messages[: 2 * keep]), sample.images))
    for spare in (0, 1):
        if keep == 8 or wanted.length + spare < wide.make(sample).length:
            example = make_maker(max_length=wanted.length + spare).make(sample)
            assert example.seating.token_ids.tolist() == wanted.seating.token_ids.tolist()
            assert example.dropped_turns == 16 - 2 * keep


def test_pictures_of_dropped_turns_are_not_read(make_maker):
    broken = ImageBytes(b"no picture")
    later = Message("user", (ImageSlot(0), "\nAnd this?"))
    first = talk("What?", "A cat.").messages
    sample = Sample("x", Conversation((*first, later, Message("assistant", ("A dog.",)))), (picture((8, 16)),))
    whole = make_maker().make(sample)
    example = make_maker(max_length=whole.length - 1).make(sample)
    assert example.dropped_turns == 2
    assert example.tiles.shape[0] == 0
    assert example.seating.grids == ()
    with pytest.raises(SampleError):
        make_maker().make(Sample("x", sample.conversation, (broken,)))


@pytest.mark.parametrize("policy", ["drop_turns", "drop_sample", "error"])
def test_too_long_without_a_way_out(make_maker, policy):
    maker = make_maker(max_length=12, too_long=policy)
    with pytest.raises(SampleError) as caught:
        maker.make(Sample("x", talk("What is it?", "A cat. " * 20)))
    assert caught.value.reason == "too_long"
    assert "max_length 12" in caught.value.message


def test_prompt_that_is_too_long_is_never_cut(make_maker):
    sample = Sample("x", talk("What?", "A cat.", "Why? " * 40))
    with pytest.raises(SampleError) as caught:
        make_maker(max_length=60).make(sample, reply=True)
    assert caught.value.reason == "too_long"


def test_length_is_known_before_any_pixel(make_maker):
    class Poisoned:
        size, name = (8, 16), "poisoned"

        def render(self):
            raise AssertionError("decoded")

    from llava_kit.core.conversation import ImagePixels

    sample = Sample("x", talk("What?", "A.", pictures=1), (ImagePixels(Poisoned().render, (8, 16)),))
    with pytest.raises(SampleError) as caught:
        make_maker(max_length=20, too_long="drop_sample").make(sample)
    assert caught.value.reason == "too_long"


def test_fit_counts_a_picture_as_told(make_maker):
    maker = make_maker()
    sample = Sample("x", talk("What?", "A.", pictures=2), (picture(), picture()))
    lengths = [
        fit_turns(sample, maker.template, maker.tokenizer, picture_lengths=rows, max_length=None).length
        for rows in ((1, 1), (10, 1), (10, 20))
    ]
    assert [length - lengths[0] for length in lengths] == [0, 9, 28]


def test_unknown_policy(make_maker):
    with pytest.raises(LlavaKitError, match="did you mean 'drop_turns'"):
        make_maker(too_long="drop_turn")


def test_maker_travels_to_workers(make_maker):
    maker = make_maker()
    sample = Sample("s", talk("What?", "A cat.", pictures=1), (picture(),))
    again = pickle.loads(pickle.dumps(maker)).make(sample)
    assert again.seating.token_ids.tolist() == maker.make(sample).seating.token_ids.tolist()


def test_half_of_a_character_is_a_sample_s_fault(make_maker):
    """JSON can say it (`"\\ud800"`); tokenizers raise a TypeError that tells nobody which sample."""
    sample = Sample("s", talk("What?", "A \ud800 cat."))
    with pytest.raises(SampleError, match=r"half of a character \('\\ud800'\)") as caught:
        make_maker().make(sample)
    assert (caught.value.reason, caught.value.sample_id) == ("lone_surrogate", "s")
