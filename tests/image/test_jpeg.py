"""JPEGs decoded at once are the very pixels that Pillow gives, and whatever is not sound is left to Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import ImageBytes, ImageFile
from llava_kit.errors import SampleError
from llava_kit.image import jpeg
from llava_kit.image.memory import whole
from llava_kit.image.reader import ReadLimits, read_picture, read_pixels

needs_simplejpeg = pytest.mark.skipif(jpeg.simplejpeg is None, reason="simplejpeg is not installed")


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(width * 4099 + height)
    across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    light = 90 + 80 * across * np.array([1, 0.4, 0]) + 60 * down * np.array([0, 0.5, 1])
    light = light + 70 * ((across + down) % 0.31 > 0.17) + random.integers(-25, 25, (height, width, 3))
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)).convert(mode)


def file_of(picture: Image.Image, **keys) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **keys)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@needs_simplejpeg
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [20, 60, 95])
def test_pixels_are_pillows(quality, subsampling, progressive):
    for size in ((1, 1), (7, 9), (16, 16), (131, 77), (640, 480)):
        data = file_of(photograph(*size), quality=quality, subsampling=subsampling, progressive=progressive)
        pixels = jpeg.decode_jpeg(data, size)
        assert pixels is not None
        assert whole(pixels).shape[2] == 4
        np.testing.assert_array_equal(pixels, by_pillow(data))


@needs_simplejpeg
def test_other_ways_to_store_colour():
    for keys in ({"keep_rgb": True}, {"restart_marker_blocks": 3}, {"optimize": True}, {"comment": b"c" * 9000}):
        data = file_of(photograph(131, 77), quality=90, **keys)
        np.testing.assert_array_equal(read_pixels(ImageBytes(data)), by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_greys_and_inks_are_left_to_pillow(mode, monkeypatch):
    monkeypatch.setattr("llava_kit.image.reader.decode_jpeg", lambda *_: pytest.fail("was decoded at once"))
    data = file_of(photograph(60, 40, mode))
    np.testing.assert_array_equal(read_pixels(ImageBytes(data)), by_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_stay_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    ref = ImageBytes(file_of(photograph(60, 40), exif=exif))
    np.testing.assert_array_equal(read_pixels(ref), read_picture(ref))


def outcome(data: bytes, installed: bool, monkeypatch) -> bytes | str:
    with monkeypatch.context() as patch:
        if not installed:
            patch.setattr(jpeg, "simplejpeg", None)
        try:
            return read_pixels(ImageBytes(data)).tobytes()
        except SampleError as error:
            return error.reason


@needs_simplejpeg
def test_damaged_files_end_as_with_pillow_alone(monkeypatch):
    """Cut short, and with a byte changed in many places: the same pixels, or the same refusal."""
    data = file_of(photograph(131, 77), quality=60)
    random = np.random.default_rng(0)
    cuts = [data[:length] for length in (len(data) // 4, len(data) // 2, len(data) - 2, len(data) - 1)]
    changed = []
    for place in random.integers(2, len(data), 300).tolist():
        changed.append(data[:place] + bytes([data[place] ^ int(random.integers(1, 256))]) + data[place + 1 :])
    refused = 0
    for one in [*cuts, *changed, data + b"more", data * 2]:
        expected = outcome(one, False, monkeypatch)
        assert outcome(one, True, monkeypatch) == expected
        refused += isinstance(expected, str)
    assert refused > 10


@needs_simplejpeg
def test_another_size_than_the_checked_one_is_not_decoded():
    data = file_of(photograph(60, 40))
    assert jpeg.decode_jpeg(data, (60, 40)) is not None
    assert jpeg.decode_jpeg(data, (40, 60)) is None
    assert jpeg.decode_jpeg(data[:100], (60, 40)) is None
    assert jpeg.decode_jpeg(b"", (60, 40)) is None


def test_limits_come_before_decoding(monkeypatch):
    monkeypatch.setattr("llava_kit.image.reader.decode_jpeg", lambda *_: pytest.fail("was decoded"))
    ref = ImageBytes(file_of(photograph(60, 40)))
    for limits in (ReadLimits(max_pixels=2399), ReadLimits(max_side=59), ReadLimits(max_bytes=100)):
        with pytest.raises(SampleError):
            read_pixels(ref, limits)


def test_files_and_several_pictures_in_one(tmp_path, monkeypatch):
    photograph(60, 40).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    ref = ImageFile("a.jpg", str(tmp_path))
    pixels = read_pixels(ref)
    np.testing.assert_array_equal(pixels, read_picture(ref))
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    np.testing.assert_array_equal(read_pixels(ref), pixels)
