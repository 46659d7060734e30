from __future__ import annotations

import pytest

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import Clip, ClipFolder, Conversation, ImageFile, ImageSlot, Message, Sample
from llava_kit.errors import SampleError
from llava_kit.store.row import messages_of, row_of

ANSWER = Message("assistant", ("A.",))


def sample(*parts, images=(), **more) -> Sample:
    return Sample("s", Conversation((Message("user", parts), ANSWER), more.pop("system", None)), tuple(images), **more)


def test_ordinary_rows_stay_ordinary():
    assert row_of(sample(ImageSlot(0), "\nWhat?"), ["images/0.png"]) == {
        "id": "s",
        "image": "images/0.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
    }


def test_what_llava_s_format_cannot_say_becomes_messages():
    row = row_of(sample(ImageSlot(0), "\nIs <image> a tag?", system="Be brief."), ["0.png"])
    assert (row["system"], "conversations" in row) == ("Be brief.", False)
    assert row["messages"][0]["content"] == [
        {"type": "image", "image": "0.png"},
        {"type": "text", "text": "\nIs <image> a tag?"},
    ]


def test_notes_stand_beside():
    notes = Annotations(("A cat.",), (Box("cat", 0, 1 / 3, 1, 1),), "padded")
    row = row_of(sample("What?", annotations=notes, tags={"source": "x", "bad": {1}, "nan": float("nan")}), [])
    assert row["captions"] == ["A cat."]
    assert row["boxes"] == [{"label": "cat", "box": [0, 0.333333, 1, 1]}]
    assert (row["box_convention"], row["tags"]) == ("padded", {"source": "x"})


def test_messages_as_openai_has_them():
    row = messages_of(sample(ImageSlot(0), "\nWhat?", system="Be brief.", tags={"source": "x"}), ["0.png"])
    assert row == {
        "id": "s",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "0.png"}}, {"type": "text", "text": "\nWhat?"}],
            },
            {"role": "assistant", "content": "A."},
        ],
        "tags": {"source": "x"},
    }


def test_clips_are_videos():
    clip, picture = ClipFolder("cat", None, 2.0), ImageFile("1.jpg")
    row = row_of(sample(ImageSlot(0), "\nWhat?", images=[clip]), ["videos/0"])
    assert (row["video"], row["frames_per_second"], row["conversations"][0]["value"]) == ("videos/0", 2.0, "<image>\nWhat?")
    both = sample("Is ", ImageSlot(1), " like ", ImageSlot(0), "?", images=[clip, picture])
    row = row_of(both, ["1.jpg", "videos/0"])
    assert (row["image"], row["video"], row["conversations"][0]["value"]) == ("1.jpg", "videos/0", "Is <image> like <video>?")
    assert "messages" in row_of(sample(ImageSlot(0), "\nIs <video> a tag?", images=[clip]), ["videos/0"])


@pytest.mark.parametrize(
    ("times", "duration", "rate"),
    [((0.0, 0.25, 0.5), None, 4.0), (None, None, None), ((0.0,), 0.5, 2.0), ((0.0, 1.0), 2.0, None)],
)
def test_rates_of_clips(times, duration, rate):
    frames = (ImageFile("1.jpg"),) * (3 if times is None else len(times))
    row = row_of(sample(ImageSlot(0), images=[Clip(frames, times, duration)]), ["videos/0"])
    assert row.get("frames_per_second") == rate


def test_clips_that_no_rate_can_place():
    uneven = Clip((ImageFile("1.jpg"),) * 3, (0.0, 0.1, 0.9))
    with pytest.raises(SampleError, match="uneven times"):
        row_of(sample(ImageSlot(0), images=[uneven]), ["v"])
    two = [ClipFolder("a"), ClipFolder("b", None, 3.0)]
    with pytest.raises(SampleError, match="2 rates of frames"):
        row_of(sample(ImageSlot(0), ImageSlot(1), images=two), ["v", "w"])
