from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from llava_kit.core.conversation import ImagePixels
from llava_kit.data import tokenize
from llava_kit.data.look import look_at
from llava_kit.errors import SampleError
from llava_kit.splice.layout import count_newlines, count_rows
from llava_kit.view.gallery import Gallery
from llava_kit.view.pictures import encoded

from .conftest import SIDE, THING, Rows


def test_every_line_and_sample_is_json(gallery):
    for number in range(gallery.count):
        for told in (gallery.row(number), gallery.detail(number)):
            assert json.loads(json.dumps(told, allow_nan=False))["number"] == number
    json.dumps(gallery.about(), allow_nan=False)


def test_a_line_of_the_list(gallery):
    row = gallery.row(0)
    assert (row["id"], row["source"], row["pictures"], row["boxes"], row["turns"]) == ("wide-padded", "regions", 1, 2, 2)
    assert row["question"] == "Where?"
    assert row["problem"] is None


@pytest.mark.parametrize(
    ("number", "reason"),
    [(8, "missing_image"), (9, None), (10, "bad_row"), (11, "source_failed"), (12, "lone_surrogate"), (13, "video")],
)
def test_what_is_wrong_is_told(gallery, number, reason):
    problem = gallery.row(number)["problem"]
    assert (problem and problem["reason"]) == reason
    assert gallery.detail(number)["problem"] == problem


def test_a_tokenizer_that_falls_over_is_shown_as_well(rows, lens, monkeypatch):
    def fall(*_):
        raise ValueError("no merges")

    monkeypatch.setattr(tokenize, "_codec", fall)
    problem = Gallery(Rows(rows), lens=lens).detail(0)["problem"]
    assert problem["reason"] == "not_tokenised"
    assert "cannot be tokenised: ValueError: no merges" in problem["message"]


def test_a_truncated_picture_shows_when_it_is_read(gallery):
    with pytest.raises(SampleError, match="damaged"):
        gallery.picture(9, 0)


@pytest.mark.parametrize(("number", "index"), [(-1, 0), (120, 0), (0, 1), (0, -1), (6, 0)])
def test_what_is_not_there(gallery, number, index):
    with pytest.raises(IndexError):
        gallery.picture(number, index)


def test_boxes_come_in_shares_of_the_picture(gallery):
    for number, convention in ((0, "padded"), (1, "padded"), (2, "picture"), (3, "picture")):
        detail = gallery.detail(number)
        assert detail["convention"] == convention
        assert detail["boxes"][0]["box"] == list(THING[1:])
        assert detail["text_boxes"][0][convention] == pytest.approx(THING[1:], abs=2e-4)


def test_tokens_are_those_that_are_learnt(gallery, lens, rows):
    for number in (0, 5, 6, 7):
        tokens, sample = gallery.detail(number)["tokens"], rows[number]
        shown = lens.maker.shown(sample)
        lengths = [count_rows(one.grid, SIDE) for one in shown]
        look = look_at(sample, lens.maker.template, lens.maker.tokenizer, picture_lengths=lengths, max_length=400)
        kept = [piece for piece in tokens["pieces"] if not piece[2]]
        assert [kind == 1 for _, kind, _ in kept] == look.trainable
        assert [kind == 2 for _, kind, _ in kept] == [token < 0 for token in look.token_ids]
        assert tokens["targets"] == sum(look.trainable) == look.num_targets
        assert tokens["newlines"] == sum(count_newlines(one.grid, SIDE) for one in shown)
        assert tokens["text"] + tokens["visual"] + tokens["newlines"] == tokens["length"] == look.length


def test_what_max_length_leaves_out_is_shown(gallery):
    detail = gallery.detail(5)
    tokens = detail["tokens"]
    assert 0 < tokens["dropped_turns"] < len(detail["turns"])
    assert tokens["length"] <= tokens["max_length"] < tokens["whole_length"]
    flags = [left_out for _, _, left_out in tokens["pieces"]]
    assert flags == sorted(flags)
    assert 0 < sum(flags) < len(flags)


def test_a_refused_sample_still_shows_its_tokens(rows, lens):
    maker = type(lens.maker)(lens.maker.template, lens.maker.tokenizer, lens.maker.tiler, SIDE, 400, "drop_sample")
    tokens = Gallery(Rows(rows), lens=type(lens)("toy", lens.plan, lens.side, maker)).detail(5)["tokens"]
    assert (tokens["status"], tokens["length"]) == ("too_long", 0)
    assert all(left_out for _, _, left_out in tokens["pieces"])


def test_how_a_picture_is_cut(gallery, lens):
    cut = gallery.detail(0)["pictures"][0]["cut"]
    place = lens.plan.geometry((300, 100))
    assert (cut["canvas"], cut["resized"], cut["offset"]) == ([*place.canvas], [*place.resized], [*place.offset])
    assert cut["tiles"] == [2, 1]
    assert cut["overview"] == {"canvas": [48, 48], "resized": [48, 48], "offset": [0, 0], "rows": 9}
    assert cut["rows"] == count_rows(lens.plan.grid((300, 100)), SIDE)


def test_frames_of_a_clip(rows, folder):
    gallery = Gallery(Rows(rows))
    (clip,) = gallery.detail(13)["pictures"]
    assert (clip["clip"], clip["frames"], clip["size"]) == (True, [0, 1, 2], [64, 48])
    red = [Image.open(io.BytesIO(gallery.picture(13, 0, frame)[0])).getpixel((0, 0))[0] for frame in range(3)]
    assert red == [0, 80, 160]
    with pytest.raises(SampleError, match="no frame 3"):
        gallery.picture(13, 0, 3)


def test_without_a_recipe_there_are_no_tokens(rows):
    gallery = Gallery(Rows(rows), 7)
    detail = gallery.detail(0)
    assert detail["tokens"] is detail["pictures"][0]["cut"] is None
    assert gallery.about()["count"] == 7


@pytest.mark.parametrize(
    ("size", "type", "shown"), [((100, 50), "image/png", (100, 50)), ((1, 20000), "image/jpeg", (1, 1600))]
)
def test_pictures_are_scaled_down_and_encoded_anew(size, type, shown):
    import numpy as np

    drawn = ImagePixels(lambda: np.zeros((size[1], size[0], 3), np.uint8), size)
    body, found = encoded(drawn)
    assert (found, Image.open(io.BytesIO(body)).size) == (type, shown)
