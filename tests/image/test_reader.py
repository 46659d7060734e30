"""Pictures come in upright, in RGB, from where they may, or not at all."""

from __future__ import annotations

import os
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import Clip, ClipFolder, ImageBytes, ImageFile, ImagePixels
from llava_kit.errors import SampleError
from llava_kit.image.reader import ReadLimits, open_clip, picture_size, read_picture, read_pixels


def refusal(ref, limits=None) -> SampleError:
    with pytest.raises(SampleError) as caught:
        read_picture(ref, limits or ReadLimits())
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
def test_every_format_is_read(encode, quarters, format):
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    ref = encode(quarters, format, **exact.get(format, {}))
    picture = read_picture(ref)
    assert picture.mode == "RGB"
    assert picture_size(ref) == picture.size == (12, 8)
    tolerance = 3 if format == "JPEG" else 0
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(quarters)).max() <= tolerance
    np.testing.assert_array_equal(read_pixels(ref), picture)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_picture_and_size(encode, quarters, format, orientation):
    # What a camera stores that was held so: the upright picture, turned the other way.
    stored = {
        1: lambda p: p,
        2: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda p: p.rotate(180),
        4: lambda p: p.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda p: p.transpose(Image.Transpose.TRANSPOSE),
        6: lambda p: p.rotate(90, expand=True),
        7: lambda p: p.transpose(Image.Transpose.TRANSVERSE),
        8: lambda p: p.rotate(270, expand=True),
    }[orientation](quarters)
    exif = Image.Exif()
    exif[0x0112] = orientation
    ref = encode(stored.resize((stored.width * 8, stored.height * 8), 0), format, exif=exif)
    picture = read_picture(ref)
    assert picture.size == picture_size(ref) == (96, 64)
    corners = [picture.getpixel(at) for at in ((10, 10), (86, 10), (10, 54), (86, 54))]
    for found, expected in zip(corners, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        assert np.abs(np.subtract(found, expected)).max() < 12


def test_broken_exif_does_not_lose_the_picture(encode, quarters):
    ref = encode(quarters, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert read_picture(ref).size == picture_size(ref) == (12, 8)


def test_first_picture_of_several_is_taken(encode, quarters):
    others = [Image.new("RGB", (12, 8), "black")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        ref = encode(quarters, format, save_all=True, append_images=others)
        assert np.asarray(read_picture(ref))[1, 1, 0] > 200, format
    phone = encode(quarters, "MPO", save_all=True, append_images=others)
    assert phone.data.startswith(b"\xff\xd8\xff")
    assert read_picture(phone).size == (12, 8)


def test_drawn_pictures_come_as_they_are():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    ref = ImagePixels(lambda: pixels, (5, 4))
    assert read_pixels(ref) is pixels
    np.testing.assert_array_equal(read_picture(ref), pixels)
    assert picture_size(ref) == (5, 4)


@pytest.mark.parametrize(
    "drawn", [np.zeros((5, 4, 3), np.uint8), np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8)]
)
def test_drawn_pictures_are_held_to_their_word(drawn):
    error = refusal(ImagePixels(lambda: drawn, (5, 4), "scene 3"))
    assert error.reason == "unreadable_image"
    assert "'scene 3'" in str(error)
    assert "[4, 5, 3]" in str(error)


def test_size_comes_from_the_header_alone(encode):
    whole = encode(Image.new("RGB", (640, 480)), "JPEG").data
    start = ImageBytes(whole[:700], "start.jpg")
    assert picture_size(start) == (640, 480)
    assert refusal(start).reason == "unreadable_image"


def test_limits_are_checked_on_the_header(encode):
    ref = encode(Image.effect_noise((100, 50), 80), "PNG")
    assert refusal(ref, ReadLimits(max_pixels=4999)).reason == "too_many_pixels"
    assert refusal(ref, ReadLimits(max_side=99)).reason == "too_many_pixels"
    assert refusal(ref, ReadLimits(max_bytes=10)).reason == "too_many_bytes"
    assert refusal(ref, ReadLimits(formats=("JPEG",))).reason == "format_not_allowed"
    with pytest.raises(SampleError, match="100 x 50 pixels; allowed are 4,999"):
        picture_size(ref, ReadLimits(max_pixels=4999))
    assert read_picture(ref, ReadLimits(max_pixels=5000, max_side=100)).size == (100, 50)


def test_dense_pictures_are_refused_only_when_large(encode):
    flat = encode(Image.new("RGB", (1000, 900)), "PNG")
    assert read_picture(flat).size == (1000, 900)
    assert refusal(flat, ReadLimits(bomb_pixels=800_000)).reason == "too_many_pixels"
    page = encode(Image.new("1", (1000, 900)), "TIFF", compression="group4")
    assert read_picture(page, ReadLimits(bomb_pixels=800_000)).size == (1000, 900)


def test_files_with_and_without_a_root(tmp_path, monkeypatch, quarters):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    quarters.save(folder / "deep" / "ä b.png")
    quarters.save(tmp_path / "outside.png")
    inside = ImageFile("deep/ä b.png", str(folder))
    assert read_picture(inside).size == (12, 8)
    assert read_picture(ImageFile(str(folder / "deep" / "ä b.png"), str(folder))).size == (12, 8)
    assert read_picture(ImageFile("deep/../deep/ä b.png", str(folder))).size == (12, 8)
    assert read_picture(ImageFile(str(tmp_path / "outside.png"))).size == (12, 8)
    monkeypatch.chdir(tmp_path)
    assert read_picture(ImageFile("deep/ä b.png", "images")).size == (12, 8)
    error = refusal(ImageFile("deep/missing.png", str(folder)))
    assert error.reason == "missing_image"
    assert "deep/missing.png" in str(error)
    assert str(folder) in str(error)


def test_a_folder_linked_elsewhere_may_be_the_root(tmp_path, quarters):
    (tmp_path / "real").mkdir()
    quarters.save(tmp_path / "real" / "a.png")
    os.symlink(tmp_path / "real", tmp_path / "linked")
    assert read_picture(ImageFile("a.png", str(tmp_path / "linked"))).size == (12, 8)


def test_errors_pass_between_processes_and_stay_short(encode):
    error = refusal(ImageFile("x" * 3000 + ".png"))
    assert len(str(error)) < 400
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, str(again)) == (error.reason, str(error))


def test_threads_read_at_once(encode, quarters):
    ref, wrong = encode(quarters), []

    def read():
        for _ in range(50):
            if read_pixels(ref).tobytes() != quarters.tobytes():
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_clip_read_as_a_picture_is_its_first_frame(tmp_path):
    for number, colour in ((10, "red"), (9, "lime")):
        Image.new("RGB", (4, 2 + number), colour).save(tmp_path / f"f{number}.png")
    folder = ClipFolder(str(tmp_path))
    clip = Clip((ImageFile(str(tmp_path / "f9.png")), ImageFile(str(tmp_path / "f10.png"))))
    for ref in (folder, clip):
        assert picture_size(ref) == read_picture(ref).size == (4, 11)
        assert read_pixels(ref)[0, 0].tolist() == [0, 255, 0]
    assert [frame.path for frame in open_clip(folder).frames] == [frame.path for frame in clip.frames]
    assert open_clip(clip) is clip
