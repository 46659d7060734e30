from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import Clip, ImageBytes, ImageFile, ImagePixels
from llava_kit.errors import SampleError
from llava_kit.image.reader import read_pixels
from llava_kit.store.pictures import ENDINGS, PictureFile, PictureStore, clip_files, picture_file


def encoded(format: str, size=(6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "orange").save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ENDINGS)
def test_files_keep_their_bytes_and_are_called_what_they_are(tmp_path, format):
    data = encoded(format)
    (tmp_path / "picture.xyz").write_bytes(data)
    for ref in (ImageFile("picture.xyz", str(tmp_path)), ImageBytes(data)):
        assert picture_file(ref) == PictureFile(data, ENDINGS[format])


def test_drawn_pictures_lose_nothing():
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    file = picture_file(ImagePixels(lambda: pixels, (5, 4)))
    assert file.ending == "png"
    assert np.array_equal(read_pixels(ImageBytes(file.data)), pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>", "unreadable_image"),
        (b"", "unreadable_image"),
        (b"%PDF-1.4", "format_not_allowed"),
        (b"\xff\xd8\xff", "unreadable_image"),
    ],
)
def test_what_is_no_picture_is_not_copied(tmp_path, data, reason):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(SampleError) as caught:
        picture_file(ImageFile("a.jpg", str(tmp_path)))
    assert caught.value.reason == reason


def test_a_picture_is_written_once(tmp_path):
    store = PictureStore(tmp_path / "out", tmp_path)
    name = store.add(PictureFile(b"one", "jpg"))
    inode = os.stat(tmp_path / "out" / name).st_ino
    assert store.add(PictureFile(b"one", "jpg")) == name
    assert os.stat(tmp_path / "out" / name).st_ino == inode
    assert store.add(PictureFile(b"two", "jpg")) != name
    assert name.startswith("images/")
    assert (tmp_path / "out" / name).read_bytes() == b"one"
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_a_file_that_was_cut_short_is_written_again(tmp_path):
    store = PictureStore(tmp_path, tmp_path)
    name = store.add(PictureFile(b"one", "jpg"))
    (tmp_path / name).write_bytes(b"o")
    assert store.add(PictureFile(b"one", "jpg")) == name
    assert (tmp_path / name).read_bytes() == b"one"


def test_clips_are_folders_of_frames(tmp_path):
    store = PictureStore(tmp_path / "out", tmp_path)
    frames = clip_files(Clip(tuple(ImageBytes(encoded("PNG", (2 + n, 2))) for n in range(3))))
    name = store.add_clip(frames)
    assert sorted(os.listdir(tmp_path / "out" / name)) == ["00000.png", "00001.png", "00002.png"]
    assert store.add_clip(frames[::-1]) != name
    split = [PictureFile(b"ab", "jpg"), PictureFile(b"c", "jpg")], [PictureFile(b"a", "jpg"), PictureFile(b"bc", "jpg")]
    assert store.add_clip(split[0]) != store.add_clip(split[1])
