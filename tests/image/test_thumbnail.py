from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from llava_kit.core.conversation import ImageBytes, ImageFile, ImagePixels
from llava_kit.errors import SampleError
from llava_kit.image.reader import read_picture
from llava_kit.image.thumbnail import read_thumbnail


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def file_of(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_it_is_the_picture_made_small(kind, mode):
    data = file_of(smooth((300, 200)).convert(mode), kind)
    seen = read_thumbnail(ImageBytes(data), 32)
    assert (seen.size, seen.format, seen.num_bytes) == ((300, 200), kind, len(data))
    whole = np.asarray(read_picture(ImageBytes(data)).resize((32, 32), Image.Resampling.BOX), np.int16)
    assert seen.pixels is not None
    assert np.abs(seen.pixels.astype(np.int16) - whole).mean() < 3


def test_a_turned_photograph_is_upright():
    exif = Image.Exif()
    exif[274] = 6
    data = file_of(smooth((300, 200)), "JPEG", exif=exif.tobytes(), quality=95)
    seen = read_thumbnail(ImageBytes(data), 32)
    assert seen.size == (200, 300) == read_thumbnail(ImageBytes(data), 32, decode=False).size
    whole = np.asarray(read_picture(ImageBytes(data)).resize((32, 32), Image.Resampling.BOX), np.int16)
    assert seen.pixels is not None
    assert np.abs(seen.pixels.astype(np.int16) - whole).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_file_that_breaks_off(kind):
    data = file_of(smooth((300, 200)).effect_spread(3), kind)
    cut = ImageBytes(data[: len(data) // 2])
    with pytest.raises(SampleError) as error:
        read_thumbnail(cut, 32)
    assert error.value.reason in ("truncated_image", "unreadable_image")
    if kind == "JPEG":  # closed as if it were whole: most decoders fill it with grey and say nothing
        closed = ImageBytes(cut.data + b"\xff\xd9")
        with pytest.raises(SampleError, match="cut off or damaged"):
            read_thumbnail(closed, 32)
        assert read_thumbnail(closed, 32, decode=False).size == (300, 200)


def test_stray_bytes_are_no_damage():
    data = file_of(smooth((300, 200)), "JPEG")
    assert read_thumbnail(ImageBytes(data[:-2] + bytes(3) + data[-2:]), 32).pixels is not None
    assert read_thumbnail(ImageBytes(data + b"behind the end"), 32).pixels is not None


def test_the_digest_is_of_the_bytes(tmp_path):
    one, other = file_of(smooth((30, 20)), "PNG"), file_of(smooth((30, 20), seed=1), "PNG")
    (tmp_path / "one.png").write_bytes(one)
    digest = read_thumbnail(ImageBytes(one), 32).digest
    assert digest == read_thumbnail(ImageFile("one.png", str(tmp_path)), 32).digest
    assert digest != read_thumbnail(ImageBytes(other), 32).digest


def test_a_drawn_picture():
    pixels = np.full((20, 30, 3), 7, np.uint8)
    seen = read_thumbnail(ImagePixels(lambda: pixels, (30, 20)), 32)
    assert (seen.size, seen.format, seen.num_bytes) == ((30, 20), "pixels", 1800)
    assert seen.pixels is not None
    assert (seen.pixels == 7).all()
