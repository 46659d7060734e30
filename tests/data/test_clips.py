"""Clips and several pictures become examples: which frames, how many rows, what is said of their times."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import Clip, ClipFolder, Conversation, ImageSlot, Message, Sample
from llava_kit.core.splice import BLENDED
from llava_kit.core.tiles import ClipGrid, Grid, TileGrid
from llava_kit.data.clips import shown_of, spread, tell_times, time_sentence
from llava_kit.data.collate import collate
from llava_kit.errors import LlavaKitError, SampleError
from llava_kit.image.tiling import TilingOptions, VideoOptions
from llava_kit.splice.layout import count_rows

from .conftest import picture, talk

CANVASES = ((8, 16), (16, 8), (16, 16))


def options(several: str = "same", **video) -> TilingOptions:
    return TilingOptions("anyres", CANVASES, several=several, video=VideoOptions(**video))


def clip(count: int, **keys) -> Clip:
    """Frame i is a picture of colour i."""
    return Clip(tuple(picture((8, 8), number) for number in range(count)), **keys)


@pytest.mark.parametrize("count", [1, 2, 7, 31, 32, 33, 100, 1799])
@pytest.mark.parametrize("most", [1, 2, 8, 32])
def test_frames_are_spread_as_linspace_does(count, most):
    expected = range(count) if count <= most else np.linspace(0, count - 1, most, dtype=int).tolist()
    assert spread(count, most) == list(expected)


@pytest.mark.parametrize(("pool", "rows"), [("bilinear", 1), ("average", 1), ("max", 1)])
def test_a_clip_takes_a_tile_for_each_frame_that_is_looked_at(make_maker, pool, rows):
    maker = make_maker(tiling=options(frames=4, pool=pool))
    example = maker.make(Sample("s", talk("What?", "A cat.", pictures=1), (clip(10),)))
    assert example.seating.grids == (ClipGrid(4, pool, "grid"),)
    assert example.tiles.shape == (4, 3, 8, 8)
    assert [int(tile.max()) for tile in example.tiles] == [0, 3, 6, 9]
    assert count_rows(example.seating.grids[0], maker.side) == 4 * rows * 2
    batch = collate([example], side=maker.side, vocab=1000)
    assert int((batch.plan.source == BLENDED).sum()) == 4
    assert [blend.reduce for blend in batch.plan.blends] == ["max" if pool == "max" else "sum"]
    assert batch.num_tokens == example.length


def test_a_clip_and_pictures_in_one_sample(make_maker):
    maker = make_maker(tiling=options(frames=2))
    message = Message("user", (ImageSlot(1), "\n", ImageSlot(0), "\nWhich?"))
    sample = Sample("s", Conversation((message, Message("assistant", ("Both.",)))), (clip(2), picture((16, 16), 9)))
    example = maker.make(sample)
    assert [type(grid) for grid in example.seating.grids] == [TileGrid, ClipGrid]
    assert example.seating.grids[0].tiles == Grid(2, 2), "the clip is no second picture"
    assert [int(tile.max()) for tile in example.tiles] == [9] * 5 + [0, 1]


def test_several_pictures_are_padded_where_that_is_asked_for(make_maker):
    one, two = (Sample("s", talk("What?", "A.", pictures=count), (picture((16, 16)),) * count) for count in (1, 2))
    maker = make_maker(tiling=options("pad"))
    assert maker.make(one).seating.grids == (TileGrid((16, 16), Grid(2, 2), "spatial_unpad"),)
    example = maker.make(two)
    assert example.seating.grids == (TileGrid((16, 16), merge="spatial_unpad"),) * 2
    assert len(example.tiles) == 2
    assert [count_rows(grid, maker.side) for grid in example.seating.grids] == [5, 5]  # one tile of four, and a newline
    assert [grid.tiles for grid in make_maker(tiling=options("same")).make(two).seating.grids] == [Grid(2, 2)] * 2


def test_clips_need_a_block():
    tiler = type("T", (), {"options": TilingOptions("pad")})
    with pytest.raises(SampleError, match="`video` block") as caught:
        shown_of(Sample("s", talk("What?", "A.", pictures=1), (clip(2, name="cat"),)), tiler)
    assert caught.value.reason == "video"
    assert "'cat'" in caught.value.message


def test_times_are_told_before_the_question(make_maker):
    maker = make_maker(tiling=options(frames=3, time_instruction=True))
    sample = Sample("s", talk("What is it?", "A cat.", pictures=1), (clip(5, times=(0, 0.5, 1, 1.5, 2), duration=2.5),))
    told = tell_times(sample, maker.shown(sample)).conversation.messages[0]
    sentence = (
        "The video lasts for 2.50 seconds, and 3 frames are uniformly sampled from it. These frames are located at "
        "0.00s,1.00s,2.00s.Please answer the following questions related to this video."
    )
    assert told.parts == (ImageSlot(0), f"\n{sentence}\n", "\n", "What is it?")
    spoken = maker.tokenizer.decode([token for token in maker.make(sample).seating.token_ids if token >= 0])
    assert "3 frames are uniformly sampled" in spoken
    silent = make_maker(tiling=options(frames=3)).make(sample)
    assert "uniformly" not in maker.tokenizer.decode([token for token in silent.seating.token_ids if token >= 0])


def test_a_frame_stands_for_a_second_unless_times_are_known(make_maker):
    maker = make_maker(tiling=options(frames=2, time_instruction=True))

    def sentence(*keys, **times) -> str:
        (shown,) = maker.shown(Sample("s", talk("What?", "A.", pictures=1), (clip(4, **times),)))
        return shown.sentence

    assert sentence() == time_sentence([0, 3], 4)
    assert sentence(times=(0.0, 2.0, 4.0, 8.0)) == time_sentence([0, 8], 8)


def test_folders_of_frames(make_maker, tmp_path):
    folder = tmp_path / "clips" / "cat"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (8, 8), (number * 20,) * 3).save(folder / f"frame_{number}.png")
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_bytes(b"no frame")
    maker = make_maker(tiling=options(frames=12, time_instruction=True))
    sample = Sample("s", talk("What?", "A.", pictures=1), (ClipFolder("clips/cat", str(tmp_path), 4.0),))
    example = maker.make(sample)
    assert [int(tile.max()) for tile in example.tiles] == [number * 20 for number in range(12)], "10 comes after 9"
    (shown,) = maker.shown(sample)
    assert shown.sentence.startswith("The video lasts for 3.00 seconds, and 12 frames")
    assert "0.00s,0.25s,0.50s" in shown.sentence


@pytest.mark.parametrize(
    ("reason", "path", "words"),
    [
        ("missing_image", "nowhere", "no such folder"),
        ("missing_image", "empty", "holds no pictures"),
        ("video", "a.mp4", "no video is decoded"),
        ("outside_root", "../else", "leads out"),
        ("outside_root", "link", "leads out"),
        ("url_not_allowed", "https://example.org/a", "URL"),
    ],
)
def test_folders_that_are_refused(make_maker, tmp_path, reason, path, words):
    root = tmp_path / "root"
    (root / "empty").mkdir(parents=True)
    (root / "a.mp4").write_bytes(b"")
    (tmp_path / "else").mkdir()
    (root / "link").symlink_to(tmp_path / "else")
    maker = make_maker(tiling=options())
    with pytest.raises(SampleError, match=words) as caught:
        maker.make(Sample("s", talk("What?", "A.", pictures=1), (ClipFolder(path, str(root)),)))
    assert (caught.value.reason, caught.value.sample_id) == (reason, "s")


@pytest.mark.parametrize("times", [(0.0,), (1.0, 0.0)])
def test_clips_that_are_none(times):
    with pytest.raises(LlavaKitError, match="one for each, in order"):
        clip(2, times=times)
    with pytest.raises(LlavaKitError, match="no frames"):
        Clip(())
